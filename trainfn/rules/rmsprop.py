"""RMSprop: steps scaled by a running mean of the squared gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, Static
from trainfn.verbs import full_like, sqrt, square, zeros_like


class MeanSquare(NamedTuple):
    """v: running mean of g * g; mean: of g (centered only); buf: decaying sum of steps (with momentum only)."""

    v: Array
    mean: Array | None
    buf: Array | None

    @staticmethod
    def init(p: Any, initial_scale: Any) -> MeanSquare:
        return MeanSquare(full_like(p, initial_scale), zeros_like(p), zeros_like(p))


@rule
def rmsprop(
    step: Any,
    state: MeanSquare,
    g: Any,
    *,
    lr: Any = 1e-2,
    decay: Any = 0.99,
    eps: Any = 1e-8,
    momentum: Any = None,
    initial_scale: Any = 0.0,
    centered: Static[bool] = False,
    nesterov: Static[bool] = False,
    eps_in_sqrt: Static[bool] = False,
    lr_in_momentum: Static[bool] = False,
    debias: Static[bool] = False,
) -> Any:
    """RMSprop (Hinton, Coursera lecture 6e, 2012; centered: Graves, arXiv:1308.0850v5, eq. 38-45).

        v    <- decay v + (1 - decay) g^2
        mean <- decay mean + (1 - decay) g            (centered: v - mean^2 takes the place of v below)
        u    <- g / (sqrt(v) + eps)                   or, with eps_in_sqrt, g / sqrt(v + eps)
        buf  <- momentum buf + u;  p <- p - lr buf    (without momentum p - lr u)

    Defaults are torch's.  optax's rmsprop is decay = 0.9, eps_in_sqrt, and lr_in_momentum: the buffer then sums
    lr u, which differs once lr changes.  With `debias`, optax's bias_correction, v and mean are divided by
    1 - decay^t before they are used.
    """
    v = decay * state.v + (1 - decay) * square(g)
    mean = decay * state.mean + (1 - decay) * g if centered else None
    weight = 1 - decay ** (step + 1) if debias else None
    spread = _over(v, weight)
    if centered:
        spread = spread - square(_over(mean, weight))
    u = g / (sqrt(spread + eps) if eps_in_sqrt else sqrt(spread) + eps)
    if momentum is None:
        return -lr * u, MeanSquare(v, mean, None)
    summand = lr * u if lr_in_momentum else u
    buf = momentum * state.buf + summand
    moved = summand + momentum * buf if nesterov else buf
    return (-moved if lr_in_momentum else -lr * moved), MeanSquare(v, mean, buf)


def _over(x: Any, weight: Any) -> Any:
    return x if weight is None else x / weight
