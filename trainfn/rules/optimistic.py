"""Optimism: a step along the gradient that the change of the last one predicts."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.adam import MaxMoments, debiased, root
from trainfn.trace import Array, Static
from trainfn.verbs import where


class Last(NamedTuple):
    """last: the last g, shaped like p."""

    last: Array


class LastMoments(NamedTuple):
    """m, v: as in Adam; last: the last direction; all shaped like p."""

    m: Array
    v: Array
    last: Array


@rule
def optimistic_gradient_descent(
    step: Any, state: Last, g: Any, *, lr: Any = 1e-3, alpha: Any = 1.0, beta: Any = 1.0
) -> Any:
    """Optimistic gradient descent, generalised (Mokhtari, Ozdaglar & Pattathil, arXiv:1901.08511v2).

        p <- p - lr ((alpha + beta) g - beta last);   last <- g

    At the first step, which has no last g, it is g.
    """
    return -lr * _optimistic(step, state.last, g, alpha, beta), Last(g)


@rule
def optimistic_adam(
    step: Any,
    state: LastMoments,
    g: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    alpha: Any = 1.0,
    beta: Any = 1.0,
    eps_root: Any = None,
    nesterov: Static[bool] = False,
) -> Any:
    """Optimistic Adam (Daskalakis et al., arXiv:1711.00141v2, Algorithm 1), generalised as optimistic gradient descent.

        u = m_hat / (sqrt(v_hat + eps_root) + eps) of Adam
        p <- p - lr ((alpha + beta) u - beta last);   last <- u

    nesterov, which optax's optimistic_adam_v2 has by default, is that of `adam`.
    """
    m_hat, v_hat, next_state = debiased(step + 1, MaxMoments(state.m, state.v, None), g, b1, b2, nesterov)
    u = m_hat / root(v_hat, eps, eps_root)
    return -lr * _optimistic(step, state.last, u, alpha, beta), LastMoments(next_state.m, next_state.v, u)


def _optimistic(step: Any, last: Any, u: Any, alpha: Any, beta: Any) -> Any:
    return (alpha + beta) * u - beta * where(step > 0, last, u)
