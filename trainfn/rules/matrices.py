"""Leaves as matrices: what rules that work on rows, columns or singular values share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from trainfn.verbs import floor, reshape


def as_matrix(x: Any, out_axis: int = 0) -> Any:
    """x with all axes but one, its first (0) or last (-1), made one; a vector becomes one column, or one row."""
    length = x.shape[out_axis] if x.ndim else 1
    rest = math.prod(x.shape[1:] if out_axis == 0 else x.shape[:-1])
    return reshape(x, (length, rest) if out_axis == 0 else (rest, length))


def permuted(arrays: Sequence[Any], axes: tuple[int, ...], due: Sequence[tuple[int, ...] | None]) -> list[Any]:
    """What is kept of the axes of a leaf, once they stand in another order: each array transposed, where its shape is.

    arrays: reductions of one thing along several axes, which have length 1 in them; None where a leaf has none.
    due: the shapes they have of the leaf that is transposed.

    Two of one shape are reductions along axes of length 1, which are one: there the shape tells all.
    """
    by_shape = {x.shape: x for x in (x.transpose(axes) for x in arrays if x is not None)}
    shapes = [shape for shape in due if shape is not None]
    if by_shape.keys() != set(shapes):
        raise ValueError(
            f"its state would have shapes {sorted(by_shape)} where {sorted(shapes)} are due, for the rule works along "
            "other axes then. Keep the axes of this leaf, or give it a LeafState without values, to begin anew."
        )
    return [None if shape is None else by_shape[shape] for shape in due]


def swapped(sides: tuple[Any, Any], axes: tuple[int, ...]) -> tuple[Any, Any]:
    """What is kept of the rows and of the columns of a matrix, once it may have been transposed."""
    if axes == (1, 0):
        return sides[1], sides[0]
    if axes == tuple(range(len(axes))):
        return sides
    raise ValueError(
        "its rows and columns would be others: a leaf of more than two axes is the matrix that its other axes make of "
        "the first. Keep the axes of this leaf, or give it a LeafState without values, to begin anew."
    )


def is_due(step: Any, every: Any) -> Any:
    """Whether what is made anew every so many updates is so in this one; in the first it is."""
    return step - every * floor(step / every) < 0.5
