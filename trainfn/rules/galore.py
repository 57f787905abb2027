"""GaLore: Adam that remembers a projection of the gradient to few dimensions."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.adam import debiased, root
from trainfn.rules.decay import decayed
from trainfn.rules.matrices import as_matrix, is_due
from trainfn.trace import Array, Static
from trainfn.verbs import eigenvectors, leading, matmul, orthogonal, reshape, transpose, when, zeros_like


class Projected(NamedTuple):
    """P: the projector, with orthonormal columns; m, v: running means of the projected g and of its square.

    Vectors have no P, and m and v of their own shape.
    """

    P: Array | None
    m: Array
    v: Array

    @staticmethod
    def init(p: Any, rank: int, longer_side: bool) -> Projected:
        zeros = zeros_like(p)
        if p.ndim < 2:
            return Projected(None, zeros, zeros)
        is_left, rank = _projection(p, rank, longer_side)
        x = as_matrix(zeros)
        P = leading(x if is_left else transpose(x), rank)
        projected = transpose(leading(transpose(x), rank)) if is_left else leading(x, rank)
        return Projected(P, projected, projected)

    def permuted(self, axes: tuple[int, ...], due: Any) -> Projected:
        if self.P is None or axes == tuple(range(len(axes))):
            return Projected(self.P, self.m.transpose(axes), self.v.transpose(axes))
        other_side = self.m.size // max(self.P.shape[1], 1)
        if axes != (1, 0) or other_side == self.P.shape[0]:
            raise ValueError(
                "its projector would be of the other side. Keep the axes of this leaf, or give it a LeafState without "
                "values, to begin anew."
            )
        return Projected(self.P, self.m.T, self.v.T)


@rule
def galore(
    step: Any,
    state: Projected,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-2,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    scale: Any = 0.25,
    weight_decay: Any | None = 0.0,
    every: Any = 200.0,
    rank: Static[int] = 128,
    longer_side: Static[bool] = False,
    precision: Static[str] = "high",
) -> Any:
    """GaLore with Adam (Zhao et al., arXiv:2403.03507v2, Algorithm 2).

        in the first update, and every `every` from it on:  P <- the first `rank` left singular vectors of g
        m <- b1 m + (1 - b1) P^T g          m_hat = m / (1 - b1^t)
        v <- b2 v + (1 - b2) (P^T g)^2      v_hat = v / (1 - b2^t)
        p <- p - lr (scale P m_hat / (sqrt(v_hat) + eps) + weight_decay p)

    for a matrix with at most as many rows as columns; of others the columns are projected.  With `longer_side` it is
    the other way round, as in optax: more to remember.  scale is the paper's alpha.  m and v stay what they are when P
    is renewed.  A leaf of more than two axes is the matrix that its other axes make of the first; vectors have Adam.

    P is made of eigenvectors of g g^T or g^T g, whichever is the smaller: in float32 a singular vector can be told from
    others if its value is above some 1e-3 of the largest.  The signs of singular vectors are arbitrary, and m is kept
    when they are renewed: where another implementation has other signs, its path leaves this one there (optax's
    does, by its library's svd).  precision is that of the products (`trainfn.verbs.matmul`).
    """
    t = step + 1
    if g.ndim < 2:
        m_hat, v_hat, after = debiased(t, state, g, b1, b2)
        return -lr * decayed(m_hat / root(v_hat, eps, None), weight_decay, p), Projected(None, after.m, after.v)
    is_left, rank = _projection(g, rank, longer_side)
    x = as_matrix(g)
    last: Any = state.P
    P = when(is_due(step, every), _projector(x if is_left else transpose(x), rank, precision), last)
    projected = matmul(transpose(P), x, precision) if is_left else matmul(x, P, precision)
    m_hat, v_hat, after = debiased(t, state, projected, b1, b2)
    n = m_hat / root(v_hat, eps, None)
    u = matmul(P, n, precision) if is_left else matmul(n, transpose(P), precision)
    return -lr * decayed(scale * reshape(u, g.shape), weight_decay, p), Projected(P, after.m, after.v)


def _projection(p: Any, rank: int, longer_side: bool) -> tuple[bool, int]:
    """Whether rows are projected, and to how many."""
    if rank < 1:
        raise ValueError(f"galore: rank = {rank} must be at least 1.")
    rows, columns = as_matrix(p).shape
    return rows >= columns if longer_side else rows <= columns, min(rank, rows, columns)


def _projector(x: Any, rank: int, precision: str) -> Any:
    """The first left singular vectors of x, as columns."""
    rows, columns = x.shape
    if rows <= columns:
        return leading(eigenvectors(matmul(x, transpose(x), precision)), rank)
    right = leading(eigenvectors(matmul(transpose(x), x, precision)), rank)
    return orthogonal(matmul(x, right, precision))
