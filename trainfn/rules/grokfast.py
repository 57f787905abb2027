"""Grokfast: the slow part of gradients amplified, before a rule sees them."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.lion import Mean
from trainfn.verbs import where


@rule
def grokfast(step: Any, state: Mean, g: Any, *, alpha: Any = 0.98, lamb: Any = 2.0) -> Any:
    """g + lamb m with m <- alpha m + (1 - alpha) g, a running mean that begins with the first g (Grokfast-EMA).

    Lee et al., arXiv:2405.20233v2, with the authors' code's first m.  The gradient grows by 1 + lamb in the
    long run, which Adam does not notice, and a rule that is not scaled by it does.
    """
    m = where(step > 0, alpha * state.m + (1 - alpha) * g, g)
    return g + lamb * m, Mean(m)
