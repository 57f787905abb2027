"""RAdam: Adam that waits until its second moment can be trusted."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.adam import first_moment, looked_ahead, root
from trainfn.trace import Array, Static
from trainfn.verbs import sqrt, square, where


class Moments(NamedTuple):
    """m: running mean of g, absent without b1; v: running mean of g * g; both shaped like p."""

    m: Array | None
    v: Array


@rule
def radam(
    step: Any,
    state: Moments,
    g: Any,
    *,
    lr: Any = 1e-3,
    b1: Any | None = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    threshold: Any = 5.0,
    eps_root: Any = None,
    nesterov: Static[bool] = False,
    eps_before_debias: Static[bool] = False,
) -> Any:
    """RAdam (Liu et al., arXiv:1908.03265v4, Algorithm 2).

        m, v, m_hat, v_hat as in Adam
        rho_inf = 2 / (1 - b2) - 1      rho = rho_inf - 2 t b2^t / (1 - b2^t)
        r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))
        p <- p - lr r m_hat / (sqrt(v_hat) + eps)    if rho > threshold, else p - lr m_hat

    The paper's threshold is 4 and it has no eps; 5 and eps are torch's and optax's.  With `eps_before_debias` the
    denominator is (sqrt(v) + eps) / sqrt(1 - b2^t), which is torch's.  With `b1=None` there is no m, and m_hat is g.
    eps_root, which is added to v_hat under the root, and nesterov, that of `adam`, are options of optax.
    """
    t = step + 1
    m, m_hat = first_moment(t, state.m, g, b1)
    if nesterov:
        m_hat = looked_ahead(t, m, g, b1)
    v = b2 * state.v + (1 - b2) * square(g)
    debias = 1 - b2**t
    rho_inf = 2 / (1 - b2) - 1
    rho = rho_inf - 2 * t * b2**t / debias
    r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    scaled = m_hat / (sqrt(v) + eps) * sqrt(debias) if eps_before_debias else m_hat / root(v / debias, eps, eps_root)
    return -lr * where(rho > threshold, r * scaled, m_hat), Moments(m, v)
