"""Reduction on a plateau: a factor on the learning rate that falls when a metric no longer gets better.

It is no function of the step, but a state machine of the metrics (`trainfn.machine`).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from trainfn.machine import machine
from trainfn.trace import Static
from trainfn.verbs import maximum, where


class Progress(NamedTuple):
    """best: the best metric, of "max" its negative; bad: metrics since then; cooldown: metrics left that do not count
    as bad; reductions: how often the factor fell.
    """

    best: Any = math.inf
    bad: Any = 0.0
    cooldown: Any = 0.0
    reductions: Any = 0.0


def _check(*, mode: Any, factor: Any, patience: Any, threshold: Any, cooldown: Any, floor: Any, **_: Any) -> None:
    if mode not in ("min", "max"):
        raise ValueError(f"reduce_on_plateau: mode = {mode!r} must be 'min' or 'max'.")
    if not 0 < factor < 1:
        raise ValueError(f"reduce_on_plateau: factor = {factor} must be in (0, 1).")
    for name, value in {"patience": patience, "threshold": threshold, "cooldown": cooldown, "floor": floor}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"reduce_on_plateau: {name} = {value} must be at least 0.")


@machine(check=_check)
def reduce_on_plateau(
    state: Progress,
    metric: Any,
    *,
    mode: Static[str] = "min",
    factor: float = 0.1,
    patience: float = 10,
    threshold: float = 1e-4,
    relative: Static[bool] = True,
    cooldown: float = 0,
    floor: float = 0.0,
    eps: float = 0.0,
) -> Any:
    """max(factor^n, floor), where n grows by one when more than `patience` metrics in a row were not better.

    Better is a metric below best (1 - threshold) or, if not `relative`, below best - threshold; with mode "max" one
    above best (1 + threshold) or best + threshold.  NaN is not better.  After each reduction `cooldown` metrics do not
    count as bad.  A reduction by no more than `eps` does not happen.

    As torch's ReduceLROnPlateau; optax's reduce_on_plateau counts to patience, not beyond it.  A relative threshold
    makes little sense for metrics of changing sign: there take relative=False.
    """
    if mode == "max":
        metric, threshold = -metric, -threshold if relative else threshold
    is_better = metric < (state.best * (1 - threshold) if relative else state.best - threshold)
    return progress(state, metric, is_better, factor, patience, cooldown, floor, eps)


def progress(
    state: Any, metric: Any, is_better: Any, factor: Any, patience: Any, cooldown: Any, floor: Any, eps: Any = 0.0
) -> tuple[Progress, Any]:
    """The next state and the factor on the learning rate, after a metric that is better or is not."""
    is_cooling = state.cooldown > 0
    bad = where(is_better | is_cooling, 0, state.bad + 1)
    is_reduced = bad > patience
    value, next_value = (maximum(factor**n, floor) for n in (state.reductions, state.reductions + 1))
    changes = is_reduced & (value - next_value > eps)
    after = Progress(
        where(is_better, metric, state.best),
        where(is_reduced, 0, bad),
        where(is_reduced, cooldown, where(is_cooling, state.cooldown - 1, 0)),
        where(changes, state.reductions + 1, state.reductions),
    )
    return after, where(changes, next_value, value)
