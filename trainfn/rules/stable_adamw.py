"""StableAdamW: AdamW that steps less where its second moments lag behind."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.adam import Moments, debiased
from trainfn.rules.clip import rms
from trainfn.verbs import maximum, sqrt


@rule
def stable_adamw(
    step: Any,
    state: Moments,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-2,
) -> Any:
    """StableAdamW (Wortsman et al., arXiv:2304.13013v2, Algorithm 2).

        m_hat, v_hat as in Adam
        r = rms(g / max(sqrt(v_hat), eps)) of the leaf
        p <- p - lr / max(1, r) (m_hat / (sqrt(v_hat) + eps) + weight_decay p)

    It is Adafactor's clipping of updates, decided before momentum.  The paper keeps debiased moments in place of m and
    v, which is the same.
    """
    m_hat, v_hat, after = debiased(step + 1, state, g, b1, b2)
    r = rms(g / maximum(sqrt(v_hat), eps))
    return -lr / maximum(1.0, r) * (m_hat / (sqrt(v_hat) + eps) + weight_decay * p), Moments(after.m, after.v)
