"""Early stopping: whether a metric has stopped getting better, as a state machine (`trainfn.machine`)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from trainfn.machine import machine
from trainfn.trace import Static
from trainfn.verbs import where


class Best(NamedTuple):
    """best: the best metric, of "max" its negative; bad: metrics since then, so 0 says that the last one is it."""

    best: Any = math.inf
    bad: Any = 0.0


def _check(*, mode: Any, patience: Any, min_delta: Any) -> None:
    if mode not in ("min", "max"):
        raise ValueError(f"early_stopping: mode = {mode!r} must be 'min' or 'max'.")
    if not (patience >= 1 and (patience == math.inf or patience == math.floor(patience))):
        raise ValueError(f"early_stopping: patience = {patience} must be a whole number, at least 1, or infinite.")
    if not 0 <= min_delta < math.inf:
        raise ValueError(f"early_stopping: min_delta = {min_delta} must be at least 0.")


@machine(check=_check)
def early_stopping(
    state: Best, metric: Any, *, mode: Static[str] = "min", patience: float = 3, min_delta: float = 0.0
) -> Any:
    """1 as soon as `patience` metrics in a row were not better than the best one by more than `min_delta`, else 0.

    NaN is not better, also as the first metric.  It is the patience-th metric that stops, as in Lightning, Keras and
    transformers; flax's EarlyStopping stops at the one after it.
    """
    x = -metric if mode == "max" else metric
    is_better = x < state.best - min_delta
    bad = where(is_better, 0, state.bad + 1)
    return Best(where(is_better, x, state.best), bad), where(bad >= patience, 1, 0)
