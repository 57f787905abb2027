"""The first schedules: closed forms of the step, all float64.

A step before 0 counts as step 0: each has its first value there.  What it has after its last step is said below.
"""

from __future__ import annotations

import itertools
from typing import Any

from trainfn.schedules.schedule import Schedule, schedule
from trainfn.verbs import clip, cos, floor, maximum, pi, where


@schedule
def constant(step: Any, *, value: float) -> Any:
    """`value` at every step."""
    return value


@schedule
def linear(step: Any, *, start: float, stop: float, steps: float) -> Any:
    """(1 - x) start + x stop with x = clip(step, 0, steps) / steps: a straight line, then `stop`."""
    x = clip(step, 0, steps) / steps
    return (1 - x) * start + x * stop


@schedule
def warmup(step: Any, *, peak: float, steps: float, start: float = 0.0) -> Any:
    """A straight line from `start` to `peak` over `steps` steps, then `peak`.

    At step 0, the first update, it is `start`: with 0 that update moves nothing.  A warm-up that is peak / steps there
    and `peak` at step steps - 1, as (t + 1) / steps in a LambdaLR, has start = peak / steps and one step less.
    """
    x = clip(step, 0, steps) / steps
    return (1 - x) * start + x * peak


@schedule
def polynomial(step: Any, *, start: float, stop: float, steps: float, power: float = 1.0) -> Any:
    """stop + (start - stop) (1 - x)^power with x = clip(step, 0, steps) / steps; then `stop`."""
    x = clip(step, 0, steps) / steps
    return stop + (start - stop) * (1 - x) ** power


@schedule
def exponential(step: Any, *, start: float, decay: float, steps: float = 1) -> Any:
    """start * decay^(step / steps): multiplied by `decay` every `steps` steps, continuously and without end."""
    return start * decay ** (maximum(step, 0) / steps)


@schedule
def step_decay(step: Any, *, start: float, factor: float, every: float) -> Any:
    """start * factor^floor(step / every): multiplied by `factor` after every `every` steps, at once, without end."""
    return start * factor ** floor(maximum(step, 0) / every)


@schedule
def cosine(step: Any, *, peak: float, steps: float, floor: float = 0.0) -> Any:
    """floor + (peak - floor) (1 + cos(pi x)) / 2 with x = clip(step, 0, steps) / steps; then `floor`.

    Loshchilov & Hutter, arXiv:1608.03983v5, eq. 5, without restarts.
    """
    x = clip(step, 0, steps) / steps
    return floor + (peak - floor) * (1 + cos(pi * x)) / 2


def _boundaries_fit(*schedules: Any, boundaries: Any) -> None:
    if any(isinstance(part, list) for part in schedules):
        raise TypeError("sequence: give the schedules one by one, as in sequence(first, second, boundaries=[100]).")
    if not schedules or len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"sequence: {len(schedules)} schedules need {max(len(schedules) - 1, 0)} boundaries; "
            f"{len(boundaries)} were given."
        )
    if not all(a < b for a, b in itertools.pairwise(boundaries)):
        raise ValueError(f"sequence: boundaries {boundaries} must rise.")


@schedule(check=_boundaries_fit)
def sequence(step: Any, *schedules: Any, boundaries: list[float]) -> Any:
    """One schedule after another: the k-th begins at `boundaries[k-1]` and counts its steps from there.

    A number stands for a constant.  There is one boundary fewer than schedules, in rising order.
    """
    value = _at(schedules[0], step)
    for part, begin in zip(schedules[1:], boundaries, strict=True):
        value = where(step < begin, value, _at(part, maximum(step - begin, 0)))
    return value


def _at(part: Any, step: Any) -> Any:
    return part(step) if isinstance(part, Schedule) else part


def _warmup_is_shorter(peak: Any, warmup: Any, steps: Any, **_: Any) -> None:
    if not warmup < steps:
        raise ValueError(f"warmup_cosine: warmup = {warmup} must be at least 0 and below steps = {steps}.")


@schedule(check=_warmup_is_shorter)
def warmup_cosine(
    step: Any, *, peak: float, warmup: float, steps: float, floor: float = 0.0, start: float = 0.0
) -> Any:
    """A linear warm-up of `warmup` steps from `start` to `peak`, then a cosine to `floor`, reached at step `steps`.

    `steps` counts the warm-up, as in optax's warmup_cosine_decay_schedule; then `floor`.  The first update has `start`.
    """
    step = maximum(step, 0)
    steps_up = where(warmup > 0, warmup, 1)  # what is not selected must not be NaN either: its derivative would be
    rising = linear.function(step, start=start, stop=peak, steps=steps_up)
    falling = cosine.function(step - warmup, peak=peak, steps=steps - warmup, floor=floor)
    return where(step < warmup, rising, falling)
