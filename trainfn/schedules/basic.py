"""The first schedules: closed forms of the step, all float64."""

from __future__ import annotations

import itertools
from typing import Any

from trainfn.schedules.schedule import Schedule, schedule
from trainfn.verbs import cos, floor, maximum, minimum, pi, where


@schedule
def constant(step: Any, *, value: Any) -> Any:
    """`value` at every step."""
    return value


@schedule
def linear(step: Any, *, start: Any, stop: Any, steps: Any) -> Any:
    """(1 - x) start + x stop with x = min(step, steps) / steps: a straight line, then `stop`."""
    x = minimum(step, steps) / steps
    return (1 - x) * start + x * stop


@schedule
def warmup(step: Any, *, peak: Any, steps: Any, start: Any = 0.0) -> Any:
    """A straight line from `start` to `peak` over `steps` steps, then `peak`."""
    x = minimum(step, steps) / steps
    return (1 - x) * start + x * peak


@schedule
def polynomial(step: Any, *, start: Any, stop: Any, steps: Any, power: Any = 1.0) -> Any:
    """stop + (start - stop) (1 - x)^power with x = min(step, steps) / steps."""
    x = minimum(step, steps) / steps
    return stop + (start - stop) * (1 - x) ** power


@schedule
def exponential(step: Any, *, start: Any, decay: Any, steps: Any = 1) -> Any:
    """start * decay^(step / steps): multiplied by `decay` every `steps` steps, continuously."""
    return start * decay ** (step / steps)


@schedule
def step_decay(step: Any, *, start: Any, factor: Any, every: Any) -> Any:
    """start * factor^floor(step / every): multiplied by `factor` after every `every` steps, at once."""
    return start * factor ** floor(step / every)


@schedule
def cosine(step: Any, *, peak: Any, steps: Any, floor: Any = 0.0) -> Any:
    """floor + (peak - floor) (1 + cos(pi x)) / 2 with x = min(step, steps) / steps; then `floor`.

    Loshchilov & Hutter, arXiv:1608.03983v5, eq. 5, without restarts.
    """
    x = minimum(step, steps) / steps
    return floor + (peak - floor) * (1 + cos(pi * x)) / 2


@schedule
def _sequence(step: Any, *, schedules: Any, boundaries: Any) -> Any:
    value = _at(schedules[0], step)
    for part, begin in zip(schedules[1:], boundaries, strict=True):
        value = where(step < begin, value, _at(part, maximum(step - begin, 0)))
    return value


def sequence(*schedules: Schedule | float, boundaries: Any) -> Schedule:
    """One schedule after another: the k-th begins at `boundaries[k-1]` and counts its steps from there.

    A number stands for a constant.  There is one boundary fewer than schedules, in rising order.
    """
    boundaries = list(boundaries)
    if not schedules or len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"sequence: {len(schedules)} schedules need {max(len(schedules) - 1, 0)} boundaries; "
            f"{len(boundaries)} were given."
        )
    rises = all(a < b for a, b in itertools.pairwise(boundaries))
    if boundaries and not (rises and boundaries[0] >= 0):
        raise ValueError(f"sequence: boundaries {boundaries} must rise and not be negative.")
    return _sequence(schedules=schedules, boundaries=boundaries)


def warmup_cosine(peak: Any, warmup: int, steps: int, floor: float = 0.0, start: float = 0.0) -> Schedule:
    """A linear warm-up of `warmup` steps from `start` to `peak`, then a cosine to `floor`, reached at step `steps`.

    `steps` counts the warm-up, as in optax's warmup_cosine_decay_schedule.
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup_cosine: warmup = {warmup} must be at least 0 and below steps = {steps}.")
    decay = cosine(peak=peak, steps=steps - warmup, floor=floor)
    return sequence(linear(start=start, stop=peak, steps=warmup), decay, boundaries=[warmup]) if warmup else decay


def _at(part: Any, step: Any) -> Any:
    return part(step) if isinstance(part, Schedule) else part
