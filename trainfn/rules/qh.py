"""QHM and QHAdam: quasi-hyperbolic averages, of a running mean and the gradient of the moment."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.adam import MaxMoments, Moments, debiased
from trainfn.rules.lion import Mean
from trainfn.verbs import sqrt, square


@rule
def qhm(state: Mean, g: Any, *, lr: Any = 1.0, momentum: Any = 0.999, nu: Any = 0.7) -> Any:
    """QHM, quasi-hyperbolic momentum (Ma & Yarats, arXiv:1810.06801v4).

        m <- momentum m + (1 - momentum) g
        p <- p - lr ((1 - nu) g + nu m)

    The defaults are the paper's rule of thumb.  nu = 0 is gradient descent.  m is a mean, so that lr is that of `sgd`
    over 1 - momentum.
    """
    m = momentum * state.m + (1 - momentum) * g
    return -lr * ((1 - nu) * g + nu * m), Mean(m)


@rule
def qhadam(
    step: Any,
    state: Moments,
    g: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.995,
    b2: Any = 0.999,
    nu1: Any = 0.7,
    nu2: Any = 1.0,
    eps: Any = 1e-8,
) -> Any:
    """QHAdam (Ma & Yarats, arXiv:1810.06801v4): Adam where nu1 = nu2 = 1.

    m_hat, v_hat as in Adam
    p <- p - lr ((1 - nu1) g + nu1 m_hat) / (sqrt((1 - nu2) g^2 + nu2 v_hat) + eps)
    """
    m_hat, v_hat, after = debiased(step + 1, MaxMoments(state.m, state.v, None), g, b1, b2)
    u = ((1 - nu1) * g + nu1 * m_hat) / (sqrt((1 - nu2) * square(g) + nu2 * v_hat) + eps)
    return -lr * u, Moments(after.m, after.v)
