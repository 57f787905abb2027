"""Identities that XLA cannot see through, for operations that must be rounded one at a time.

XLA's CPU code contracts a * b + c into one rounding, its simplifier rewrites (x * s) * t to x * (s * t) and x / sqrt(y)
to x * rsqrt(y), and it drops a rounding to bfloat16 that is widened again.  Each of these changes bits.  What stops
them is an operation on the *bits* of the intermediate result:

    pin      its bits, or those of the default NaN where they are greater as an unsigned integer, which only another
             NaN's can be: one vector instruction, and not an identity that a compiler could remove
    flush    subnormal numbers become zero of their sign, which is what a program means

Both are primitives of JAX rather than functions, because their derivative is the identity's; through the bits it would
be zero.  They act on each element alone, so they commute with every sharding and batching.

A third, `graft`, gives a number found through bits the derivative of a formula, as jax.custom_jvp does, but without a
call for each leaf in the program, which took a tenth of the time of tracing and compiling.

None of this hides what the compiler knows, such as parameters made by jnp.ones in the same jit: it computes the
operations on their bits itself, and regroups (x + c) + d where it knows c and d.  Therefore

    held     is something that the compiler knows nothing of while it simplifies.  XLA's CPU code forgets that before it
             makes loops, so that it costs nothing there, and does not stop contraction, which comes later
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def pin(x: Any) -> Any:
    """A floating-point number of 16, 32 or 64 bits as it is, which a compiler has to round before going on."""
    return _pin_p.bind(x)  # type: ignore[no-untyped-call]


def flush(x: Any) -> Any:
    """float32 or float64 with subnormal numbers replaced by zero of their sign."""
    return _flush_p.bind(x)  # type: ignore[no-untyped-call]


def graft(value: Any, formula: Callable[..., Any], *args: Any) -> Any:
    """`value` with the derivative of `formula(*args)`, which is not computed for anything else."""
    return _graft_p.bind(value, *args, formula=formula)


def held(x: Any) -> Any:
    """x, of which the compiler cannot know what it was computed from."""
    return lax.optimization_barrier(x)  # type: ignore[no-untyped-call]


def opaque_one(like: Any) -> Any:
    """1.0 in the shape of `like`, computed from its bits in a way no compiler sees through."""
    u = bits(like)
    one = bits_of_constant(1.0, like.dtype)
    return from_bits(lax.bitwise_xor(lax.full_like(u, one), _opaque_zero(u)), like.dtype)


def beside(x: Any, old: Any) -> Any:
    """x, computed in a loop that reads `old`, the array whose memory it takes."""
    if np.ndim(x) == 0:
        return x
    return graft(from_bits(lax.bitwise_xor(bits(x), _opaque_zero(bits(old))), x.dtype), lambda x: x, x)


def _opaque_zero(u: Any) -> Any:
    """Of two successive whole numbers one is even: the last bit of their product is zero."""
    last = lax.full_like(u, 1)
    return lax.bitwise_and(lax.mul(u, lax.add(u, last)), last)


def opaque(number: float, like: Any) -> Any:
    """A known number in the shape and dtype of `like`, of which the compiler does not know that it is known."""
    return lax.mul(lax.full_like(like, number), opaque_one(like))


def bits(x: Any) -> Array:
    """The bits of a floating-point number as a signed integer."""
    return lax.bitcast_convert_type(x, _SIGNED[x.dtype.itemsize])


def bits_of_constant(x: float, dtype: Any) -> Any:
    """The bits of a number in some floating-point dtype, as a signed integer."""
    return np.asarray(x, dtype).view(_SIGNED[np.dtype(dtype).itemsize])[()]


def from_bits(u: Any, dtype: Any) -> Array:
    """The floating-point number with these bits."""
    return lax.bitcast_convert_type(u, dtype)


_SIGNED = {2: np.int16, 4: np.int32, 8: np.int64}
_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def _pin(x: Any) -> Array:
    unsigned = _UNSIGNED[x.dtype.itemsize]
    default_nan = np.asarray(-np.nan, x.dtype).view(unsigned)
    u = lax.bitcast_convert_type(x, unsigned)
    return from_bits(lax.min(u, lax.full_like(u, default_nan)), x.dtype)


def _flush(x: Any) -> Array:
    u = bits(x)
    exponent = bits_of_constant(np.inf, x.dtype)
    sign = bits_of_constant(-0.0, x.dtype)
    is_small = lax.eq(lax.bitwise_and(u, lax.full_like(u, exponent)), lax.full_like(u, 0))
    return from_bits(lax.select(is_small, lax.bitwise_and(u, lax.full_like(u, sign)), u), x.dtype)


def _identity(name: str, function: Callable[[Any], Array]) -> Primitive:
    """An elementwise primitive computed by `function`, whose derivative is the identity's."""

    def in_64_bits(x: Any) -> Array:
        with jax.enable_x64(True):  # primitives are lowered outside the context they were used in
            return function(x)

    primitive: Any = Primitive(name)
    primitive.def_impl(jax.jit(in_64_bits))
    primitive.def_abstract_eval(lambda x: x.update(weak_type=False))
    mlir.register_lowering(primitive, mlir.lower_fun(in_64_bits, multiple_results=False))
    batching.defvectorized(primitive)  # type: ignore[no-untyped-call]
    ad.primitive_jvps[primitive] = lambda primals, tangents: (primitive.bind(*primals), tangents[0])
    return primitive  # type: ignore[no-any-return]


_pin_p = _identity("pin", _pin)
_flush_p = _identity("flush", _flush)


# -- derivatives of another formula ------------------------------------------------------------------------------------


def _differentiated(primals: Any, tangents: Any, *, formula: Any) -> tuple[Any, Any]:
    value, *args = primals
    with jax.enable_x64(True):
        directions = [ad.instantiate_zeros(t) for t in tangents[1:]]  # type: ignore[no-untyped-call]
        return graft(value, formula, *args), jax.jvp(formula, args, directions)[1]


def _batched(xs: Any, axes: Any, *, formula: Any) -> tuple[Any, int]:
    size = next(x.shape[axis] for x, axis in zip(xs, axes, strict=True) if axis is not None)
    in_front: Any = batching.bdim_at_front
    value, *args = (in_front(x, axis, size) for x, axis in zip(xs, axes, strict=True))
    return graft(value, jax.vmap(formula), *args), 0


_graft_p: Any = Primitive("graft")
_graft_p.def_impl(lambda value, *args, formula: value)
_graft_p.def_abstract_eval(lambda value, *args, formula: value.update(weak_type=False))
mlir.register_lowering(_graft_p, lambda context, value, *args, formula: [value])
batching.primitive_batchers[_graft_p] = _batched
ad.primitive_jvps[_graft_p] = _differentiated
