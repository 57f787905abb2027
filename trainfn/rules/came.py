"""CAME: Adafactor with momentum, whose steps are divided by how much they vary."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.adafactor import factored_root
from trainfn.rules.clip import clip_by_rms
from trainfn.rules.matrices import permuted
from trainfn.trace import Array
from trainfn.verbs import axis_sum, sqrt, square, zeros_like


class Confidence(NamedTuple):
    """m: running mean of steps; rows, columns: of g * g along the last two axes; rows_apart, columns_apart: of
    (u - m)^2 along them; v: of g * g for vectors."""

    m: Array
    rows: Array | None
    columns: Array | None
    rows_apart: Array | None
    columns_apart: Array | None
    v: Array | None

    @staticmethod
    def init(p: Any) -> Confidence:
        zeros = zeros_like(p)
        if p.ndim < 2:
            return Confidence(zeros, None, None, None, None, zeros)
        rows, columns = axis_sum(zeros, -1), axis_sum(zeros, -2)
        return Confidence(zeros, rows, columns, rows, columns, None)

    def permuted(self, axes: tuple[int, ...], due: Any) -> Confidence:
        (m,), (v,) = permuted((self.m,), axes, (due.m,)), permuted((self.v,), axes, (due.v,))
        rows, columns = permuted((self.rows, self.columns), axes, (due.rows, due.columns))
        apart = permuted((self.rows_apart, self.columns_apart), axes, (due.rows_apart, due.columns_apart))
        return Confidence(m, rows, columns, apart[0], apart[1], v)


@rule
def came(
    state: Confidence,
    g: Any,
    p: Any,
    *,
    lr: Any = 2e-4,
    b1: Any = 0.9,
    b2: Any = 0.999,
    b3: Any = 0.9999,
    eps1: Any = 1e-30,
    eps2: Any = 1e-16,
    d: Any = 1.0,
    weight_decay: Any = 0.0,
) -> Any:
    """CAME (Luo et al., arXiv:2307.02047v2, Algorithm 2).

        v = factored running mean of g^2 + eps1            as in `adafactor`, with b2 constant
        u = g / sqrt(v)
        u <- u / max(1, rms(u) / d)
        m <- b1 m + (1 - b1) u
        w = factored running mean of (u - m)^2 + eps2      with b3
        p <- p - lr (m / sqrt(w) + weight_decay p)

    Vectors keep v whole and step along m.
    """
    if g.ndim < 2:
        v = b2 * state.v + (1 - b2) * (square(g) + eps1)
        u = clip_by_rms.function(g / sqrt(v), max_rms=d)
        m = b1 * state.m + (1 - b1) * u
        return -lr * (m + weight_decay * p), Confidence(m, None, None, None, None, v)
    root, rows, columns = factored_root(state.rows, state.columns, square(g) + eps1, b2)
    u = clip_by_rms.function(g / root, max_rms=d)
    m = b1 * state.m + (1 - b1) * u
    apart, rows_apart, columns_apart = factored_root(state.rows_apart, state.columns_apart, square(u - m) + eps2, b3)
    return -lr * (m / apart + weight_decay * p), Confidence(m, rows, columns, rows_apart, columns_apart, None)
