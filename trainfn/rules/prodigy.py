"""Prodigy: Adam that estimates how far away the solution is, and takes that for its learning rate."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, ModelPair, ModelScalar, Static
from trainfn.verbs import abs, global_dot, global_sum, sqrt, square, where, zeros_like


class Distance(NamedTuple):
    """What Adam remembers, and what the distance is estimated from.

    m, v: running means of d g and (d g)^2; s: decaying sum of gradients; p0: the first parameter; all shaped like p.
    r: decaying sum of <g, p0 - p>; d: the distance; t: updates of the model.
    """

    m: Array
    v: Array
    s: Array
    p0: Array
    r: ModelPair
    d: ModelPair
    t: ModelScalar

    @staticmethod
    def init(p: Any, d0: Any) -> Distance:
        zero: Any = 0.0
        return Distance(zeros_like(p), zeros_like(p), zeros_like(p), p, zero, d0, zero)


@rule
def prodigy(
    state: Distance,
    g: Any,
    p: Any,
    *,
    lr: Any = 1.0,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = None,
    eps: Any = 1e-8,
    d0: Any = 1e-6,
    d_coefficient: Any = 1.0,
    weight_decay: Any = 0.0,
    bias_correction: Static[bool] = False,
    safeguard_warmup: Static[bool] = False,
) -> Any:
    """Prodigy (Mishchenko & Defazio, arXiv:2306.06101v4, Algorithm 4).

        r <- b3 r + d / d0 a <g, p0 - p>                    a = lr d, b3 = sqrt(b2), sums over the model
        s <- b3 s + d / d0 a g
        m <- b1 m + (1 - b1) d g
        v <- b2 v + (1 - b2) (d g)^2
        d'<- max(d, d_coefficient r / |s|_1)
        p <- p - a (m / (sqrt(v) + d' eps) + weight_decay p)

    The paper's factors 1 - b3 of r and s cancel and are left out, as its authors' code and optax do.  With
    `bias_correction`, which is optax's prodigy, a is multiplied by sqrt(1 - b2^t) / (1 - b1^t); with
    `safeguard_warmup` d takes the place of a in s, so that a small lr at the start does not inflate the estimate.
    While |s|_1 = 0 d stays as it is, where optax makes it NaN.
    """
    t = state.t + 1
    d = state.d
    a = lr * d
    if bias_correction:
        a = a * sqrt(1 - b2**t) / (1 - b1**t)
    if b3 is None:
        b3 = sqrt(b2)
    r = b3 * state.r + d / d0 * a * global_dot(g, state.p0 - p)
    s = b3 * state.s + d / d0 * (d if safeguard_warmup else a) * g
    m = b1 * state.m + (1 - b1) * d * g
    v = b2 * state.v + (1 - b2) * square(d) * square(g)
    d_hat = d_coefficient * r / global_sum(abs(s))
    d_next = where(d_hat > d, d_hat, d)
    u = m / (sqrt(v) + d_next * eps) + weight_decay * p
    return -a * u, Distance(m, v, s, state.p0, r, d_next, t)
