"""AdaBelief and ACProp: steps scaled by how far gradients are from what was expected of them."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.adam import looked_ahead
from trainfn.rules.decay import decayed
from trainfn.trace import Array, Static
from trainfn.verbs import sqrt, square, where


class Belief(NamedTuple):
    """m: running mean of g; s: running mean of its squared deviation; both shaped like p."""

    m: Array
    s: Array


@rule
def adabelief(
    step: Any,
    state: Belief,
    g: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    nesterov: Static[bool] = False,
) -> Any:
    """AdaBelief (Zhuang et al., arXiv:2010.07468v5, Algorithm 2).

        m <- b1 m + (1 - b1) g                          m_hat = m / (1 - b1^t)
        s <- b2 s + (1 - b2) (g - m)^2 + eps_root       s_hat = s / (1 - b2^t)
        p <- p - lr m_hat / (sqrt(s_hat) + eps)

    The paper has one eps for both places; two are optax's.  eps_root is added at every step and stays in s.
    nesterov, an option of optax, is that of `adam`.
    """
    t = step + 1
    m = b1 * state.m + (1 - b1) * g
    s = b2 * state.s + (1 - b2) * square(g - m) + eps_root
    m_hat = looked_ahead(t, m, g, b1) if nesterov else m / (1 - b1**t)
    s_hat = s / (1 - b2**t)
    return -lr * (m_hat / (sqrt(s_hat) + eps)), Belief(m, s)


@rule
def acprop(
    step: Any,
    state: Belief,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    eps_root: Any = 1e-16,
    weight_decay: Any | None = 0.0,
) -> Any:
    """ACProp (Zhuang et al., arXiv:2110.05454): the gradient over the s of the step before.

        s_hat = s / (1 - b2^(t-1)), and 1 at the first step
        p <- p - lr (g / (sqrt(s_hat) + eps) + weight_decay p)
        s <- b2 s + (1 - b2) (g - m)^2 + eps_root
        m <- b1 m + (1 - b1) g

    As in optax s is of g less the old m.  Its documentation takes the new one, which makes s smaller by b1^2.
    """
    m = b1 * state.m + (1 - b1) * g
    s = b2 * state.s + (1 - b2) * square(g - state.m) + eps_root
    s_hat = where(step > 0, state.s / (1 - b2**step), 1.0)
    return -lr * decayed(g / (sqrt(s_hat) + eps), weight_decay, p), Belief(m, s)
