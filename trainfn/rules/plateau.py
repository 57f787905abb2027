"""Gradients made smaller when the loss no longer falls."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.schedules.plateau import Progress, progress
from trainfn.trace import ModelPair, ModelScalar
from trainfn.verbs import maximum, where


class Plateau(NamedTuple):
    """best: the lowest loss, if has_best is 1; bad: losses since then; cooldowns: losses left that do not count;
    reductions: how often the factor fell; total, calls: of values not yet averaged."""

    best: ModelScalar
    has_best: ModelScalar
    bad: ModelScalar
    cooldowns: ModelScalar
    reductions: ModelScalar
    total: ModelPair
    calls: ModelScalar


@rule
def scale_on_plateau(
    state: Plateau,
    g: Any,
    value: Any,
    *,
    factor: Any = 0.1,
    patience: Any = 10.0,
    rtol: Any = 1e-4,
    atol: Any = 0.0,
    cooldown: Any = 0.0,
    accumulation_size: Any = 1.0,
    min_scale: Any = 0.0,
) -> Any:
    """g max(factor^n, min_scale), where n grows by one when `patience` losses in a row were not better.

    It is optax's reduce_on_plateau.  A loss is the mean of `accumulation_size` calls' values, and better if it is below
    best (1 - rtol) - atol.  After each reduction `cooldown` losses do not count.  `trainfn.reduce_on_plateau`, torch's,
    is for metrics of a validation; it waits for one more.
    """
    total, calls = state.total + value, state.calls + 1
    is_due = calls >= accumulation_size
    loss = total / calls
    before = Progress(where(state.has_best > 0, state.best, math.inf), state.bad, state.cooldowns, state.reductions)
    is_better = loss < before.best * (1 - rtol) - atol
    after, _ = progress(before, loss, is_better, factor, patience - 1, cooldown, min_scale)
    bad, cooldowns, reductions = (where(is_due, new, old) for new, old in zip(after[1:], before[1:], strict=True))
    is_best = is_due & is_better
    scale = maximum(factor**reductions, min_scale)
    return scale * g, Plateau(
        where(is_best, loss, state.best),
        where(is_best, 1.0, state.has_best),
        bad,
        cooldowns,
        reductions,
        where(is_due, 0.0, total),
        where(is_due, 0.0, calls),
    )
