"""ADOPT: a gradient scaled by the past alone, and momentum after that."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.adam import Moments
from trainfn.trace import Static
from trainfn.verbs import clip, maximum, sqrt, square, where


@rule
def adopt(
    step: Any,
    state: Moments,
    g: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.9999,
    eps: Any = 1e-6,
    nesterov: Static[bool] = False,
    use_clipping: Static[bool] = True,
) -> Any:
    """ADOPT (Taniguchi et al., arXiv:2411.02853v3, with the clipping that its first version lacks).

        c = g / max(sqrt(v), eps), clipped to [-step^(1/4), step^(1/4)]
        m <- b1 m + (1 - b1) c          m stays 0 at the first step
        v <- b2 v + (1 - b2) g^2        v is g^2 after the first step
        p <- p - lr m                   or, with nesterov, p - lr (b1 m + (1 - b1) c)

    step counts from 0, so that the first update moves nothing.  Without `use_clipping` it is the paper's first
    form.  nesterov is optax's.
    """
    v = where(step > 0, b2 * state.v + (1 - b2) * square(g), square(g))
    c = g / maximum(sqrt(state.v), eps)
    if use_clipping:
        c = clip(c, -(step**0.25), step**0.25)
    c = where(step > 0, c, 0.0)
    m = b1 * state.m + (1 - b1) * c
    u = b1 * m + (1 - b1) * c if nesterov else m
    return -lr * u, Moments(m, v)
