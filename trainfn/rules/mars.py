"""MARS: AdamW on gradients corrected by their change."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.adam import MaxMoments, debiased, root
from trainfn.trace import Array
from trainfn.verbs import leaf_norm, maximum


class CorrectedMoments(NamedTuple):
    """m, v: running means of c and c * c, c the corrected gradient; g_last: the last g; all shaped like p."""

    m: Array
    v: Array
    g_last: Array


@rule
def mars(
    step: Any,
    state: CorrectedMoments,
    g: Any,
    p: Any,
    *,
    lr: Any = 3e-3,
    b1: Any = 0.95,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    gamma: Any = 0.025,
    eps_root: Any = None,
) -> Any:
    """MARS-AdamW (Yuan et al., arXiv:2411.10438v4, the approximate form, which needs one gradient a step).

        c = g + gamma b1 / (1 - b1) (g - g_last), scaled to norm 1 if its norm in the leaf is larger
        m_hat, v_hat as in Adam, of c
        p <- p - lr (m_hat / (sqrt(v_hat + eps_root) + eps) + weight_decay p)

    g_last begins at 0.  The paper has no eps_root.
    """
    c = g + gamma * b1 / (1 - b1) * (g - state.g_last)
    c = c / maximum(leaf_norm(c), 1.0)
    m_hat, v_hat, moments = debiased(step + 1, MaxMoments(state.m, state.v, None), c, b1, b2)
    u = m_hat / root(v_hat, eps, eps_root)
    return -lr * (u + weight_decay * p), CorrectedMoments(moments.m, moments.v, g)
