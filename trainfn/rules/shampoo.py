"""Shampoo: gradients multiplied by inverse roots of what they were, a matrix for each side."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.matrices import as_matrix, is_due, swapped
from trainfn.trace import Array, Static
from trainfn.verbs import (
    axis_sum,
    eigenvectors,
    identity,
    leaf_norm,
    matmul,
    maximum,
    reshape,
    sqrt,
    transpose,
    when,
    where,
)


class Sides(NamedTuple):
    """L, R: sums or running means of g g^T and of g^T g; L_root, R_root: inverse roots of them.

    Of a leaf seen as a matrix; those of a side exist that is not longer than max_size, of a vector L alone.
    """

    L: Array | None
    R: Array | None
    L_root: Array | None
    R_root: Array | None

    @staticmethod
    def init(p: Any, max_size: int) -> Sides:
        L_root, R_root = (None if n is None else identity(p, n) for n in sizes(p, max_size))
        L, R = (None if x is None else 0.0 * x for x in (L_root, R_root))
        return Sides(L, R, L_root, R_root)

    def permuted(self, axes: tuple[int, ...], due: Any) -> Sides:
        L, R = swapped((self.L, self.R), axes)
        L_root, R_root = swapped((self.L_root, self.R_root), axes)
        return Sides(L, R, L_root, R_root)


@rule
def shampoo(
    step: Any,
    state: Sides,
    g: Any,
    *,
    lr: Any = 1e-2,
    b2: Any = None,
    eps: Any = 1e-6,
    every: Any = 1.0,
    max_size: Static[int] = 2048,
    precision: Static[str] = "high",
) -> Any:
    """Shampoo (Gupta, Koren & Singer, arXiv:1802.09568v2, Algorithm 1).

        L <- L + g g^T;  R <- R + g^T g
        p <- p - lr (L + eps)^(-1/4) g (R + eps)^(-1/4)

    With b2 L and R are running means, b2 L + (1 - b2) g g^T.  Their roots are made anew in the first update and every
    `every` updates from it on, and kept in between.  Roots that are kept multiply what is in no direction of the
    gradients they were made of by eps^(-1/2), a thousand: with every > 1 choose eps as large as eigenvalues are, or
    graft.  A leaf of more than two axes is the matrix that its other axes make of the first.

    A side longer than max_size is left alone.  With one side left, as vectors have it, the exponent is -1/2, as in
    the paper's Algorithm 2 for tensors of one axis; with none the update is -lr g.

    Steps have a size of their own, which differs from layer to layer: see `grafted_shampoo`.  precision is that of the
    products (`trainfn.verbs.matmul`).
    """
    d, state = _direction(step, state, g, b2, eps, every, max_size, precision)
    return -lr * d, state


@rule
def grafted_shampoo(
    inner: Any,
    step: Any,
    state: Sides,
    g: Any,
    *,
    b2: Any = None,
    eps: Any = 1e-6,
    every: Any = 10.0,
    max_size: Static[int] = 2048,
    precision: Static[str] = "high",
) -> Any:
    """Shampoo's direction, in steps as long as those of the inner rule, leaf by leaf: grafting.

        p <- p - |u| d / |d|           u the inner rule's update, d = (L + eps)^(-1/4) g (R + eps)^(-1/4)

    Anil et al., arXiv:2002.09018v2, section 4.4, around adagrad(), adam() or sgd().  The rest is said at `shampoo`.
    Inside of `accumulate` roots that are due are made in each of its calls, because |d| is asked for in all of them.
    """
    u = inner(g)
    d, state = _direction(step, state, g, b2, eps, every, max_size, precision)
    length = leaf_norm(d)
    return -where(length > 0, leaf_norm(u) / length, 0.0) * d, state


def sizes(p: Any, max_size: int) -> tuple[int | None, int | None]:
    """The lengths of the sides that are multiplied by a matrix, as many rows as columns; None for one left alone."""
    rows, columns = as_matrix(p).shape
    has_columns = p.ndim > 1 and columns <= max_size
    return rows if rows <= max_size else None, columns if has_columns else None


def there(sides: tuple[Any, Any], lengths: tuple[int | None, int | None]) -> tuple[Any, Any]:
    """Those of the sides that exist."""
    rows, columns = (side if n is not None else None for side, n in zip(sides, lengths, strict=True))
    return rows, columns


def _direction(
    step: Any, state: Any, g: Any, b2: Any, eps: Any, every: Any, max_size: int, precision: str
) -> tuple[Any, Sides]:
    x, lengths = as_matrix(g), sizes(g, max_size)
    L, R = grams(x, there((state.L, state.R), lengths), b2, precision)
    count = sum(n is not None for n in lengths)
    due = is_due(step, every)
    roots: Any = [
        None if side is None else when(due, _inverse_root(side, eps, count, precision), root)
        for side, root in ((L, state.L_root), (R, state.R_root))
    ]
    return reshape(on_both_sides(roots[0], x, roots[1], precision), g.shape), Sides(L, R, *roots)


def grams(x: Any, sides: tuple[Any, Any], b2: Any, precision: str) -> tuple[Any, Any]:
    """The next sums, or running means, of x x^T and x^T x, where there is a last one."""
    old, new = (1.0, 1.0) if b2 is None else (b2, 1 - b2)
    factors = ((x, transpose(x)), (transpose(x), x))
    L, R = (
        None if side is None else old * side + new * matmul(*pair, precision)
        for side, pair in zip(sides, factors, strict=True)
    )
    return L, R


def on_both_sides(left: Any, x: Any, right: Any, precision: str) -> Any:
    """left x right, without the one that is None."""
    x = x if left is None else matmul(left, x, precision)
    return x if right is None else matmul(x, right, precision)


def _inverse_root(x: Any, eps: Any, count: int, precision: str) -> Any:
    """(x + eps)^(-1 / (2 count)) of a matrix without negative eigenvalues, of which rounding errors may make some."""
    q = eigenvectors(x)
    values = maximum(axis_sum(q * matmul(x, q, precision), -2), 0.0)
    root = sqrt(values + eps)
    return matmul(q / (sqrt(root) if count == 2 else root), transpose(q), precision)
