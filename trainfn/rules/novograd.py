"""NovoGrad: momentum of gradients divided by a running size of their layer's."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.adam import root
from trainfn.trace import Array, LeafPair
from trainfn.verbs import leaf_dot, where


class LayerMoments(NamedTuple):
    """m: decaying sum of scaled gradients, shaped like p; v: running mean of |g|^2, a number for each leaf."""

    m: Array
    v: LeafPair


@rule
def novograd(
    step: Any,
    state: LayerMoments,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.25,
    eps: Any = 1e-6,
    weight_decay: Any = 0.0,
    eps_root: Any = None,
) -> Any:
    """NovoGrad (Ginsburg et al., arXiv:1905.11286v3, Algorithm 1).

        v <- b2 v + (1 - b2) |g|^2, and |g|^2 the first time         with the norm of the leaf
        m <- b1 m + g / (sqrt(v) + eps) + weight_decay p
        p <- p - lr m

    Defaults are optax's; the paper has b1 = 0.95 and b2 = 0.98.  eps_root, an option of optax, is added to v under
    the root.
    """
    energy = leaf_dot(g, g)
    v = where(step == 0, energy, b2 * state.v + (1 - b2) * energy)
    m = b1 * state.m + (g / root(v, eps, eps_root) + weight_decay * p)
    return -lr * m, LayerMoments(m, v)
