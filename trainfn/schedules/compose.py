"""Schedules made of schedules: one after another, multiplied, later, again and again."""

from __future__ import annotations

import functools
import itertools
import operator
from typing import Any

from trainfn.schedules.schedule import Count, Schedule, Span, schedule
from trainfn.verbs import floor, maximum, where


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
def sequence(step: Any, *schedules: Any, boundaries: list[Count]) -> Any:
    """One schedule after another: the k-th begins at `boundaries[k-1]` and counts its steps from there.

    A number stands for a constant.  There is one boundary fewer than schedules, in rising order.
    """
    value = _at(schedules[0], step)
    for part, begin in zip(schedules[1:], boundaries, strict=True):
        value = where(step < begin, value, _at(part, maximum(step - begin, 0)))
    return value


def _at(part: Any, step: Any) -> Any:
    return part(step) if isinstance(part, Schedule) else part


def _has_parts(*schedules: Any) -> None:
    if not schedules or any(isinstance(part, list) for part in schedules):
        raise TypeError("product: give the schedules one by one, as in product(first, second).")


@schedule(check=_has_parts)
def product(step: Any, *schedules: Any) -> Any:
    """All schedules multiplied, as `*` does with two; a number stands for a constant."""
    return functools.reduce(operator.mul, (_at(part, step) for part in schedules))


@schedule
def shift(step: Any, *, schedule: Any, by: float) -> Any:
    """`schedule` begun `by` steps later: until then its first value.  A negative `by` leaves out its beginning."""
    return _at(schedule, maximum(step - by, 0))


@schedule
def repeat(step: Any, *, schedule: Any, every: Span) -> Any:
    """`schedule` begun anew every `every` steps."""
    step = maximum(step, 0)
    return _at(schedule, step - every * floor(step / every))
