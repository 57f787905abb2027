"""Decay from a first value: constant, linear, polynomial, exponential, in steps, with the inverse of time.

A step before 0 counts as step 0: each has its first value there.  What it has after its last step is said below.
"""

from __future__ import annotations

import itertools
from typing import Any

from trainfn.schedules.schedule import Count, Span, schedule
from trainfn.schedules.shapes import along
from trainfn.trace import Static
from trainfn.verbs import clip, floor, maximum, minimum, sqrt, where


@schedule
def constant(step: Any, *, value: float) -> Any:
    """`value` at every step."""
    return value


@schedule
def linear(step: Any, *, start: float, stop: float, steps: Span) -> Any:
    """(1 - x) start + x stop with x = clip(step, 0, steps) / steps: a straight line, then `stop`."""
    x = clip(step, 0, steps) / steps
    return (1 - x) * start + x * stop


@schedule
def polynomial(step: Any, *, start: float, stop: float, steps: Span, power: float = 1.0) -> Any:
    """stop + (start - stop) (1 - x)^power with x = clip(step, 0, steps) / steps; then `stop`."""
    x = clip(step, 0, steps) / steps
    return stop + (start - stop) * (1 - x) ** power


@schedule
def exponential(step: Any, *, start: float, decay: float, steps: Span = 1, limit: float | None = None) -> Any:
    """start * decay^(step / steps): multiplied by `decay` every `steps` steps, continuously, without end or to `limit`.

    The limit is a lower one where decay < 1, else an upper one.
    """
    return _within(limit, decay, start * decay ** (maximum(step, 0) / steps))


@schedule
def step_decay(step: Any, *, start: float, factor: float, every: Span, limit: float | None = None) -> Any:
    """start * factor^floor(step / every): multiplied by `factor` after every `every` steps, without end or to `limit`.

    The limit is a lower one where factor < 1, else an upper one.
    """
    return _within(limit, factor, start * factor ** floor(maximum(step, 0) / every))


def _within(limit: Any, factor: Any, value: Any) -> Any:
    return value if limit is None else where(factor < 1, maximum(value, limit), minimum(value, limit))


def _milestones_in_order(start: Any, factor: Any, milestones: Any) -> None:
    if not all(a <= b for a, b in itertools.pairwise(milestones)):
        raise ValueError(f"multistep: milestones {milestones} are not in order: {sorted(milestones)} is.")


@schedule(check=_milestones_in_order)
def multistep(step: Any, *, start: float, factor: float, milestones: list[Count]) -> Any:
    """start * factor^k, k the number of milestones at or before `step`; a milestone given twice counts twice."""
    passed = sum(where(step >= milestone, 1.0, 0.0) for milestone in milestones)
    return start * factor**passed


def _one_value_for_each_piece(values: Any, boundaries: Any, **_: Any) -> None:
    if len(values) != len(boundaries) + 1:
        raise ValueError(
            f"{len(values)} values need {max(len(values) - 1, 0)} boundaries; {len(boundaries)} were given."
        )
    if not all(a < b for a, b in itertools.pairwise([0, *boundaries])):
        raise ValueError(f"boundaries {boundaries} must rise, from above 0.")


@schedule(check=_one_value_for_each_piece)
def piecewise_constant(step: Any, *, values: list[float], boundaries: list[Count]) -> Any:
    """`values[k]` from step `boundaries[k-1]` on: one value more than boundaries, which rise."""
    value = values[0]
    for boundary, following in zip(boundaries, values[1:], strict=True):
        value = where(step < boundary, value, following)
    return value


@schedule(check=_one_value_for_each_piece)
def interpolated(step: Any, *, values: list[float], boundaries: list[Count], shape: Static[str] = "linear") -> Any:
    """From `values[0]` at step 0 to `values[k]` at step `boundaries[k-1]`, along lines or half cosines; then the last.

    `shape` is "linear", "cosine" or "1-sqrt" (`trainfn.schedules.shapes`).
    """
    return along(step, values, boundaries, shape)


@schedule
def inverse_time(step: Any, *, start: float, decay: float, steps: Span = 1, staircase: Static[bool] = False) -> Any:
    """start / (1 + decay step / steps), without end; with `staircase` it stands still in between (floor(step / steps)).

    Robbins & Monro, Annals of Mathematical Statistics 22, 1951.
    """
    n = maximum(step, 0) / steps
    return start / (1 + decay * (floor(n) if staircase else n))


@schedule
def inverse_sqrt(step: Any, *, peak: float, timescale: Span, shift: Count | None = None) -> Any:
    """peak / sqrt((step + shift) / timescale), and at most `peak`, without end.

    `shift` is `timescale` unless given, so that step 0 has `peak`; with 0 the first `timescale` steps have it
    (Raffel et al., arXiv:1910.10683v4, section 3.1.2).
    """
    n = maximum(step, 0) + (timescale if shift is None else shift)
    return peak / sqrt(maximum(n, timescale) / timescale)


@schedule
def noam(step: Any, *, d_model: Span, warmup: Span, scale: float = 1.0) -> Any:
    """scale d_model^(-1/2) min(t^(-1/2), t warmup^(-3/2)) with t = step + 1, without end.

    A linear warm-up, then the inverse square root of the step: Vaswani et al., arXiv:1706.03762v7, eq. 3.
    """
    t = maximum(step, 0) + 1
    rising = t / (warmup * sqrt(warmup))
    falling = 1 / sqrt(t)
    return scale / sqrt(d_model) * where(rising < falling, rising, falling)
