"""Scalars in JAX: float64 inside any traced function, whatever `jax_enable_x64` says outside.

Everything here must run under `jax.enable_x64(True)`, uses lax alone, and gives the bits of `trainfn.reference`.  What
is known while tracing - Python numbers and what is computed from them alone - is computed by the reference itself,
once; XLA sees only what depends on the count or on a traced hyperparameter.

One difference remains: XLA's CPU code takes subnormal float64 numbers, below 2.2e-308, for zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array, lax

from trainfn import random, reference
from trainfn.interpret import Table
from trainfn_jax.primitives import bits, flush, from_bits, opaque, opaque_one, pin

FLOAT64 = np.dtype(np.float64)


def widen(x: Any) -> Any:
    """A number from outside as a Scalar: Python's stay as they are, arrays become float64."""
    if isinstance(x, bool | int | float | np.generic) and not isinstance(x, Array):
        return float(x)
    return lax.convert_element_type(x, FLOAT64)


def narrow(x: Any, dtype: Any) -> Any:
    """A Scalar rounded once, and computed once."""
    if isinstance(x, float):
        with np.errstate(over="ignore"):
            return reference.arrays(dtype, ())["meet"](x)[()]
    return once(rounded(x, np.dtype(dtype)))


def once(x: Any) -> Any:
    """x, computed once however many read it.

    XLA repeats cheap operations in each loop that reads their result.  A division it does not, so that one by 1, which
    changes nothing, keeps hundreds of loops from containing a bias correction each; an optimization_barrier is gone
    by the time loops are made.
    """
    return lax.div(x, opaque_one(x))


def rounded(x: Any, dtype: Any) -> Any:
    """A float64 number in another dtype, zero of its sign if it rounds to a subnormal one.

    Processors that flush take a number for subnormal that rounds up to the smallest normal one, if it would not do so
    with as many bits as normal ones have.
    """
    if dtype != FLOAT64:
        smallest = np.float64(np.finfo(dtype).smallest_normal)
        half_a_step = np.float64(np.finfo(dtype).smallest_subnormal) / 2
        size = lax.abs(x)
        rounds_up = lax.bitwise_and(lax.ge(size, smallest - half_a_step), lax.lt(size, smallest))
        signed = lax.select(lax.lt(x, np.float64(0)), lax.full_like(x, -smallest), lax.full_like(x, smallest))
        x = lax.select(rounds_up, signed, x)
    return flush(lax.convert_element_type(x, dtype))


def is_known(x: Any) -> bool:
    """Whether a Scalar or flag has its number while tracing (np.float64 is a float)."""
    return isinstance(x, bool | float | np.bool_)


def is_zero(x: Any) -> bool:
    """Whether a number is known to be 0 or -0."""
    return isinstance(x, float | np.floating) and x == 0


def _mul(x: Any, y: Any) -> Any:
    return pin(lax.mul(x, y))


def _div(x: Any, y: Any) -> Any:
    # x / constant would become x * (1 / constant).
    return pin(lax.div(x, opaque(y, x) if is_known(y) else y))


def _add(x: Any, y: Any) -> Any:
    # x + 0 would become x, which is wrong for -0.
    return _apart(lax.add(opaque(x, y) if is_zero(x) else x, opaque(y, x) if is_zero(y) else y), x, y)


def _sub(x: Any, y: Any) -> Any:
    return _apart(lax.sub(x, y), x, y)


def _apart(total: Any, x: Any, y: Any) -> Any:
    """(x + constant) + constant would become x + (constant + constant)."""
    return pin(total) if is_known(x) or is_known(y) else total


def _sqrt(x: Any) -> Any:
    return pin(lax.sqrt(x))


def _floor(x: Any) -> Array:
    """Whole numbers have one zero: that of -0.0 is 0.0."""
    whole = lax.floor(x)
    return lax.select(lax.eq(whole, np.float64(0)), lax.full_like(whole, 0.0), whole)


_EXPONENT_BITS, _BIAS = np.int64(0x7FF), np.int64(1023)


def _exponent(x: Any) -> Array:
    e = lax.bitwise_and(lax.shift_right_arithmetic(bits(x), np.int64(52)), _EXPONENT_BITS)
    return lax.convert_element_type(lax.sub(e, _BIAS), FLOAT64)


def _pow2(k: Any) -> Array:
    least, most = np.float64(-1022), np.float64(1023)
    k = lax.select(lax.ge(k, least), lax.min(k, most), lax.full_like(k, least))
    e = lax.add(lax.convert_element_type(k, np.int64), _BIAS)
    return from_bits(lax.shift_left(e, np.int64(52)), FLOAT64)


def _single(x: Any) -> Array:
    return lax.convert_element_type(rounded(x, np.dtype(np.float32)), FLOAT64)


def word(x: Any) -> Any:
    """The word that a Scalar counts as, of 32 bits."""
    if is_known(x):
        return np.uint32(reference.word(float(x)))
    is_word = lax.bitwise_and(lax.ge(x, np.float64(0)), lax.lt(x, np.float64(2.0**32)))
    return lax.convert_element_type(lax.select(is_word, x, lax.full_like(x, 0.0)), np.uint32)


def _threefry(*words: Any) -> list[Array]:
    key_high, key_low, high, low = map(word, words)
    words_after = random.threefry2x32((key_high, key_low), (high, low))
    return [once(lax.convert_element_type(x, FLOAT64)) for x in words_after]


def _where(condition: Any, x: Any, y: Any) -> Array:
    like = next(v for v in (condition, x, y) if not is_known(v))
    x, y = (
        lax.full_like(like, v, dtype=FLOAT64 if isinstance(v, float) else None) if is_known(v) else v for v in (x, y)
    )
    return lax.select(condition, x, y)


# Comparisons and logic, which are the same for scalars and arrays.
CONDITIONS: Mapping[str, Callable[..., Any]] = {
    "lt": lax.lt,
    "le": lax.le,
    "eq": lax.eq,
    "and": lax.bitwise_and,
    "or": lax.bitwise_or,
    "not": lax.bitwise_not,
}

_TRACED: Mapping[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "sqrt": _sqrt,
    "neg": lax.neg,
    "abs": lax.abs,
    "floor": _floor,
    "exponent": _exponent,
    "pow2": _pow2,
    "single": _single,
    "threefry_0": lambda *words: _threefry(*words)[0],
    "threefry_1": lambda *words: _threefry(*words)[1],
    **CONDITIONS,
    "where": _where,
}


def _known_first(op: str) -> Callable[..., Any]:
    known, traced = reference.SCALARS[op], _TRACED[op]

    def apply(*args: Any) -> Any:
        if all(map(is_known, args)):
            return known(*args)
        if op == "where" and is_known(args[0]):
            return args[1] if args[0] else args[2]
        return traced(*(np.float64(x) if type(x) is float else x for x in args))

    return apply


def combine(op: str, parts: Sequence[Any]) -> Any:
    """A reduction over the model from its leaves': sums are exact, and lax.max lets NaN win."""
    return functools.reduce(lax.add if op.startswith("sum") else lax.max, parts)


def branch(flag: Any, compute: Callable[[], list[Any]], otherwise: list[Any], decomposes: bool) -> list[Any]:
    """What the compiled step computes only if the flag holds."""
    if isinstance(flag, bool | np.bool_):
        return compute() if flag else otherwise
    chosen: list[Any] = lax.cond(flag, compute, lambda: otherwise)
    return chosen


TABLE = Table({op: _known_first(op) for op in _TRACED}, combine, float, branch)


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Trace `function` where 64-bit types exist."""

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with jax.enable_x64(True):
            return function(*args, **kwargs)

    return traced
