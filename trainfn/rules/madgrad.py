"""MADGRAD: dual averaging with momentum, and cube roots of sums of squares."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array
from trainfn.verbs import sqrt, square, where, zeros_like


class Averages(NamedTuple):
    """s, v: weighted sums of g and of g * g; p0: the parameter at the beginning; all shaped like p."""

    s: Array
    v: Array
    p0: Array

    @staticmethod
    def init(p: Any) -> Averages:
        return Averages(zeros_like(p), zeros_like(p), p)


@rule
def madgrad(
    step: Any,
    state: Averages,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-2,
    momentum: Any = 0.9,
    weight_decay: Any = 0.0,
    eps: Any = 1e-6,
) -> Any:
    """MADGRAD (Defazio & Jelassi, arXiv:2101.11075v3, Algorithm 1).

        g <- g + weight_decay p
        w = (lr + eps) sqrt(t)                         or 0 where lr is
        s <- s + w g
        v <- v + w g^2
        z = p0 - s / (cbrt(v) + eps)
        p <- momentum p + (1 - momentum) z

    momentum is 1 - c of the paper.  eps beside lr is the authors' code's and optax's.
    """
    g = g + weight_decay * p
    w = where(lr > 0, lr + eps, 0.0) * sqrt(step + 1)
    s = state.s + w * g
    v = state.v + w * square(g)
    z = state.p0 - s / (cube_root(v) + eps)
    return (1 - momentum) * (z - p), Averages(s, v, state.p0)


def cube_root(x: Any) -> Any:
    """The cube root of x >= 0, within 3 units in the last place, in operations that have the same bits everywhere.

    x^(1/4) x^(1/16) x^(1/64) is off by a factor of at most 1.6, in float32; each of Halley's steps raises the error to
    its third power.  Numbers whose products of three would underflow are scaled by 2^60.
    """
    is_small = x < 1e-30
    x = where(is_small, x * 2.0**60, x)
    fourth = sqrt(sqrt(x))
    sixteenth = sqrt(sqrt(fourth))
    y = fourth * sixteenth * sqrt(sqrt(sixteenth))
    for _ in range(3):
        ratio = x / (y * y * y)
        y = y * ((1 + 2 * ratio) / (2 + ratio))
    y = where(x > 0, y, x)
    return where(is_small, y * 2.0**-20, y)
