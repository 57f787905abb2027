"""Sums and maxima over one leaf, exact and therefore free of order, at the speed of memory.

Both grids' sums are taken in one pass, and summed as whole numbers: a float64 number on a grid is a multiple of the
grid's step, and adding a constant whose own last bit is that step leaves the multiple in the low bits of the result.
Whole numbers may be added in any order by definition, which lets XLA's CPU code use vector instructions: 0.4 ns an
element for both sums, where two floating-point reductions take 1.4 and, written naively, 7.  The largest number is
found as an integer, too, because XLA's own maximum of floating-point numbers drops NaN, and next to a second, useless
result, because XLA splits a single-valued reduction of integers into two passes through memory.

Derivatives are those of the plain sum and maximum.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from jax import Array, lax

from trainfn_jax.primitives import bits, bits_of_constant, from_bits, graft
from trainfn_jax.scalars import FLOAT64

_INT64 = np.dtype(np.int64)


def largest(x: Any) -> Array:
    """The largest element as float64; NaN wins; -inf if there is none."""
    return _widened(graft(_integer_max(x), _plain_max, x))


def largest_product(*factors: Any) -> Array:
    """The largest |x| or |x * y| as float64; NaN wins; 0 if there is none."""
    if len(factors) == 2 and factors[0] is factors[1] and factors[0].dtype == np.float32:
        size = largest_product(factors[0])
        return lax.mul(size, size)  # exact, and x -> |x| * |x| keeps order
    x = factors[0] if len(factors) == 1 else _products(factors)
    return _widened(graft(_integer_max_abs(x), _plain_max_abs, x))


def sums_on_grids(coarse: Any, fine: Any, *factors: Any) -> tuple[Array, Array]:
    """The sums of x (or x * y) rounded to the coarse grid, and of what that leaves rounded to the fine one.

    `trainfn.elementary` says how the grids are made and why the sums are exact.
    """
    exact = _integer_sums if factors[0].dtype == np.float32 and factors[0].size > 1 else _float_sums
    high, low = exact(coarse, fine, *factors)
    return graft(high, _plain_sum, *factors), graft(low, _nothing, *factors)


def largest_of_shards(x: Any, axes: tuple[str, ...]) -> Any:
    """The largest float64 number on any device along mesh axes; NaN wins, which not every collective promises."""
    if not axes:
        return x
    return graft(_integer_max_of_shards(x, axes), functools.partial(_plain_max_of_shards, axes=axes), x)


def sum_of_shards(x: Any, axes: tuple[str, ...]) -> Any:
    """The sum over devices along mesh axes: of numbers on one grid, and therefore exact."""
    return lax.psum(x, axes) if axes else x  # type: ignore[no-untyped-call]


def _widened(x: Array) -> Array:
    return lax.convert_element_type(x, FLOAT64)


def _products(factors: Any) -> Array:
    """Float64, where a product of two float32 numbers is exact."""
    return functools.reduce(lax.mul, [_widened(x) for x in factors])


def _axes(x: Any) -> tuple[int, ...]:
    return tuple(range(x.ndim))


# -- maxima ------------------------------------------------------------------------------------------------------------


def _integer_max(x: Array) -> Array:
    ordered = _ordered(x)
    magnitude = _magnitude(ordered)
    least = bits_of_constant(-np.inf, x.dtype) ^ magnitude
    positive = lax.bitwise_and(ordered, lax.full_like(ordered, magnitude))
    most, union = lax.reduce((ordered, positive), (least, np.zeros((), ordered.dtype)), _max_and_or, _axes(x))
    return _from_ordered(lax.min(most, union), x.dtype)  # never smaller, and so the second result is not dead code


def _ordered(x: Array) -> Array:
    """Integers of the same order: the bits, of negative numbers with all but the sign flipped; NaN is the greatest."""
    u = bits(x)
    quiet_nan = bits_of_constant(np.nan, x.dtype)
    flipped = lax.bitwise_xor(u, lax.full_like(u, _magnitude(u)))
    ordered = lax.select(lax.lt(u, lax.full_like(u, 0)), flipped, u)
    return lax.select(lax.ne(x, x), lax.full_like(u, quiet_nan), ordered)


def _from_ordered(u: Array, dtype: Any) -> Array:
    return from_bits(lax.select(lax.lt(u, np.zeros((), u.dtype)), lax.bitwise_xor(u, _magnitude(u)), u), dtype)


def _magnitude(u: Array) -> Any:
    """All bits but the sign."""
    return np.asarray(np.iinfo(u.dtype).max, u.dtype)


def _integer_max_abs(x: Array) -> Array:
    """Without the sign, bits are in order, and those of NaN are the greatest."""
    u = bits(x)
    zero, magnitude = np.zeros((), u.dtype), np.asarray(np.iinfo(u.dtype).max, u.dtype)
    size = lax.bitwise_and(u, lax.full_like(u, magnitude))
    most, union = lax.reduce((size, size), (zero, zero), _max_and_or, _axes(x))
    return from_bits(lax.min(most, union), x.dtype)


def _max_and_or(a: Any, b: Any) -> tuple[Array, Array]:
    return lax.max(a[0], b[0]), lax.bitwise_or(a[1], b[1])


def _integer_max_of_shards(x: Array, axes: tuple[str, ...]) -> Array:
    return _from_ordered(lax.pmax(_ordered(x), axes), x.dtype)  # type: ignore[no-untyped-call]


def _plain_max_of_shards(x: Array, axes: tuple[str, ...]) -> Array:
    """JAX has no derivative of its pmax: it is shared among those that are the largest."""
    is_largest = lax.convert_element_type(lax.eq(x, _integer_max_of_shards(x, axes)), x.dtype)
    return lax.div(sum_of_shards(lax.mul(is_largest, x), axes), sum_of_shards(is_largest, axes))


def _plain_max(x: Array) -> Array:
    return lax.reduce_max(x, _axes(x))


def _plain_max_abs(x: Array) -> Array:
    return _plain_max(lax.abs(x)) if x.size else lax.full((), 0, x.dtype)


# -- sums --------------------------------------------------------------------------------------------------------------


def _on_grids(coarse: Any, fine: Any, factors: Any) -> tuple[Array, Array]:
    x = _products(factors)
    high = lax.sub(lax.add(x, coarse), coarse)
    low = lax.sub(lax.add(lax.sub(x, high), fine), fine)
    return high, low


def _float_sums(coarse: Array, fine: Array, *factors: Array) -> tuple[Array, Array]:
    high, low = _on_grids(coarse, fine, factors)
    return lax.reduce_sum(high, _axes(high)), lax.reduce_sum(low, _axes(low))


def _integer_sums(coarse: Array, fine: Array, *factors: Array) -> tuple[Array, Array]:
    """The same two numbers: multiples of 2**-53 of each grid, which is the last bit of numbers from 1/2 to 1 of it.

    With two or more elements each is at most a quarter of its grid, so that 3/4 of the grid plus one stays there.
    """
    three_quarters = np.float64(0.75)
    offsets = [lax.mul(grid, three_quarters) for grid in (coarse, fine)]
    shifted = [bits(lax.add(x, o)) for x, o in zip(_on_grids(coarse, fine, factors), offsets, strict=True)]
    zero = np.zeros((), _INT64)
    totals = lax.reduce(tuple(shifted), (zero, zero), _add_both, _axes(factors[0]))
    count = np.int64(factors[0].size)
    high, low = (
        # Modulo 2**64, which is where the sum of the offsets' bits went.
        _from_multiple(lax.sub(total, lax.mul(count, bits(o))), grid)
        for total, o, grid in zip(totals, offsets, (coarse, fine), strict=True)
    )
    return high, low


def _add_both(a: Any, b: Any) -> tuple[Array, Array]:
    return lax.add(a[0], b[0]), lax.add(a[1], b[1])


def _from_multiple(k: Array, grid: Array) -> Array:
    return lax.mul(lax.convert_element_type(k, FLOAT64), lax.mul(grid, np.float64(2.0**-53)))


def _plain_sum(*factors: Array) -> Any:
    products = _products(factors)
    return lax.reduce_sum(products, _axes(products))


def _nothing(*factors: Array) -> Array:
    """The derivative of both sums is the first one's."""
    return lax.full((), 0.0, FLOAT64)
