"""Steps that are signs: of the gradient, or of its running mean."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.lion import Mean
from trainfn.verbs import sign


@rule
def sign_sgd(g: Any, *, lr: Any = 1e-3) -> Any:
    """signSGD (Bernstein et al., arXiv:1802.04434v3, Algorithm 1 on one machine): p <- p - lr sign(g)."""
    return -lr * sign(g)


@rule
def signum(state: Mean, g: Any, *, lr: Any = 1e-3, b1: Any = 0.9) -> Any:
    """Signum (Bernstein et al., arXiv:1802.04434v3, Algorithm 2 on one machine).

    m <- b1 m + (1 - b1) g
    p <- p - lr sign(m)

    With decay after it, chain(signum(b1=0.965), decoupled_weight_decay()), it is what its author calls Tiger.
    """
    m = b1 * state.m + (1 - b1) * g
    return -lr * sign(m), Mean(m)
