"""The ways from one value to another that schedules share: each a function of x, the part of the way that is behind.

Every shape rises from exactly 0 at x = 0 to exactly 1 at x = 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trainfn.verbs import clip, cos, maximum, pi, sqrt, where

SHAPES: Mapping[str, Callable[[Any], Any]] = {
    "linear": lambda x: x,
    "cosine": lambda x: (1 - cos(pi * x)) / 2,
    "1-sqrt": sqrt,  # of what is left, 1 - sqrt(x)
}


def between(start: Any, stop: Any, x: Any, shape: str) -> Any:
    """(1 - w) start + w stop with w = shape(x): exactly `start` at x = 0 and `stop` at x = 1."""
    if shape not in SHAPES:
        raise ValueError(f"shape = {shape!r} must be one of {', '.join(map(repr, SHAPES))}.")
    w = SHAPES[shape](x)
    return (1 - w) * start + w * stop


def part_of_way(step: Any, begin: Any, end: Any) -> Any:
    """How much of the way from `begin` to `end` is behind at `step`, from 0 to 1; a way of no steps is gone at once."""
    steps = where(end > begin, end - begin, 1)  # what is not selected must not be NaN either: its derivative would be
    return where(end > begin, clip(step - begin, 0, steps) / steps, where(step < begin, 0.0, 1.0))


def along(step: Any, values: Sequence[Any], ends: Sequence[Any], shape: str) -> Any:
    """From `values[0]` at step 0 to `values[k]` at step `ends[k-1]`, then the last."""
    step = maximum(step, 0)
    value, begin = values[0], 0.0
    for (before, after), end in zip(itertools.pairwise(values), ends, strict=True):
        value = where(step < begin, value, between(before, after, part_of_way(step, begin, end), shape))
        begin = end
    return value
