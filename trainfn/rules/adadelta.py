"""Adadelta: steps in units of past steps."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array
from trainfn.verbs import sqrt, square


class MeanSquares(NamedTuple):
    """v: running mean of g * g; d: running mean of the squares of steps; both shaped like p."""

    v: Array
    d: Array


@rule
def adadelta(state: MeanSquares, g: Any, *, lr: Any = None, rho: Any = 0.9, eps: Any = 1e-6) -> Any:
    """Adadelta (Zeiler, arXiv:1212.5701v1, Algorithm 1).

        v <- rho v + (1 - rho) g^2
        u = sqrt(d + eps) / sqrt(v + eps) g
        d <- rho d + (1 - rho) u^2
        p <- p - u                              or, with lr, p - lr u

    The paper has no lr.  optax's `adadelta()` without one climbs, against its documentation; here it descends.
    """
    v = rho * state.v + (1 - rho) * square(g)
    u = sqrt(state.d + eps) / sqrt(v + eps) * g
    d = rho * state.d + (1 - rho) * square(u)
    return (-u if lr is None else -lr * u), MeanSquares(v, d)
