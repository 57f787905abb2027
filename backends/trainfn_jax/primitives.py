"""Two identities that XLA cannot see through, for operations that must be rounded one at a time.

XLA's CPU code contracts a * b + c into one rounding, XLA's simplifier rewrites (x * s) * t to x * (s * t) and
x / sqrt(y) to x * rsqrt(y), and drops a rounding to bfloat16 that is widened again.  Each of these changes bits.  What
stops them is an operation on the *bits* of the intermediate result:

    flush    subnormal numbers become zero of their sign - what a program means anyway, and never an identity that
             a compiler could remove.  A product, quotient, square root or loaded array goes through it.
    opaque   x with a zero that no compiler knows xored into it, for 16-bit numbers, whose subnormals stay.

Both are primitives of JAX rather than functions, because their derivative is one: differentiated through the bits it
would be zero.  They act on each element alone, so they commute with every sharding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def flush(x: Any) -> Any:
    """float32 or float64 with subnormal numbers replaced by zero of their sign; as it is to derivatives."""
    return _flush_p.bind(x)


def opaque(x: Any) -> Any:
    """A 16-bit floating-point number as it is, of which a compiler has to assume that it is another one."""
    return _opaque_p.bind(x)


def opaque_one(like: Any) -> Any:
    """1.0 in the shape of `like`, computed from its bits in a way no compiler sees through."""
    u = bits(like)
    one = np.ones((), like.dtype)
    return from_bits(lax.bitwise_xor(lax.full_like(u, bits_of_constant(one)), _self_zero(u)), like.dtype)


def bits(x: Any) -> Array:
    """The bits of a floating-point number as a signed integer."""
    return lax.bitcast_convert_type(x, _INTEGER[x.dtype.itemsize])


def bits_of_constant(x: Any) -> Any:
    """The bits of a numpy scalar as a signed integer."""
    return x.view(_INTEGER[x.dtype.itemsize])


def from_bits(u: Any, dtype: Any) -> Array:
    """The floating-point number with these bits."""
    return lax.bitcast_convert_type(u, dtype)


_INTEGER = {2: np.int16, 4: np.int32, 8: np.int64}


def _flush(x: Any) -> Array:
    info = np.finfo(x.dtype)
    integer = _INTEGER[x.dtype.itemsize]
    exponent = bits_of_constant(np.asarray(np.inf, x.dtype))
    sign = np.asarray(np.iinfo(integer).min, integer)
    assert info.bits in (32, 64)
    # Lowering may happen outside the context in which 64-bit types exist.
    with jax.enable_x64(True):
        u = bits(x)
        is_small = lax.eq(lax.bitwise_and(u, lax.full_like(u, exponent)), lax.full_like(u, 0))
        return from_bits(lax.select(is_small, lax.bitwise_and(u, lax.full_like(u, sign)), u), x.dtype)


def _opaque(x: Any) -> Array:
    u = bits(x)
    return from_bits(lax.bitwise_xor(u, _self_zero(u)), x.dtype)


def _self_zero(u: Any) -> Array:
    """Zero, as one of two successive numbers is even; (u & (u + 1)) & 1 is known to LLVM."""
    one = lax.full_like(u, 1)
    return lax.bitwise_and(lax.mul(u, lax.add(u, one)), one)


def _identity_primitive(name: str, function: Callable[[Any], Array]) -> Primitive:
    """An elementwise primitive computed by `function`, whose derivative is that of the identity."""
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(function))
    primitive.def_abstract_eval(lambda x: x.update(weak_type=False))
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    batching.defvectorized(primitive)
    ad.primitive_jvps[primitive] = lambda primals, tangents: (primitive.bind(*primals), tangents[0])
    return primitive


_flush_p = _identity_primitive("flush", _flush)
_opaque_p = _identity_primitive("opaque", _opaque)
