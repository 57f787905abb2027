"""Stochastic gradient descent, plain and with momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, Static
from trainfn.verbs import where


class Momentum(NamedTuple):
    """buf: decaying sum of gradients, shaped like p; absent without momentum."""

    buf: Array | None


@rule
def sgd(
    step: Any,
    state: Momentum,
    g: Any,
    *,
    lr: Any = 1e-3,
    momentum: Any = None,
    dampening: Any = None,
    nesterov: Static[bool] = False,
) -> Any:
    """Stochastic gradient descent with momentum (Sutskever et al., ICML 2013, as torch and optax write it).

        buf <- momentum buf + (1 - dampening) g
        p   <- p - lr buf                       or, with nesterov, p - lr (g + momentum buf)

    Without momentum p <- p - lr g.  As in torch the first gradient is not dampened.
    """
    if nesterov and momentum is None:
        raise TypeError("sgd: nesterov needs momentum, as in sgd(momentum=0.9, nesterov=True).")
    if momentum is None:
        return -lr * g, Momentum(None)
    dampened = g if dampening is None else where(step == 0, g, (1 - dampening) * g)
    buf = momentum * state.buf + dampened
    u = g + momentum * buf if nesterov else buf
    return -lr * u, Momentum(buf)
