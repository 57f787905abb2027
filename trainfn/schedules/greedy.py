"""GreedyLR: a learning rate that rises while a metric gets better, and falls while it does not.

As reduction on a plateau it is a state machine of the metrics (`trainfn.machine`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from trainfn.machine import machine
from trainfn.trace import Static
from trainfn.verbs import where

START, FLOOR, CEILING = 0.0, 1.0, 2.0  # what the learning rate is counted from: the last of these it was at


class Pace(NamedTuple):
    """best: the best metric, of "max" its negative; good, bad: metrics in a row that were better, and not;
    rest: metrics left that do not count; anchor, power: the learning rate is that of the anchor times factor^power;
    stuck: falls since the last rise that left it at the floor.
    """

    best: Any = math.inf
    good: Any = 0.0
    bad: Any = 0.0
    rest: Any = 0.0
    anchor: Any = START
    power: Any = 0.0
    stuck: Any = 0.0


def _check(*, peak: Any, mode: Any, factor: Any, patience: Any, reset: Any, floor: Any, ceiling: Any, **_: Any) -> None:
    if mode not in ("min", "max"):
        raise ValueError(f"greedy: mode = {mode!r} must be 'min' or 'max'.")
    if not 0 < factor < 1:
        raise ValueError(f"greedy: factor = {factor} must be in (0, 1): a rise divides by it.")
    if not (patience >= 0 and reset >= 1):
        raise ValueError(f"greedy: patience = {patience} must be at least 0, and reset = {reset} at least 1.")
    if not 0 <= peak < math.inf:
        raise ValueError(f"greedy: peak = {peak} must be at least 0 and finite.")
    if not 0 <= floor <= ceiling:
        raise ValueError(f"greedy: floor = {floor} must be at least 0, and at most ceiling = {ceiling}.")


@machine(check=_check)
def greedy(
    state: Pace,
    metric: Any,
    *,
    peak: float = 1.0,
    mode: Static[str] = "min",
    factor: float = 0.95,
    patience: float = 10,
    threshold: float = 1e-6,
    relative: Static[bool] = False,
    rest_after_fall: float = 0,
    rest_after_rise: float = 0,
    floor: float = 1e-3,
    ceiling: float = 1.0,
    eps: float = 1e-8,
    reset: float = 500,
) -> Any:
    """The learning rate: from `peak` on divided by `factor` after more than `patience` better metrics in a row, and
    multiplied by it after more than `patience` others.

    Better is a metric below best - threshold or, if `relative`, below best (1 - threshold); with mode "max" one above
    best + threshold or best (1 + threshold).  After a change `rest_after_fall` or `rest_after_rise` metrics do not
    count.  The learning rate goes down to `floor` and up to `ceiling`; a change by no more than `eps` does not happen.
    The `reset`-th fall in a row that leaves it at the floor, or below, begins everything anew.

    Subramanian & Ganapathiraman, arXiv:2512.14527v1, as in transformers 5.10, whose defaults these are; a mean of
    metrics (its `smooth`) is to be taken before they come here.  Departures: the learning rate is a power of the factor
    times where it started or the bound it was at, so that no rounding adds up; after a reset no metrics are left out.
    """
    if mode == "max":
        metric, threshold = -metric, -threshold if relative else threshold
    counts = state.rest <= 0
    is_better = metric < (state.best * (1 - threshold) if relative else state.best - threshold)
    good = where(counts & is_better, state.good + 1, 0)
    bad = where(counts & is_better, 0, where(counts, state.bad + 1, 0))
    rises, falls = good > patience, bad > patience

    anchor = where(state.anchor < FLOOR, peak, where(state.anchor < CEILING, floor, ceiling))
    now, up, down = (anchor * factor**n for n in (state.power, state.power - 1, state.power + 1))
    is_high, is_low = up >= ceiling, down <= floor
    up, down = where(is_high, ceiling, up), where(is_low, floor, down)
    goes_up, goes_down = rises & (up - now > eps), falls & (now - down > eps)
    hits = where(goes_up & is_high, CEILING, where(goes_down & is_low, FLOOR, START))
    value = where(goes_up, up, where(goes_down, down, now))
    power = where(goes_up, state.power - 1, where(goes_down, state.power + 1, state.power))
    stuck = where(rises, 0, where(falls & (value <= floor), state.stuck + 1, state.stuck))

    is_over = stuck >= reset
    after = Pace(
        best=where(counts & is_better, metric, state.best),
        good=where(rises, 0, good),
        bad=where(falls, 0, bad),
        rest=where(rises, rest_after_rise, where(falls, rest_after_fall, where(counts, 0, state.rest - 1))),
        anchor=where(hits > START, hits, state.anchor),
        power=where(hits > START, 0, power),
        stuck=stuck,
    )
    return Pace(*(where(is_over, x, y) for x, y in zip(Pace(), after, strict=True))), where(is_over, peak, value)
