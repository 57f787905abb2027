"""LAMB: Adam's steps, as long as the parameters they move."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.adam import Moments, root
from trainfn.verbs import leaf_norm, minimum, square, where


@rule
def lamb(
    step: Any,
    state: Moments,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    max_param_norm: Any = None,
    max_ratio: Any = None,
    eps_root: Any = None,
) -> Any:
    """LAMB (You et al., arXiv:1904.00962v5, Algorithm 2).

        m_hat, v_hat as in Adam
        u <- m_hat / (sqrt(v_hat) + eps) + weight_decay p
        p <- p - lr |p| / |u| u                            with norms of the leaf

    The ratio is 1 where either norm is 0.  The paper's phi, a bound of |p|, is the identity unless `max_param_norm`
    is given: 10 in its authors' first code and in pytorch_optimizer.  `max_ratio` bounds the ratio: 1 is timm's
    trust_clip.  eps_root, an option of optax, is added to v_hat under the root.
    """
    t = step + 1
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * square(g)
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    u = m_hat / root(v_hat, eps, eps_root) + weight_decay * p
    size, length = leaf_norm(p), leaf_norm(u)
    if max_param_norm is not None:
        size = minimum(size, max_param_norm)
    ratio = where((size <= 0) | (length <= 0), 1.0, size / length)
    if max_ratio is not None:
        ratio = minimum(ratio, max_ratio)
    return -lr * ratio * u, Moments(m, v)
