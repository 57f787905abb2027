"""Sharpness-aware minimisation: two gradients for one update."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, LeafScalar, ModelScalar
from trainfn.verbs import count_if, global_norm, where


class Climb(NamedTuple):
    """origin: the parameter before the climb, shaped like p; has_climbed: 1 if the leaf is up there.

    is_second: of the model, 1 if the next call is the second of a pair.
    """

    origin: Array
    has_climbed: LeafScalar
    is_second: ModelScalar

    @staticmethod
    def init(p: Any) -> Climb:
        return Climb(p, 0.0, 0.0)  # type: ignore[arg-type]

    @staticmethod
    def settled(state: Climb, p: Any) -> Any:
        return where(state.has_climbed > 0, state.origin, p)


@rule
def sam(inner: Any, state: Climb, g: Any, p: Any, *, rho: Any = 0.05, eps: Any = 1e-12) -> Any:
    """SAM (Foret et al., arXiv:2010.01412v3, Algorithm 1), in two calls with the gradients of one batch.

        first   p <- p + rho g / (|g| + eps)              |g| over the model
        second  p <- what it was + the inner rule's update of the gradient found there

    Only the second counts as an update, and only in it the inner rule's state changes.  `eval_params` of a backend
    gives the parameter of before the climb.  The default rho is the paper's.  A gradient that is zero, or not finite,
    climbs nowhere.  A leaf without a gradient in one of the calls comes back from where it is in its next one.

    Clipping, weight decay and the like belong inside: after it in a chain they would take the way back for a part of
    the update.  A call that is skipped from outside, as by a gradient scaler, is still to be made: repeat it.
    """
    is_second = state.is_second > 0
    origin = where(state.has_climbed > 0, state.origin, p)
    norm = global_norm(g)
    climb = where(norm < math.inf, rho / (norm + eps) * g, 0.0)
    u = inner(g, p=origin, when=is_second)
    is_first = where(is_second, 0.0, 1.0)
    return count_if(is_second, (origin - p) + where(is_second, u, climb)), Climb(origin, is_first, is_first)
