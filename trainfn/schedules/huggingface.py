"""The learning-rate schedules of Hugging Face's transformers by their names, as functions of the step alone.

    lr = get_schedule("cosine_with_min_lr", 3e-4, warmup=100, steps=2000, min_lr_rate=0.1)

The names and their own arguments are those of `transformers.get_scheduler` (its versions 4.57 to 5.10); `peak` is the
optimizer's learning rate there.  A linear warm-up from 0, whose first update moves nothing, leads to the peak at step
`warmup`, and `steps` counts all steps, the warm-up too.  A step before 0 counts as step 0.  With x, the part of the
steps from `warmup` to `steps` that is behind:

    constant, constant_with_warmup   peak
    linear                           peak (1 - x)
    cosine                           peak (1 + cos(2 pi num_cycles x)) / 2
    cosine_with_restarts             peak (1 + cos(pi frac(num_cycles x))) / 2, and 0 at the end
    polynomial                       lr_end + (peak - lr_end) (1 - x)^power
    inverse_sqrt                     peak / sqrt((step - warmup + timescale) / timescale), without end
    cosine_with_min_lr               cosine to min_lr, or to min_lr_rate peak
    cosine_warmup_with_min_lr        the same one step early: it ends in the last update, and no update is lost at 0
    warmup_stable_decay              up from min_lr_ratio peak, level, and down to it, each way in a shape of its own

reduce_lr_on_plateau and greedy follow a metric: they are the machines `trainfn.reduce_on_plateau` and `trainfn.greedy`.

Departures, each to what upstream's documentation says: after its last step a schedule stays where it is, where cosines
of upstream climb again; inverse_sqrt takes its `timescale`, which older versions of upstream drop; every schedule
refuses arguments it does not know, and phases that are longer together than all steps.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from trainfn.schedules import decay
from trainfn.schedules.cycles import warmup_stable_decay
from trainfn.schedules.schedule import Count, Schedule, Span, schedule
from trainfn.schedules.shapes import between, part_of_way
from trainfn.trace import Static
from trainfn.verbs import floor, maximum, where


def get_schedule(
    name: str, peak: Any, warmup: float | None = None, steps: float | None = None, **specific: Any
) -> Schedule:
    """The schedule of that name.

    warmup, steps: numbers of steps, which a schedule that does not need them ignores, as upstream's do.
    specific: the schedule's own arguments, upstream's scheduler_specific_kwargs.
    """
    name = getattr(name, "value", name)  # a member of transformers.SchedulerType
    if name in METRIC:
        raise ValueError(f"get_schedule: {name} follows a metric, not the step: trainfn.{METRIC[name]}() is a machine.")
    if name not in SCHEDULES:
        known = ", ".join(map(repr, [*SCHEDULES, *METRIC]))
        raise ValueError(f"get_schedule: there is no schedule {name!r}; there are {known}.")
    family = SCHEDULES[name]
    parameters = inspect.signature(family).parameters
    counts = {k: v for k, v in zip(COUNTS, (warmup, steps), strict=True) if k in parameters}
    for parameter, value in counts.items():
        if value is None and parameters[parameter].default is inspect.Parameter.empty:
            raise ValueError(f"get_schedule: {name} needs {parameter}, transformers' {COUNTS[parameter]}.")
    return family(peak, **counts, **specific)


def _after_warmup(step: Any, peak: Any, warmup: Any, value: Any) -> Any:
    """`value`, but a line from 0 to `peak` in the first `warmup` steps."""
    step = maximum(step, 0)
    return where(step < warmup, between(0.0, peak, part_of_way(step, 0.0, warmup), "linear"), value)


def _warmup_fits(warmup: Any, steps: Any, **_: Any) -> None:
    if warmup > steps:
        raise ValueError(f"warmup = {warmup} is longer than all steps = {steps}: the schedule would end in it.")


@schedule
def constant_with_warmup(step: Any, *, peak: float, warmup: Count) -> Any:
    """constant_with_warmup: `peak` after a linear warm-up."""
    return _after_warmup(step, peak, warmup, peak)


@schedule(check=_warmup_fits)
def linear_with_warmup(step: Any, *, peak: float, warmup: Count, steps: Span) -> Any:
    """linear: peak (1 - x) after a linear warm-up, then 0."""
    return warmup_stable_decay.function(step, peak=peak, warmup=warmup, steps=steps, cooldown=steps - warmup)


@schedule(check=_warmup_fits)
def cosine_with_warmup(step: Any, *, peak: float, warmup: Count, steps: Span, num_cycles: float = 0.5) -> Any:
    """cosine: `num_cycles` waves from the peak after a linear warm-up; half a one, to 0, unless given."""
    return _after_warmup(step, peak, warmup, _waves(peak, 0.0, part_of_way(step, warmup, steps), num_cycles))


def _waves(peak: Any, low: Any, x: Any, num_cycles: Any) -> Any:
    return between(peak, low, 2 * num_cycles * x, "cosine")


@schedule(check=_warmup_fits)
def cosine_with_restarts(step: Any, *, peak: float, warmup: Count, steps: Span, num_cycles: float = 1) -> Any:
    """cosine_with_restarts: `num_cycles` half cosines from the peak to 0 after a linear warm-up, then 0.

    Restarts are found by a quotient of whole numbers, which never rounds up to the next cycle, nor down to the last.
    """
    cycle = num_cycles * maximum(step - warmup, 0) / maximum(steps - warmup, 1)
    falling = between(peak, 0.0, cycle - floor(cycle), "cosine")
    return where(step < steps, _after_warmup(step, peak, warmup, falling), 0.0)


def _end_is_below(peak: Any, warmup: Any, steps: Any, lr_end: Any, **_: Any) -> None:
    _warmup_fits(warmup, steps)
    if not lr_end < peak:
        raise ValueError(f"polynomial: lr_end = {lr_end} must be below the peak, {peak}.")


@schedule(check=_end_is_below)
def polynomial_with_warmup(
    step: Any, *, peak: float, warmup: Count, steps: Span, lr_end: float = 1e-7, power: float = 1.0
) -> Any:
    """polynomial: lr_end + (peak - lr_end) (1 - x)^power after a linear warm-up, then `lr_end`."""
    rest = maximum(steps - warmup, 1)
    falling = decay.polynomial.function(step - warmup, start=peak, stop=lr_end, steps=rest, power=power)
    return _after_warmup(step, peak, warmup, falling)


@schedule
def inverse_sqrt_with_warmup(step: Any, *, peak: float, warmup: Count, timescale: Span | None = None) -> Any:
    """inverse_sqrt: peak / sqrt((step - warmup + timescale) / timescale) after a linear warm-up, without end.

    `timescale` is the warm-up's length unless given, and 10,000 where there is none.
    """
    if timescale is None:
        timescale = where(warmup > 0, warmup, 10_000)
    falling = decay.inverse_sqrt.function(step - warmup, peak=peak, timescale=timescale)
    return _after_warmup(step, peak, warmup, falling)


def _one_minimum(warmup: Any, steps: Any, min_lr: Any, min_lr_rate: Any, **_: Any) -> None:
    _warmup_fits(warmup, steps)
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError("give one of min_lr, a learning rate, and min_lr_rate, a part of the peak.")


def _minimum(peak: Any, min_lr: Any, min_lr_rate: Any) -> Any:
    return peak * min_lr_rate if min_lr is None else min_lr


@schedule(check=_one_minimum)
def cosine_with_min_lr(
    step: Any,
    *,
    peak: float,
    warmup: Count,
    steps: Span,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Any:
    """cosine_with_min_lr: cosine between the peak and `min_lr`, or `min_lr_rate` times the peak."""
    low = _minimum(peak, min_lr, min_lr_rate)
    return _after_warmup(step, peak, warmup, _waves(peak, low, part_of_way(step, warmup, steps), num_cycles))


@schedule(check=_one_minimum)
def cosine_warmup_with_min_lr(
    step: Any,
    *,
    peak: float,
    warmup: Count,
    steps: Span,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Any:
    """cosine_warmup_with_min_lr: as cosine_with_min_lr, with t = step + 1 in place of the step.

    The warm-up is peak t / warmup or, given the part of the peak `warmup_lr_rate` it starts from, a line from there to
    the peak at t = warmup; the minimum is reached at t = steps, the last update.
    """
    step = maximum(step, 0)
    low = _minimum(peak, min_lr, min_lr_rate)
    start = peak / maximum(warmup, 1) if warmup_lr_rate is None else peak * warmup_lr_rate
    rising = decay.linear.function(step, start=start, stop=peak, steps=maximum(warmup - 1, 1))
    falling = _waves(peak, low, part_of_way(step + 1, warmup, steps), num_cycles)
    return where(step < warmup, rising, falling)


def _phases_fit(warmup: Any, num_decay_steps: Any, steps: Any, num_stable_steps: Any, **_: Any) -> None:
    if steps is None and num_stable_steps is None:
        raise ValueError("warmup_stable_decay needs steps, the number of all, or num_stable_steps.")
    if num_stable_steps is None and warmup + num_decay_steps > steps:
        raise ValueError(
            f"warmup = {warmup} and num_decay_steps = {num_decay_steps} are longer together than all steps = {steps}."
        )


@schedule(check=_phases_fit)
def wsd(
    step: Any,
    *,
    peak: float,
    warmup: Count,
    num_decay_steps: Count,
    steps: Span | None = None,
    num_stable_steps: Count | None = None,
    warmup_type: Static[str] = "linear",
    decay_type: Static[str] = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> Any:
    """warmup_stable_decay: up to `peak`, level, down in `num_decay_steps` steps, from and to min_lr_ratio times it.

    The way up, of `warmup` steps, is a way down backwards.  Types are "linear", "cosine" and "1-sqrt"; `num_cycles` is
    of a cosine's decay.  What of `steps` is left is level, unless `num_stable_steps` are given, which then count alone.
    """
    if num_stable_steps is None:
        assert steps is not None
        num_stable_steps = steps - warmup - num_decay_steps
    step, low = maximum(step, 0), min_lr_ratio * peak
    begin = warmup + num_stable_steps
    end = begin + num_decay_steps
    rising = between(peak, low, 1 - part_of_way(step, 0.0, warmup), warmup_type)
    x = part_of_way(step, begin, end)
    falling = _waves(peak, low, x, num_cycles) if decay_type == "cosine" else between(peak, low, x, decay_type)
    return where(step < warmup, rising, where(step < end, falling, low))


SCHEDULES: Mapping[str, Callable[..., Schedule]] = {
    "linear": linear_with_warmup,
    "cosine": cosine_with_warmup,
    "cosine_with_restarts": cosine_with_restarts,
    "polynomial": polynomial_with_warmup,
    "constant": decay.constant,
    "constant_with_warmup": constant_with_warmup,
    "inverse_sqrt": inverse_sqrt_with_warmup,
    "cosine_with_min_lr": cosine_with_min_lr,
    "cosine_warmup_with_min_lr": cosine_warmup_with_min_lr,
    "warmup_stable_decay": wsd,
}
COUNTS = {"warmup": "num_warmup_steps", "steps": "num_training_steps"}
METRIC = {"reduce_lr_on_plateau": "reduce_on_plateau", "greedy": "greedy"}
