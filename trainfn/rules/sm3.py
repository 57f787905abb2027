"""SM3: second moments kept as one number for each slice of a leaf along each axis."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.matrices import permuted
from trainfn.trace import Array
from trainfn.verbs import axis_max, minimum, sqrt, square, where, zeros_like


class Covers(NamedTuple):
    """m: running mean of steps, shaped like p; mu0 to mu4: for each index along an axis the largest accumulator of its
    slice, with length 1 along the others; a leaf has as many as axes, a 0-d one has one."""

    m: Array
    mu0: Array
    mu1: Array | None
    mu2: Array | None
    mu3: Array | None
    mu4: Array | None

    @staticmethod
    def init(p: Any) -> Covers:
        return _covers(zeros_like(p), zeros_like(p))

    def permuted(self, axes: tuple[int, ...], due: Any) -> Covers:
        return Covers(*permuted((self.m,), axes, (due.m,)), *permuted(self[1:], axes, due[1:]))


@rule
def sm3(state: Covers, g: Any, *, lr: Any = 1e-1, momentum: Any = 0.9, eps: Any = 1e-8) -> Any:
    """SM3-II (Anil et al., arXiv:1901.11150v2, with momentum), a cover being all slices along one axis.

        v   = min over axes of mu + g^2
        mu  <- max of v over each slice
        u   = g / sqrt(v + eps)                             0 where v is
        m   <- momentum m + (1 - momentum) u
        p   <- p - lr m

    The paper has no eps.  Leaves have up to five axes.
    """
    mu: Any = state[1:][: max(g.ndim, 1)]
    v = functools.reduce(minimum, mu) + square(g)
    u = where(v > 0, g / sqrt(v + eps), 0.0)
    m = momentum * state.m + (1 - momentum) * u
    return -lr * m, _covers(m, v)


def _covers(m: Any, v: Any) -> Covers:
    if v.ndim > 5:
        raise ValueError(f"sm3 takes leaves of up to five axes: give one of shape {v.shape} another rule.")
    each = [_largest(v, set(range(v.ndim)) - {axis}) for axis in range(max(v.ndim, 1))]
    return Covers(m, *each, *[None] * (5 - len(each)))


def _largest(v: Any, axes: set[int]) -> Any:
    """The largest along several axes, which stay with length 1."""
    return functools.reduce(axis_max, sorted(axes), v)
