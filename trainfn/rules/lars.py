"""LARS: momentum of gradients that were made as long as the parameters they move."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.sgd import Momentum
from trainfn.trace import Static
from trainfn.verbs import leaf_norm, where


@rule
def lars(
    state: Momentum,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-1,
    momentum: Any = 0.9,
    weight_decay: Any = 0.0,
    trust_coefficient: Any = 1e-3,
    eps: Any = 0.0,
    nesterov: Static[bool] = False,
    separate_norms: Static[bool] = False,
    lr_in_momentum: Static[bool] = True,
) -> Any:
    """LARS (You, Gitman & Ginsburg, arXiv:1708.03888v3, Algorithm 1).

        u   <- g + weight_decay p
        buf <- momentum buf + lr trust_coefficient |p| / (|u| + eps) u        with norms of the leaf
        p   <- p - buf                                         or, with nesterov, see `sgd`

    The ratio is 1 where either norm is 0.  This is optax's lars; the paper divides by |g| + weight_decay |p|, which is
    `separate_norms`.  Without `lr_in_momentum` p <- p - lr buf as in torch's SGD, which differs once lr changes.
    """
    u = g + weight_decay * p
    size = leaf_norm(p)
    length = leaf_norm(g) + weight_decay * size if separate_norms else leaf_norm(u)
    ratio = where((size <= 0) | (length <= 0), 1.0, trust_coefficient * size / (length + eps))
    summand = lr * ratio * u if lr_in_momentum else ratio * u
    buf = momentum * state.buf + summand
    step = summand + momentum * buf if nesterov else buf
    return (-step if lr_in_momentum else -lr * step), Momentum(buf)
