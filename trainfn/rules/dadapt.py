"""D-Adaptation: a learning rate out of a lower bound of the distance to the solution."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, ModelPair, ModelScalar
from trainfn.verbs import abs, global_dot, global_sum, sqrt, square, where, zeros_like


class Bound(NamedTuple):
    """What Adam remembers, and what the distance is bounded by.

    m: running mean of a g; v: of g * g; s: of a g, more slowly; all shaped like p.
    r: running mean of a <g, s / sqrt(v)>; d: the bound; t: updates of the model.
    """

    m: Array
    v: Array
    s: Array
    r: ModelPair
    d: ModelPair
    t: ModelScalar

    @staticmethod
    def init(p: Any, d0: Any) -> Bound:
        zero: Any = 0.0
        return Bound(zeros_like(p), zeros_like(p), zeros_like(p), zero, d0, zero)


@rule
def dadapt_adamw(
    state: Bound,
    g: Any,
    p: Any,
    *,
    lr: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    d0: Any = 1e-6,
    weight_decay: Any = 0.0,
) -> Any:
    """D-Adapted AdamW (Defazio & Mishchenko, arXiv:2301.07733v5, as optax writes it).

        a <- lr d sqrt(1 - b2^t) / (1 - b1^t)               k = sqrt(b2), sums over the model
        r <- k r + (1 - k) a <g, s / (sqrt(v) + eps)>
        m <- b1 m + (1 - b1) a g
        v <- b2 v + (1 - b2) g^2
        s <- k s + (1 - k) a g
        d <- max(d, r / ((1 - k) |s|_1))
        p <- p - m / (sqrt(v) + eps) - a weight_decay p

    The paper has no bias correction.  While |s|_1 = 0 d stays as it is, where optax makes it NaN.
    """
    t = state.t + 1
    k = sqrt(b2)
    a = lr * state.d * sqrt(1 - b2**t) / (1 - b1**t)
    r = k * state.r + (1 - k) * a * global_dot(g, state.s / (sqrt(state.v) + eps))
    m = b1 * state.m + (1 - b1) * a * g
    v = b2 * state.v + (1 - b2) * square(g)
    s = k * state.s + (1 - k) * a * g
    d_hat = r / ((1 - k) * global_sum(abs(s)))
    d = where(d_hat > state.d, d_hat, state.d)
    return -(m / (sqrt(v) + eps)) - a * weight_decay * p, Bound(m, v, s, r, d, t)
