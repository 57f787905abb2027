"""Adan: Nesterov's momentum from differences of gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.adam import root
from trainfn.rules.decay import decayed
from trainfn.trace import Array, Static
from trainfn.verbs import square, where


class Differences(NamedTuple):
    """Running means, of g: m; of its change d: v; of (g + c d)^2: n; g_last: the last g.  All shaped like p."""

    m: Array
    v: Array
    n: Array
    g_last: Array


@rule
def adan(
    step: Any,
    state: Differences,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.98,
    b2: Any = 0.92,
    b3: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any | None = 0.0,
    eps_root: Any = None,
    one_minus_b2: Static[bool] = False,
) -> Any:
    """Adan (Xie et al., arXiv:2208.06677v4, Algorithm 1).

        d = g - g_last, and 0 at the first step             c = b2
        m <- b1 m + (1 - b1) g                              m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) d                              v_hat = v / (1 - b2^t)
        n <- b3 n + (1 - b3) (g + c d)^2                    n_hat = n / (1 - b3^t)
        p <- p - lr ((m_hat + c v_hat) / (sqrt(n_hat + eps_root) + eps) + weight_decay p)

    The paper's betas are one minus these, which are those of its authors' code; its decay divides p by
    1 + lr weight_decay.  With `one_minus_b2` c is 1 - b2: optax's adan, which takes b2 from the code and c from the
    paper, so that with its defaults differences count 0.08 where they should count 0.92.
    """
    t = step + 1
    c = 1 - b2 if one_minus_b2 else b2
    d = where(step > 0, g - state.g_last, 0.0)
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * d
    n = b3 * state.n + (1 - b3) * square(g + c * d)
    m_hat = m / (1 - b1**t)
    v_hat = v / (1 - b2**t)
    n_hat = n / (1 - b3**t)
    u = (m_hat + c * v_hat) / root(n_hat, eps, eps_root)
    return -lr * decayed(u, weight_decay, p), Differences(m, v, n, g)
