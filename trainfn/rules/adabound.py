"""AdaBound: Adam whose steps are held between bounds that close on those of gradient descent."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.adam import Moments, root
from trainfn.verbs import clip, square


@rule
def adabound(
    step: Any,
    state: Moments,
    g: Any,
    *,
    lr: Any = 1e-3,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    final_lr: Any = 0.1,
    gamma: Any = 1e-3,
    eps_root: Any = None,
) -> Any:
    """AdaBound (Luo et al., arXiv:1902.09843v1, Algorithm 2, as the authors' code writes it).

        m, v, v_hat as in Adam
        eta = lr / (1 - b1^t) / (sqrt(v_hat + eps_root) + eps)
        p <- p - clip(eta, final_lr (1 - 1 / (gamma t + 1)), final_lr (1 + 1 / (gamma t))) m

    The paper divides by sqrt(t), debiases nothing and has no eps, nor the code an eps_root.  The code scales final_lr
    with a schedule of lr: give final_lr one, too.
    """
    t = step + 1
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * square(g)
    eta = lr / (1 - b1**t) / root(v / (1 - b2**t), eps, eps_root)
    lower = final_lr * (1 - 1 / (gamma * t + 1))
    upper = final_lr * (1 + 1 / (gamma * t))
    return -(clip(eta, lower, upper) * m), Moments(m, v)
