"""Sums and maxima along one axis, matrix products and transposition: operations on whole arrays.

The sums are exact like those over leaves (`trainfn_jax.reductions`), with grids for each slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from trainfn import decompositions
from trainfn.elementary import grids, slices
from trainfn.interpret import evaluate_scalars
from trainfn_jax.scalars import FLOAT64, TABLE, rounded


def axis_sum(axis: int, x: Array) -> Array:
    """Sums along an axis, which stays with length 1, rounded once."""
    wide = lax.convert_element_type(x, FLOAT64)
    largest = _largest(axis, lax.abs(wide), 0.0)
    coarse, fine = jax.vmap(lambda size: _grids(size, float(x.shape[axis])))(largest.reshape(-1))
    coarse, fine = (jnp.broadcast_to(grid.reshape(largest.shape), x.shape) for grid in (coarse, fine))
    high = _on_grid(wide, coarse)
    low = _on_grid(lax.sub(wide, high), fine)
    sums = lax.add(*(jnp.sum(part, axis, keepdims=True) for part in (high, low)))
    once: Array = rounded(jnp.where(largest < math.inf, sums, largest), x.dtype)
    return once


def axis_max(axis: int, x: Array) -> Array:
    """The largest along an axis, which stays with length 1; of two zeros +0."""
    largest = _largest(axis, x, -math.inf)
    return jnp.where(largest == 0, np.zeros((), x.dtype), largest)


def _largest(axis: int, x: Array, least: float) -> Array:
    """NaN wins, which XLA's maximum does not promise."""
    largest = jnp.max(x, axis, keepdims=True, initial=least)
    return jnp.where(jnp.any(x != x, axis, keepdims=True), np.asarray(np.nan, x.dtype), largest)


def _grids(largest: Array, count: float) -> tuple[Array, Array]:
    values = evaluate_scalars(grids(), {"largest": largest, "count": count}, TABLE)
    return values["coarse"], values["fine"]


def _slices(axis: int, x: Array) -> tuple[Array, Array]:
    wide = lax.convert_element_type(x, FLOAT64)
    largest = jnp.max(lax.abs(wide), axis, keepdims=True, initial=0.0)  # a NaN makes its row NaN without it
    coarse, fine = (jnp.broadcast_to(largest * np.float64(factor), x.shape) for factor in slices(x.shape[axis]))
    high = _on_grid(wide, coarse)
    return high, _on_grid(lax.sub(wide, high), fine)


def _on_grid(x: Array, grid: Array) -> Array:
    return lax.sub(lax.add(x, grid), grid)


def matmul(x: Array, y: Array) -> Array:
    """The matrix product in exact parts, of which the smallest is left out; zeros are +0."""
    if x.dtype == FLOAT64:
        return matmul_fast(x, y)
    (a, a_rest), (b, b_rest) = _slices(-1, x), _slices(-2, y)
    small = lax.add(jnp.matmul(a, b_rest), jnp.matmul(a_rest, b))
    product = rounded(lax.add(jnp.matmul(a, b), small), x.dtype)
    return jnp.where(product == 0, np.zeros((), x.dtype), product)


def matmul_high(x: Array, y: Array) -> Array:
    """The product of the first parts alone."""
    if x.dtype == FLOAT64:
        return matmul_fast(x, y)
    product = rounded(jnp.matmul(_slices(-1, x)[0], _slices(-2, y)[0]), x.dtype)
    return jnp.where(product == 0, np.zeros((), x.dtype), product)


def matmul_fast(x: Array, y: Array) -> Array:
    """The matrix product as XLA computes it."""
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


def _decomposed(operation: Callable[..., Array]) -> Callable[[Array], Array]:
    """In float64, rounded once."""

    def apply(x: Array) -> Array:
        wide = lax.convert_element_type(x, FLOAT64)
        once: Array = rounded(operation(jnp, wide, float(np.finfo(x.dtype).eps) / 2), x.dtype)
        return once

    return apply


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "axis_sum": axis_sum,
    "axis_max": axis_max,
    "matmul": matmul,
    "matmul_high": matmul_high,
    "matmul_fast": matmul_fast,
    "eigenvectors": _decomposed(decompositions.eigenvectors),
    "orthogonal": _decomposed(decompositions.orthogonal),
    "transpose": lambda x: jnp.swapaxes(x, -1, -2),
    "reshape": lambda shape, x: jnp.reshape(x, shape),
    "leading": lambda n, x: x[..., :n],
}
