"""Sums and maxima over one leaf, exact and therefore free of order, at the speed of memory.

Both grids' sums are taken in one pass, and summed as whole numbers: a float64 number on a grid is a multiple of the
grid's step, and adding a constant whose own last bit is that step leaves the multiple in the low bits of the result.
Whole numbers may be added in any order by definition, which lets XLA's CPU code use vector instructions: 0.4 ns an
element for both sums, where two floating-point reductions take 1.4 and, written naively, 7.  The largest number is
found as an integer, too, because XLA's own maximum of floating-point numbers drops NaN, and next to a second, useless
result, because XLA splits a single-valued reduction of integers into two passes through memory.  Several maxima, or
sums, of one leaf are one loop, which reads what they share once.

Derivatives are those of the plain sum and maximum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax import Array, lax

from trainfn_jax.primitives import bits, bits_of_constant, from_bits, graft
from trainfn_jax.scalars import FLOAT64

_INT64 = np.dtype(np.int64)


def maxima(asked: Sequence[tuple[str, Any]]) -> list[Array]:
    """For each (op, factors) the largest as float64, in one pass over arrays of one shape; NaN wins.

    op: "max", of x; -inf if there is none.  "max_abs", of |x| or |x * y|; 0 if there is none.
    """
    some = [_Maximum.of(op, factors) for op, factors in asked]
    found: list[Any] = [None] * len(some)
    for same in _by_shape([maximum.integers for maximum in some]):
        together = _integer_maxima([some[i].integers for i in same], [some[i].least for i in same])
        for i, most in zip(same, together, strict=True):
            found[i] = some[i].result(most)
    return found


def sums_on_grids(asked: Sequence[tuple[Any, Any, Any]]) -> list[tuple[Array, Array]]:
    """For each (coarse, fine, factors) the sums of x (or x * y) rounded to the coarse grid, and of what that leaves
    rounded to the fine one, in one pass over arrays of one shape.

    `trainfn.elementary` says how the grids are made and why the sums are exact.
    """
    found: list[Any] = [None] * len(asked)
    for same in _by_shape([factors[0] for _, _, factors in asked]):
        first = asked[same[0]][2][0]
        exact = _integer_sums if first.dtype == np.float32 and first.size > 1 else _float_sums
        for i, (high, low) in zip(same, exact([asked[i] for i in same]), strict=True):
            factors = asked[i][2]
            found[i] = graft(high, _plain_sum, *factors), graft(low, _nothing, *factors)
    return found


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


def _by_shape(arrays: Sequence[Any]) -> list[list[int]]:
    """The places of arrays of one shape, of each shape."""
    places: dict[Any, list[int]] = {}
    for i, x in enumerate(arrays):
        places.setdefault(x.shape, []).append(i)
    return list(places.values())


# -- maxima ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Maximum:
    """One of several: whole numbers in the order of what is sought, the least there are, and what the largest means."""

    integers: Array
    least: Any
    result: Callable[[Array], Array]

    @staticmethod
    def of(op: str, factors: Any) -> _Maximum:
        x = factors[0]
        if op == "max":
            return _Maximum(*ordered(x), lambda u: _widened(graft(from_ordered(u, x.dtype), _plain_max, x)))
        if len(factors) == 2 and x is factors[1] and x.dtype == np.float32:
            of_x = _Maximum.of(op, (x,))
            return replace(of_x, result=lambda u: _square(of_x.result(u)))  # exact, and x -> |x| * |x| keeps order
        # Not the product that is summed, which XLA would keep in memory from this pass to that.
        x = x if len(factors) == 1 else lax.mul(_widened(x), lax.abs(_widened(factors[1])))
        return _Maximum(*sizes(x), lambda u: _widened(graft(from_bits(u, x.dtype), _plain_max_abs, *factors)))


def _integer_maxima(xs: Sequence[Array], least: Sequence[Any]) -> list[Array]:
    if len(xs) == 1:
        return [largest_integer(xs[0], least[0], functools.partial(lax.reduce, dimensions=_axes(xs[0])))]
    return list(lax.reduce(tuple(xs), tuple(least), _greater, _axes(xs[0])))


def largest_integer(u: Array, least: Any, reduce: Callable[..., Any]) -> Array:
    """Beside a second, useless result, which is never smaller, and so is not dead code."""
    positive = _without_sign(u)
    return lax.min(*reduce((u, positive), (least, np.zeros((), u.dtype)), _max_and_or))


def _greater(a: Any, b: Any) -> tuple[Array, ...]:
    return tuple(map(lax.max, a, b))


def _max_and_or(a: Any, b: Any) -> tuple[Array, Array]:
    return lax.max(a[0], b[0]), lax.bitwise_or(a[1], b[1])


def ordered(x: Array) -> tuple[Array, Any]:
    """Integers of the same order, and that of -inf: the bits, of negative numbers with all but the sign flipped; NaN is
    the greatest."""
    u = bits(x)
    quiet_nan = bits_of_constant(np.nan, x.dtype)
    flipped = lax.bitwise_xor(u, lax.full_like(u, _magnitude(u)))
    integers = lax.select(lax.lt(u, lax.full_like(u, 0)), flipped, u)
    least = bits_of_constant(-np.inf, x.dtype) ^ _magnitude(u)
    return lax.select(lax.ne(x, x), lax.full_like(u, quiet_nan), integers), least


def from_ordered(u: Array, dtype: Any) -> Array:
    return from_bits(lax.select(lax.lt(u, np.zeros((), u.dtype)), lax.bitwise_xor(u, _magnitude(u)), u), dtype)


def sizes(x: Array) -> tuple[Array, Any]:
    """Integers in the order of |x|, whose bits they are, and that of zero; NaN is the greatest."""
    u = bits(x)
    return _without_sign(u), np.zeros((), u.dtype)


def _without_sign(u: Array) -> Array:
    return lax.bitwise_and(u, lax.full_like(u, _magnitude(u)))


def _magnitude(u: Array) -> Any:
    """All bits but the sign."""
    return np.asarray(np.iinfo(u.dtype).max, u.dtype)


def _integer_max_of_shards(x: Array, axes: tuple[str, ...]) -> Array:
    return from_ordered(lax.pmax(ordered(x)[0], axes), x.dtype)  # type: ignore[no-untyped-call]


def _plain_max_of_shards(x: Array, axes: tuple[str, ...]) -> Array:
    """JAX has no derivative of its pmax: it is shared among those that are the largest."""
    is_largest = lax.convert_element_type(lax.eq(x, _integer_max_of_shards(x, axes)), x.dtype)
    return lax.div(sum_of_shards(lax.mul(is_largest, x), axes), sum_of_shards(is_largest, axes))


def _plain_max(x: Array) -> Array:
    return lax.reduce_max(x, _axes(x))


def _plain_max_abs(*factors: Array) -> Array:
    x = factors[0] if len(factors) == 1 else _products(factors)
    return _plain_max(lax.abs(x)) if x.size else lax.full((), 0, x.dtype)


def _square(x: Array) -> Array:
    return lax.mul(x, x)


# -- sums --------------------------------------------------------------------------------------------------------------


def on_grids(coarse: Any, fine: Any, x: Array) -> tuple[Array, Array]:
    """x rounded to the coarse grid, and what that leaves to the fine one."""
    high = lax.sub(lax.add(x, coarse), coarse)
    low = lax.sub(lax.add(lax.sub(x, high), fine), fine)
    return high, low


def _float_sums(asked: Sequence[tuple[Any, Any, Any]]) -> Iterator[tuple[Array, Array]]:
    for coarse, fine, factors in asked:
        high, low = on_grids(coarse, fine, _products(factors))
        yield lax.reduce_sum(high, _axes(high)), lax.reduce_sum(low, _axes(low))


def _integer_sums(asked: Sequence[tuple[Any, Any, Any]]) -> Iterator[tuple[Array, Array]]:
    """The same numbers."""
    grids = [grid for coarse, fine, _ in asked for grid in (coarse, fine)]
    parts = [part for coarse, fine, factors in asked for part in on_grids(coarse, fine, _products(factors))]
    multiples = tuple(map(as_multiples, parts, grids))
    first = asked[0][2][0]
    totals = lax.reduce(multiples, (np.zeros((), _INT64),) * len(multiples), add_all, _axes(first))
    sums = [from_multiples(total, first.size, grid) for total, grid in zip(totals, grids, strict=True)]
    return zip(sums[::2], sums[1::2], strict=True)


def as_multiples(x: Array, grid: Any) -> Array:
    """Numbers on a grid as whole ones: multiples of 2**-53 of it, the last bit of numbers from 1/2 to 1 of it.

    With two or more summands each is at most a quarter of its grid, so that 3/4 of the grid plus one stays there.  The
    bits of 3/4 of the grid are in each of them.
    """
    return bits(lax.add(x, _offset(grid)))


def from_multiples(total: Array, count: int, grid: Any) -> Array:
    """The sum of `count` numbers on a grid from that of whole ones, which is modulo 2**64."""
    k = lax.sub(total, lax.mul(np.int64(count), bits(_offset(grid))))
    return lax.mul(lax.convert_element_type(k, FLOAT64), lax.mul(grid, np.float64(2.0**-53)))


def _offset(grid: Any) -> Any:
    return lax.mul(grid, np.float64(0.75))


def add_all(a: Any, b: Any) -> tuple[Array, ...]:
    return tuple(map(lax.add, a, b))


def _plain_sum(*factors: Array) -> Any:
    products = _products(factors)
    return lax.reduce_sum(products, _axes(products))


def _nothing(*factors: Array) -> Array:
    """The derivative of both sums is the first one's."""
    return lax.full((), 0.0, FLOAT64)
