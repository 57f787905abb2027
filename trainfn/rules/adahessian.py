"""AdaHessian: Adam whose second moment is that of the Hessian's diagonal."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, ModelScalar
from trainfn.verbs import count_if, sqrt, square, where


class CurvatureMoments(NamedTuple):
    """m: running mean of g; v: that of squared estimates of the Hessian's diagonal; both shaped like p.

    updates_left: of the model; 0 if the next call brings an estimate, 1 if it is the update.
    """

    m: Array
    v: Array
    updates_left: ModelScalar


@rule
def adahessian(
    step: Any,
    state: CurvatureMoments,
    g: Any,
    p: Any,
    *,
    lr: Any = 0.1,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-16,
    weight_decay: Any = 0.0,
) -> Any:
    """AdaHessian (Yao et al., arXiv:2006.00719, with the power k = 1), in two calls for each update.

        first    v <- b2 v + (1 - b2) d^2              v_hat = v / (1 - b2^t)
        second   m <- b1 m + (1 - b1) g                m_hat = m / (1 - b1^t)
                 p <- p - lr (m_hat / (sqrt(v_hat) + eps) + weight_decay p)

    The first is given d in place of the gradient: u (H u), with u of random signs and H u the Hessian's product, and
    in convolutions its size averaged over the kernel.  It changes v alone and does not count as an update; `sophia`
    shows the loop.  lr, eps and decay are pytorch_optimizer's.

    What is given to links before it in a chain is an estimate, too, in a first call.  A call that is skipped from
    outside is still to be made: repeat it.  It cannot stand in a partition.
    """
    t = step + 1
    is_estimate = state.updates_left < 0.5
    v = where(is_estimate, b2 * state.v + (1 - b2) * square(g), state.v)
    m = where(is_estimate, state.m, b1 * state.m + (1 - b1) * g)
    u = m / (1 - b1**t) / (sqrt(v / (1 - b2**t)) + eps)
    update = where(is_estimate, -0.0, -lr * (u + weight_decay * p))
    return count_if(~is_estimate, update), CurvatureMoments(m, v, where(is_estimate, 1.0, 0.0))
