"""Adam and AdamW: steps scaled by running means of the gradient and of its square."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, Static
from trainfn.verbs import maximum, sqrt, square


class Moments(NamedTuple):
    """m: running mean of g; v: running mean of g * g; both shaped like p."""

    m: Array
    v: Array


class MaxMoments(NamedTuple):
    """m, v: as in `Moments`, m absent without b1; v_max: the largest v so far, or v_hat (amsgrad only)."""

    m: Array | None
    v: Array
    v_max: Array | None


@rule
def adam(
    step: Any,
    state: MaxMoments,
    g: Any,
    *,
    lr: Any = 1e-3,
    b1: Any | None = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    eps_root: Any = None,
    nesterov: Static[bool] = False,
    amsgrad: Static[bool] = False,
    max_of_debiased: Static[bool] = False,
) -> Any:
    """Adam (Kingma & Ba, arXiv:1412.6980v9, Algorithm 1).

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        p <- p - lr m_hat / (sqrt(v_hat) + eps)

    With `b1=None` there is no m, and m_hat is g.  For torch's `Adam(weight_decay=...)`, which adds the decay to g, put
    `coupled_weight_decay` before it in a chain.

    eps_root, an option of optax, is added to v_hat under the root.

    nesterov (Dozat, ICLR workshop 2016, with b1 constant, as in optax's nadam; torch's is `nadam`) steps along
    b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t) instead of m_hat.

    amsgrad (Reddi, Kale & Kumar, arXiv:1904.09237v1, Algorithm 2) keeps v_max, the largest v so far, and v_hat is
    v_max / (1 - b2^t), as in torch.  With `max_of_debiased` it is the largest v / (1 - b2^t) so far, as in optax.
    The paper debiases nothing.
    """
    t = step + 1
    m_hat, v_hat, state = debiased(t, state, g, b1, b2, nesterov, amsgrad, max_of_debiased)
    return -lr * (m_hat / root(v_hat, eps, eps_root)), state


@rule
def adamw(
    step: Any,
    state: MaxMoments,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-3,
    b1: Any | None = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-2,
    eps_root: Any = None,
    nesterov: Static[bool] = False,
    amsgrad: Static[bool] = False,
    max_of_debiased: Static[bool] = False,
) -> Any:
    """AdamW: Adam with decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101v3, Algorithm 2).

        m <- b1 m + (1 - b1) g          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) g^2        v_hat = v / (1 - b2^t)
        p <- p - lr (m_hat / (sqrt(v_hat) + eps) + weight_decay p)

    Departs from the paper, as torch and optax do: the decay is multiplied by lr, which takes the place of the
    paper's schedule multiplier eta_t times alpha.  The options are those of `adam`; with nesterov,
    as in optax's nadamw, b1 m / (1 - b1^(t+1)) + (1 - b1) g / (1 - b1^t) takes the place of m_hat.
    """
    t = step + 1
    m_hat, v_hat, state = debiased(t, state, g, b1, b2, nesterov, amsgrad, max_of_debiased)
    return -lr * (m_hat / root(v_hat, eps, eps_root) + weight_decay * p), state


def debiased(
    t: Any,
    state: Any,
    g: Any,
    b1: Any,
    b2: Any,
    nesterov: bool = False,
    amsgrad: bool = False,
    max_of_debiased: bool = False,
) -> tuple[Any, Any, Any]:
    """m_hat, v_hat and the next `MaxMoments`, as the options say; see `adam`."""
    m, m_hat = first_moment(t, state.m, g, b1)
    v = b2 * state.v + (1 - b2) * square(g)
    v_hat = v / (1 - b2**t)
    v_max = None
    if nesterov:
        m_hat = looked_ahead(t, m, g, b1)
    if amsgrad:
        v_max = maximum(state.v_max, v_hat if max_of_debiased else v)
        v_hat = v_max if max_of_debiased else v_max / (1 - b2**t)
    return m_hat, v_hat, MaxMoments(m, v, v_max)


def first_moment(t: Any, m: Any, g: Any, b1: Any | None) -> tuple[Any, Any]:
    """m after this gradient, and m_hat; without b1 None and the gradient."""
    if b1 is None:
        return None, g
    m = b1 * m + (1 - b1) * g
    return m, m / (1 - b1**t)


def looked_ahead(t: Any, m: Any, g: Any, b1: Any) -> Any:
    """Nesterov's m_hat: what it will be at the next step, should the gradient stay."""
    if m is None:
        raise TypeError("nesterov steps along a running mean of gradients, which b1=None leaves out: give a b1.")
    return b1 * (m / (1 - b1 ** (t + 1))) + (1 - b1) * (g / (1 - b1**t))


def root(v: Any, eps: Any, eps_root: Any) -> Any:
    """sqrt(v + eps_root) + eps, by which steps are divided; eps_root None is none."""
    return sqrt(v if eps_root is None else v + eps_root) + eps
