"""NAdam: Adam with Nesterov's momentum, whose coefficient warms up."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, LeafScalar
from trainfn.verbs import sqrt, square, zeros_like


class NesterovMoments(NamedTuple):
    """m: running mean of g; v: running mean of g * g; mu_product: the product of all momenta mu so far."""

    m: Array
    v: Array
    mu_product: LeafScalar

    @staticmethod
    def init(p: Any) -> NesterovMoments:
        return NesterovMoments(zeros_like(p), zeros_like(p), 1.0)  # type: ignore[arg-type]


@rule
def nadam(
    step: Any,
    state: NesterovMoments,
    g: Any,
    *,
    lr: Any = 2e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    momentum_decay: Any = 4e-3,
) -> Any:
    """NAdam (Dozat, ICLR workshop 2016), as in torch.

        mu = b1 (1 - 0.96^(t momentum_decay) / 2)       mu_next likewise, with t + 1
        mu_product <- mu mu_product
        m, v, v_hat as in Adam
        m_bar = mu_next m / (1 - mu_next mu_product) + (1 - mu) g / (1 - mu_product)
        p <- p - lr m_bar / (sqrt(v_hat) + eps)

    As in torch m is a running mean with b1, not with mu.  mu_product is kept in float32, as in torch.  What optax calls
    nadam has a constant momentum: `adam(nesterov=True)`.
    """
    t = step + 1
    mu = b1 * (1 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * momentum_decay))
    mu_product = state.mu_product * mu
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * square(g)
    v_hat = v / (1 - b2**t)
    m_bar = mu_next / (1 - mu_product * mu_next) * m + (1 - mu) / (1 - mu_product) * g
    return -lr * (m_bar / (sqrt(v_hat) + eps)), NesterovMoments(m, v, mu_product)
