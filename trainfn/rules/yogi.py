"""Yogi: Adam whose second moment changes by no more than the squared gradient."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.adam import Moments, root
from trainfn.verbs import full_like, sign, square


class StartedMoments(Moments):
    """m and v as in Adam, which begin at `initial_accumulator_value`."""

    @staticmethod
    def init(p: Any, initial_accumulator_value: Any) -> StartedMoments:
        start = full_like(p, initial_accumulator_value)
        return StartedMoments(start, start)


@rule
def yogi(
    step: Any,
    state: StartedMoments,
    g: Any,
    *,
    lr: Any = 1e-2,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-3,
    initial_accumulator_value: Any = 1e-6,
    eps_root: Any = None,
) -> Any:
    """Yogi (Zaheer et al., NeurIPS 2018, Algorithm 2).

        m <- b1 m + (1 - b1) g                      m_hat = m / (1 - b1^t)
        v <- v - (1 - b2) sign(v - g^2) g^2         v_hat = v / (1 - b2^t)
        p <- p - lr m_hat / (sqrt(v_hat) + eps)

    Departs from the paper as optax does: both moments are debiased, and both begin at initial_accumulator_value, where
    the paper's m begins at 0.  eps_root, an option of optax, is added to v_hat under the root.
    """
    t = step + 1
    m = b1 * state.m + (1 - b1) * g
    v = state.v - (1 - b2) * sign(state.v - square(g)) * square(g)
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    return -lr * (m_hat / root(v_hat, eps, eps_root)), StartedMoments(m, v)
