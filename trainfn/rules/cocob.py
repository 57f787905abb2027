"""COCOB: parameters as bets on coins, which are gradients; there is no learning rate."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array
from trainfn.verbs import abs, full_like, maximum, where, zeros_like


class Bets(NamedTuple):
    """Of each coin; all shaped like p.

    p0: the first parameter; C: minus the sum of g; L: the largest |g|; G: sum of |g|; R: what was won.
    """

    p0: Array
    C: Array
    L: Array
    G: Array
    R: Array

    @staticmethod
    def init(p: Any, eps: Any) -> Bets:
        return Bets(p, zeros_like(p), full_like(p, eps), zeros_like(p), zeros_like(p))


@rule
def cocob(state: Bets, g: Any, p: Any, *, lr: Any = 1.0, alpha: Any = 100.0, eps: Any = 1e-8) -> Any:
    """COCOB-Backprop (Orabona & Tommasi, arXiv:1705.07795v3, Algorithm 2).

        L <- max(L, |g|);  G <- G + |g|;  R <- max(R - g (p - p0), 0);  C <- C - g
        p <- p0 + C / (L max(G + L, alpha L)) (L + R)

    As in optax lr multiplies the gradients, not the steps.  For decay put `coupled_weight_decay` before it.  Where the
    gradient is 0 nothing is bet, and p stays as it is to the last bit, which the formula gives but for rounding.
    """
    g = lr * g
    L = maximum(state.L, abs(g))
    G = state.G + abs(g)
    R = maximum(state.R - g * (p - state.p0), 0.0)
    C = state.C - g
    bet = state.p0 + C / (L * maximum(G + L, alpha * L)) * (L + R)
    return where(g == 0, 0.0, bet - p), Bets(state.p0, C, L, G, R)
