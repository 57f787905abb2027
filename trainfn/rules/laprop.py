"""LaProp: momentum of the scaled gradient, where Adam scales the momentum."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.adam import Moments, root
from trainfn.verbs import square


@rule
def laprop(
    step: Any,
    state: Moments,
    g: Any,
    *,
    lr: Any = 4e-4,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-15,
    eps_root: Any = None,
) -> Any:
    """LaProp (Ziyin, Wang & Ueda, arXiv:2002.04839v3, Algorithm 1).

        v <- b2 v + (1 - b2) g^2                                    v_hat = v / (1 - b2^t)
        m <- b1 m + (1 - b1) g / (sqrt(v_hat + eps_root) + eps)     m_hat = m / (1 - b1^t)
        p <- p - lr m_hat

    The paper has no eps_root.
    """
    t = step + 1
    v = b2 * state.v + (1 - b2) * square(g)
    v_hat = v / (1 - b2**t)
    m = b1 * state.m + (1 - b1) * (g / root(v_hat, eps, eps_root))
    return -lr * (m / (1 - b1**t)), Moments(m, v)
