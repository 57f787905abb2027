"""Sharpness-aware minimisation: two gradients for one update."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, ModelScalar
from trainfn.verbs import count_if, global_norm, where


class Climb(NamedTuple):
    """origin: the parameter before the climb, shaped like p; is_up: 1 between the two calls."""

    origin: Array
    is_up: ModelScalar

    @staticmethod
    def init(p: Any) -> Climb:
        return Climb(p, 0.0)  # type: ignore[arg-type]

    @staticmethod
    def eval_params(state: Climb, p: Any) -> Any:
        return where(state.is_up > 0, state.origin, p)


@rule
def sam(inner: Any, state: Climb, g: Any, p: Any, *, rho: Any = 0.05, eps: Any = 1e-12) -> Any:
    """SAM (Foret et al., arXiv:2010.01412v3, Algorithm 1), in two calls with the gradients of one batch.

        first   p <- p + rho g / (|g| + eps)              |g| over the model
        second  p <- what it was + the inner rule's update of the gradient found there

    Only the second counts as an update, and only in it the inner rule's state changes.  `eval_params` of a backend
    gives the parameter of before the climb.  The default rho is the paper's; a zero gradient climbs nowhere.
    """
    is_second = state.is_up > 0
    climb = rho / (global_norm(g) + eps) * g
    u = inner(g, p=state.origin, when=is_second)
    update = where(is_second, (state.origin - p) + u, climb)
    after = Climb(where(is_second, state.origin, p), where(is_second, 0.0, 1.0))
    return count_if(is_second, update), after
