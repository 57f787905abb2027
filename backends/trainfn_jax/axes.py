"""Sums and maxima along one axis, matrix products and transposition: operations on whole arrays.

The sums are exact like those over leaves, with grids for each slice, and as there found as whole numbers
(`trainfn_jax.reductions`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from trainfn import decompositions
from trainfn.elementary import grids, slices
from trainfn.interpret import evaluate_scalars
from trainfn_jax.primitives import from_bits, graft
from trainfn_jax.reductions import (
    add_all,
    as_multiples,
    from_multiples,
    from_ordered,
    largest_integer,
    on_grids,
    ordered,
    sizes,
)
from trainfn_jax.scalars import FLOAT64, TABLE, once, rounded


def axis_sum(axis: int, x: Array) -> Array:
    """Sums along an axis, which stays with length 1, rounded once."""
    wide, count = lax.convert_element_type(x, FLOAT64), x.shape[axis]
    largest = lax.convert_element_type(_largest_size(axis, x), FLOAT64)
    coarse, fine = (once(grid) for grid in _grids(largest, float(count)))  # else made anew for each element
    coarse_of_each, fine_of_each = (jnp.broadcast_to(grid, x.shape) for grid in (coarse, fine))
    parts = on_grids(coarse_of_each, fine_of_each, wide)
    if x.dtype == np.float32 and count > 1:
        multiples = list(map(as_multiples, parts, (coarse_of_each, fine_of_each)))
        totals = _reduced(axis, multiples, [np.zeros((), np.int64)] * len(multiples), add_all)
        sums = lax.add(*(from_multiples(total, count, m) for total, m in zip(totals, (coarse, fine), strict=True)))
    else:
        sums = lax.add(*(jnp.sum(part, axis, keepdims=True) for part in parts))
    single = once(rounded(jnp.where(largest < math.inf, sums, largest), x.dtype))
    return graft(single, functools.partial(jnp.sum, axis=axis, keepdims=True), x)  # type: ignore[no-any-return]


def axis_max(axis: int, x: Array) -> Array:
    """The largest along an axis, which stays with length 1; of two zeros +0."""
    largest = from_ordered(_largest_integer(axis, *ordered(x)), x.dtype)
    largest = graft(largest, functools.partial(jnp.max, axis=axis, keepdims=True, initial=-math.inf), x)
    return jnp.where(largest == 0, np.zeros((), x.dtype), largest)


def _largest_size(axis: int, x: Array) -> Array:
    return from_bits(_largest_integer(axis, *sizes(x)), x.dtype)


def _largest_integer(axis: int, u: Array, least: Any) -> Array:
    return largest_integer(u, least, functools.partial(_reduced, axis))


_STAGE = 16


def _reduced(axis: int, xs: Sequence[Array], start: Sequence[Any], combine: Callable[..., Any]) -> Sequence[Array]:
    """Reductions of several arrays along one axis, which stays with length 1, in one loop.

    Along another than the last axis XLA's CPU code would run through memory in large steps, one element of the result
    after the other.  It takes vectors of these where the loop is short enough to be written out: 16 elements at a time
    are combined, and of these again, which is ten times as fast.  An axis with shards that JAX knows of stays whole.
    """
    axis %= xs[0].ndim
    is_last = math.prod(xs[0].shape[axis + 1 :]) == 1
    while not is_last and xs[0].shape[axis] > _STAGE and jax.typeof(xs[0]).sharding.spec[axis] is None:
        xs = _stage(axis, xs, start, combine)
    return [lax.expand_dims(x, [axis]) for x in lax.reduce(tuple(xs), tuple(start), combine, (axis,))]


def _stage(axis: int, xs: Sequence[Array], start: Sequence[Any], combine: Callable[..., Any]) -> Sequence[Array]:
    """Each of 16 successive elements combined, and of those that are left over."""
    shape = xs[0].shape
    groups, left = divmod(shape[axis], _STAGE)

    def part(x: Array, begin: int, count: int, length: int) -> Array:
        several = lax.slice_in_dim(x, begin, begin + count * length, axis=axis)
        return lax.reshape(several, (*shape[:axis], count, length, *shape[axis + 1 :]))

    parts = [(0, groups, _STAGE)] + [(groups * _STAGE, 1, left)] * (left > 0)
    combined = [lax.reduce(tuple(part(x, *which) for x in xs), tuple(start), combine, (axis + 1,)) for which in parts]
    return [lax.concatenate(same, axis) for same in zip(*combined, strict=True)]


def _grids(largest: Array, count: float) -> tuple[Array, Array]:
    values = evaluate_scalars(grids(), {"largest": largest, "count": count}, TABLE)
    return values["coarse"], values["fine"]


def _slices(axis: int, x: Array) -> tuple[Array, Array]:
    largest = lax.convert_element_type(_largest_size(axis, x), FLOAT64)
    coarse, fine = (jnp.broadcast_to(largest * np.float64(factor), x.shape) for factor in slices(x.shape[axis]))
    return on_grids(coarse, fine, lax.convert_element_type(x, FLOAT64))


def matmul(is_highest: bool, x: Array, y: Array) -> Array:
    """The matrix product in exact parts: of the first alone, or of all but the smallest; zeros are +0."""
    if x.dtype == FLOAT64:
        return matmul_fast(x, y)
    (a, a_rest), (b, b_rest) = _slices(-1, x), _slices(-2, y)
    high = _product(a, b)
    if is_highest:
        high = lax.add(high, lax.add(_product(a, b_rest), _product(a_rest, b)))
    product = rounded(high, x.dtype)
    return jnp.where(product == 0, np.zeros((), x.dtype), product)


def _product(x: Array, y: Array) -> Array:
    """The matrix product of float64 arrays.

    Not jnp.matmul, which asks for a dtype by name: vmap asks again, where float64 may not be enabled.
    """
    batch = tuple(range(x.ndim - 2))
    return lax.dot_general(x, y, (((x.ndim - 1,), (y.ndim - 2,)), (batch, batch)))


def matmul_fast(x: Array, y: Array) -> Array:
    """The matrix product as XLA computes it."""
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)


def _decomposed(operation: Callable[..., Array]) -> Callable[[Array], Array]:
    """In float64, rounded once."""

    def apply(x: Array) -> Array:
        wide = lax.convert_element_type(x, FLOAT64)
        single: Array = rounded(operation(jnp, wide, float(np.finfo(x.dtype).eps) / 2), x.dtype)
        return single

    return apply


OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "axis_sum": axis_sum,
    "axis_max": axis_max,
    "matmul": functools.partial(matmul, True),
    "matmul_high": functools.partial(matmul, False),
    "matmul_fast": matmul_fast,
    "eigenvectors": _decomposed(decompositions.eigenvectors),
    "orthogonal": _decomposed(decompositions.orthogonal),
    "transpose": lambda x: jnp.swapaxes(x, -1, -2),
    "reshape": lambda shape, x: jnp.reshape(x, shape),
    "leading": lambda n, x: x[..., :n],
}
