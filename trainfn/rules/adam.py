"""Adam and AdamW: steps scaled by running means of the gradient and of its square."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array
from trainfn.verbs import sqrt, square


class Moments(NamedTuple):
    """m: running mean of g; v: running mean of g * g; both shaped like p."""

    m: Array
    v: Array


@rule
def adam(step: Any, state: Moments, g: Any, *, lr: Any = 1e-3, b1: Any = 0.9, b2: Any = 0.999, eps: Any = 1e-8) -> Any:
    """Adam (Kingma & Ba, arXiv:1412.6980v9, Algorithm 1).

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        p <- p - lr m_hat / (sqrt(v_hat) + eps)

    For torch's `Adam(weight_decay=...)`, which adds the decay to g, put `coupled_weight_decay` before it in a chain.
    """
    t = step + 1
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * square(g)
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    return -lr * (m_hat / (sqrt(v_hat) + eps)), Moments(m, v)


@rule
def adamw(
    step: Any,
    state: Moments,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-2,
) -> Any:
    """AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101v3, Algorithm 2).

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        p <- p - lr (m_hat / (sqrt(v_hat) + eps) + weight_decay p)

    Departs from the paper, as torch and optax do: the decay is multiplied by lr, which takes the place of the
    paper's schedule multiplier eta_t times alpha.
    """
    t = step + 1
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * square(g)
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    return -lr * (m_hat / (sqrt(v_hat) + eps) + weight_decay * p), Moments(m, v)
