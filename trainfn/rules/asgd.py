"""Averaged stochastic gradient descent: the mean of the parameters beside the parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, LeafScalar
from trainfn.verbs import maximum, where, zeros_like


class Average(NamedTuple):
    """ax: mean of p, shaped like p; eta: the next step's size; mu: the next p's weight in the mean."""

    ax: Array
    eta: LeafScalar
    mu: LeafScalar

    @staticmethod
    def init(p: Any, lr: Any) -> Average:
        return Average(zeros_like(p), lr, 1.0)  # type: ignore[arg-type]


@rule
def asgd(
    step: Any,
    state: Average,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-2,
    lambd: Any = 1e-4,
    alpha: Any = 0.75,
    t0: Any = 1e6,
) -> Any:
    """Averaged SGD (Polyak & Juditsky, SIAM J. Control Optim. 30, 1992; step sizes: Bottou's sgd, as in torch).

        p   <- p - eta (g + lambd p)
        ax  <- ax + mu (p - ax)                 the new p; where mu = 1 it is copied
        eta <- lr / (1 + lambd lr t)^alpha      mu <- 1 / max(1, t - t0)

    Evaluate with the state `ax`.  As in torch eta and mu are kept, in float32, for the next step, which therefore does
    not see a change of lr; the one after does.
    """
    t = step + 1
    u = -state.eta * (g + lambd * p)
    moved = p + u
    ax = where(state.mu < 1, state.ax + state.mu * (moved - state.ax), moved)
    eta = lr / (1 + lambd * lr * t) ** alpha
    mu = 1 / maximum(1, t - t0)
    return u, Average(ax, eta, mu)
