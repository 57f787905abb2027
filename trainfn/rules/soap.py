"""SOAP: Adam in the bases in which Shampoo's matrices are diagonal."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.matrices import as_matrix, is_due, swapped
from trainfn.rules.shampoo import grams, on_both_sides, sizes, there
from trainfn.trace import Array, Static
from trainfn.verbs import (
    eigenvectors,
    identity,
    matmul,
    maximum,
    orthogonal,
    reshape,
    sqrt,
    square,
    transpose,
    when,
    where,
    zeros_like,
)


class Rotated(NamedTuple):
    """m: running mean of g; v: of g * g in the bases; both shaped like p.

    L, R: running means of g g^T and g^T g; Q_L, Q_R: the bases, as columns.  Of a leaf seen as a matrix; those of a
    side exist that is not longer than max_size, of a vector none.
    """

    m: Array
    v: Array
    L: Array | None
    R: Array | None
    Q_L: Array | None
    Q_R: Array | None

    @staticmethod
    def init(p: Any, max_size: int) -> Rotated:
        Q_L, Q_R = (None if n is None else identity(p, n) for n in _sizes(p, max_size))
        L, R = (None if x is None else 0.0 * x for x in (Q_L, Q_R))
        return Rotated(zeros_like(p), zeros_like(p), L, R, Q_L, Q_R)

    def permuted(self, axes: tuple[int, ...], due: Any) -> Rotated:
        L, R = swapped((self.L, self.R), axes)
        Q_L, Q_R = swapped((self.Q_L, self.Q_R), axes)
        return Rotated(self.m.transpose(axes), self.v.transpose(axes), L, R, Q_L, Q_R)


@rule
def soap(
    step: Any,
    state: Rotated,
    g: Any,
    p: Any,
    *,
    lr: Any = 3e-3,
    b1: Any = 0.95,
    b2: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    every: Any = 10.0,
    max_size: Static[int] = 10000,
    precision: Static[str] = "high",
) -> Any:
    """SOAP (Vyas et al., arXiv:2409.11321v2, Algorithms 3 and 4).

        m <- b1 m + (1 - b1) g
        v <- b2 v + (1 - b2) (Q_L^T g Q_R)^2
        p <- p - lr (a Q_L (Q_L^T m Q_R / (sqrt(v) + eps)) Q_R^T + weight_decay p),  a = sqrt(1 - b2^t) / (1 - b1^t)
        L <- b2 L + (1 - b2) g g^T;  R <- b2 R + (1 - b2) g^T g
        every `every` updates:  Q_L <- Q of the QR decomposition of L Q_L, and Q_R of R Q_R

    The first update moves nothing and leaves m and v as they are: it begins L and R, of which Q_L and Q_R are the
    eigenvectors then, and t counts from the second.  The paper leaves open how it begins; this is the authors' code,
    for in bases made of g itself all of it but its singular values is rounding error, which Adam would make a step of.

    A leaf of more than two axes is the matrix that its other axes make of the first.  A side longer than max_size is
    left alone, and so are vectors, which have Adam.  The authors sort columns, and v with them, by the eigenvalues
    they seem to have before each QR decomposition, which brings about that order by itself; the paper does not.

    precision is that of the products (`trainfn.verbs.matmul`).
    """
    is_first = step < 1
    t = maximum(step, 1.0)
    x, lengths = as_matrix(g), _sizes(g, max_size)
    Q_L, Q_R = there((state.Q_L, state.Q_R), lengths)
    m = where(is_first, state.m, b1 * state.m + (1 - b1) * g)
    rotated_g, rotated_m = (
        on_both_sides(None if Q_L is None else transpose(Q_L), y, Q_R, precision) for y in (x, as_matrix(m))
    )
    v = where(is_first, as_matrix(state.v), b2 * as_matrix(state.v) + (1 - b2) * square(rotated_g))
    n = on_both_sides(Q_L, rotated_m / (sqrt(v) + eps), None if Q_R is None else transpose(Q_R), precision)
    u = sqrt(1 - b2**t) / (1 - b1**t) * reshape(n, p.shape) + weight_decay * p
    L, R = grams(x, there((state.L, state.R), lengths), b2, precision)
    is_renewed = is_due(step, every) & ~is_first
    bases = (_basis(*side, is_first, is_renewed, precision) for side in ((L, Q_L), (R, Q_R)))
    return where(is_first, 0.0, -lr * u), Rotated(m, reshape(v, p.shape), L, R, *bases)


def _basis(gram: Any, q: Any, is_first: Any, is_renewed: Any, precision: str) -> Any:
    if gram is None:
        return None
    renewed = when(is_renewed, orthogonal(matmul(gram, q, precision)), q)
    return when(is_first, eigenvectors(gram), renewed)


def _sizes(p: Any, max_size: int) -> tuple[int | None, int | None]:
    return sizes(p, max_size) if p.ndim > 1 else (None, None)
