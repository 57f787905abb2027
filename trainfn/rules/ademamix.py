"""AdEMAMix: Adam with a second, slow momentum; and its simplification to one."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.adam import Moments, root
from trainfn.rules.decay import decayed
from trainfn.trace import Array
from trainfn.verbs import square


class MixedMoments(NamedTuple):
    """m1, m2: running means of g, fast and slow; v: running mean of g * g; all shaped like p."""

    m1: Array
    m2: Array
    v: Array


@rule
def ademamix(
    step: Any,
    state: MixedMoments,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    alpha: Any = 5.0,
    eps: Any = 1e-8,
    weight_decay: Any | None = 0.0,
    eps_root: Any = None,
) -> Any:
    """AdEMAMix (Pagliardini, Ablin & Grangier, arXiv:2409.03137v2, Algorithm 1).

        m1 <- b1 m1 + (1 - b1) g        m1_hat = m1 / (1 - b1^t)
        m2 <- b3 m2 + (1 - b3) g
        v  <- b2 v + (1 - b2) g^2       v_hat = v / (1 - b2^t)
        p  <- p - lr ((m1_hat + alpha m2) / (sqrt(v_hat + eps_root) + eps) + weight_decay p)

    The paper's schedules of alpha and b3 are schedules like any other.  eps_root is optax's.
    """
    t = step + 1
    m1 = b1 * state.m1 + (1 - b1) * g
    m2 = b3 * state.m2 + (1 - b3) * g
    v = b2 * state.v + (1 - b2) * square(g)
    m1_hat = m1 / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    u = (m1_hat + alpha * m2) / root(v_hat, eps, eps_root)
    return -lr * decayed(u, weight_decay, p), MixedMoments(m1, m2, v)


@rule
def simplified_ademamix(
    step: Any,
    state: Moments,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.99,
    b2: Any = 0.95,
    alpha: Any = 0.0,
    eps: Any = 1e-8,
    weight_decay: Any | None = 0.0,
    eps_root: Any = None,
) -> Any:
    """Simplified AdEMAMix (Morwani et al., arXiv:2502.02431v1): a sum of gradients, and alpha times the last one.

        m <- b1 m + g
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        p <- p - lr ((m + alpha g) / (sqrt(v_hat + eps_root) + eps) + weight_decay p)

    eps_root is optax's.
    """
    m = b1 * state.m + g
    v = b2 * state.v + (1 - b2) * square(g)
    v_hat = v / (1 - b2 ** (step + 1))
    u = (m + alpha * g) / root(v_hat, eps, eps_root)
    return -lr * decayed(u, weight_decay, p), Moments(m, v)
