"""Adamax: Adam with the largest recent gradient in place of the root of the mean square."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array
from trainfn.verbs import abs, maximum


class InfinityMoments(NamedTuple):
    """m: running mean of g; u: decaying maximum of |g|; both shaped like p."""

    m: Array
    u: Array


@rule
def adamax(
    step: Any, state: InfinityMoments, g: Any, *, lr: Any = 2e-3, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8
) -> Any:
    """Adamax (Kingma & Ba, arXiv:1412.6980v9, Algorithm 2).

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        u <- max(b2 u, |g| + eps)
        p <- p - lr m_hat / u

    The paper has no eps; it stands where torch and optax put it.
    """
    m = b1 * state.m + (1 - b1) * g
    u = maximum(b2 * state.u, abs(g) + eps)
    m_hat = m / (1 - b1 ** (step + 1))
    return -lr * (m_hat / u), InfinityMoments(m, u)


@rule
def adamaxw(
    step: Any,
    state: InfinityMoments,
    g: Any,
    p: Any,
    *,
    lr: Any = 2e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-2,
) -> Any:
    """Adamax with the decoupled weight decay of AdamW (Loshchilov & Hutter, arXiv:1711.05101v3), times lr.

    m, u, m_hat as in Adamax
    p <- p - lr (m_hat / u + weight_decay p)
    """
    m = b1 * state.m + (1 - b1) * g
    u = maximum(b2 * state.u, abs(g) + eps)
    m_hat = m / (1 - b1 ** (step + 1))
    return -lr * (m_hat / u + weight_decay * p), InfinityMoments(m, u)
