"""Arrays in JAX: the table of elementwise operations and reductions for one leaf.

float32 operations are rounded one at a time where the program has pins between them (`trainfn_jax.pins`).  XLA's GPU
code rounds division and square root only approximately; there both go through float64, which gives the correctly
rounded float32; and since it keeps subnormal numbers, every operation is flushed.  The choice is made while tracing,
by the default platform; no GPU was there to prove it on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from trainfn import random
from trainfn.interpret import Call
from trainfn.program import Node
from trainfn.trace import Leaf
from trainfn_jax import axes, reductions
from trainfn_jax.primitives import beside, flush, held, opaque, opaque_one, pin
from trainfn_jax.scalars import CONDITIONS, FLOAT64, is_zero, narrow, once, word

FLOAT32 = np.dtype(np.float32)


def dtype_of(x: Any) -> np.dtype[Any]:
    """What a leaf is to JAX: NumPy's float64 and Python's numbers are float32 unless jax_enable_x64 is set.

    To be asked outside of `in_float64`, where they are not.
    """
    return np.dtype(jnp.result_type(x))


def as_array(x: Any) -> Array:
    """A leaf as JAX would hand it to a jitted function, also where jit is disabled."""
    return x if isinstance(x, Array) else jnp.asarray(x, dtype_of(x))


def compute_dtype(*storage: Any) -> np.dtype[Any]:
    """The dtype arithmetic happens in for arrays stored like this."""
    return FLOAT64 if any(real_dtype(s) == FLOAT64 for s in storage) else FLOAT32


def real_dtype(dtype: Any) -> np.dtype[Any]:
    """Of the numbers a leaf is made of: complex ones count as two."""
    return np.zeros((), dtype).real.dtype


def leaf(name: str, shape: tuple[int, ...], dtype: Any) -> Leaf:
    """A leaf as its program sees it: a complex one has one more axis, as in torch's view_as_real."""
    is_pairs = np.issubdtype(dtype, np.complexfloating)
    return Leaf(name, (*shape, 2) if is_pairs else shape, is_pairs)


def load(x: Any, compute: Any) -> Any:
    """An array as a program reads it: real, and widened."""
    if np.issubdtype(x.dtype, np.complexfloating):
        x = lax.concatenate([lax.expand_dims(part, [x.ndim]) for part in (lax.real(x), lax.imag(x))], x.ndim)
    wide = lax.convert_element_type(pin(x) if x.dtype.itemsize == 2 else x, compute)
    return flush(wide) if _keeps_subnormals() else wide


def widened(x: Any) -> Any:
    """An array of 16 bits in float32."""
    return lax.convert_element_type(x, FLOAT32) if x.dtype.itemsize == 2 else x


def round_to(x: Any, storage: Any) -> Any:
    """A computed array in its storage dtype, rounded even if XLA could carry on without."""
    if np.issubdtype(storage, np.complexfloating):
        parts = [lax.index_in_dim(x, i, axis=-1, keepdims=False) for i in range(2)]
        return lax.complex(*(round_to(part, real_dtype(storage)) for part in parts))
    rounded = lax.convert_element_type(x, storage)
    return pin(rounded) if rounded.dtype.itemsize == 2 else rounded


@dataclass
class Meetings:
    """Scalars as they enter arrays, each rounded once however many leaves ask for it."""

    known: dict[tuple[int, Any], tuple[Any, Any]] = field(default_factory=dict)

    def __call__(self, x: Any, dtype: Any) -> Any:
        if isinstance(x, bool | np.bool_) or getattr(x, "dtype", None) == np.bool_:
            return np.bool_(x) if isinstance(x, bool) else x
        key = (id(x), dtype)
        if key not in self.known:
            self.known[key] = (narrow(x, dtype), x)  # x is kept, so its identity stays taken
        return self.known[key][0]


def table(
    storage: Any, of_p: Any, compute: Any, meetings: Meetings, whole: tuple[int, ...] | None = None
) -> dict[str, Callable[..., Any]]:
    """How a leaf computes whose update is stored as `storage`; numbers stay numbers until an array meets them.

    `of_p` is its parameter's dtype.
    `whole` is the leaf's shape for programs that do not compute element by element only.
    """

    def meet(x: Any) -> Any:
        return meetings(x, compute)

    def stored(storage: Any, x: Any) -> Any:
        return lax.convert_element_type(round_to(x, storage), compute)

    operations = _ELEMENTWISE_ON_GPU if _keeps_subnormals() else _ELEMENTWISE
    roundings = {"stored": functools.partial(stored, storage), "rounded": functools.partial(stored, of_p)}
    elementwise: dict[str, Callable[..., Any]] = {**operations, **roundings, "meet": meet, "fill": meet}
    if whole is None:
        return elementwise
    return {
        **{op: _broadcasting(operation) for op, operation in elementwise.items()},
        "div": _broadcasting(_dividing(elementwise["div"])),
        **axes.OPERATIONS,
        # Else XLA sums what is the same everywhere while it compiles, an element at a time.
        "fill": lambda x: lax.optimization_barrier(lax.broadcast(meet(x), whole)),  # type: ignore[no-untyped-call]
        "identity": lambda shape: jnp.eye(shape[0], shape[1], dtype=compute),
    }


def _broadcasting(operation: Callable[..., Any]) -> Callable[..., Any]:
    """On arrays of shapes that fit together; numbers stay numbers."""

    def apply(*xs: Any) -> Any:
        shape = np.broadcast_shapes(*map(np.shape, xs))
        return operation(*(x if np.ndim(x) == 0 else jnp.broadcast_to(x, shape) for x in xs))

    return apply


def _dividing(divide: Callable[..., Any]) -> Callable[..., Any]:
    """Where a divisor may be one number for many elements, XLA would multiply by its reciprocal."""
    return lambda x, y: divide(x, y if np.ndim(x) == 0 or np.ndim(y) == 0 else lax.mul(y, opaque_one(x)))


def _keeps_subnormals() -> bool:
    return jax.default_backend() == "gpu"


def spread(x: Any, like: Any) -> Any:
    """A number in the shape, and with the sharding, of an array."""
    return x if np.shape(x) == like.shape else lax.full_like(like, x, dtype=x.dtype)


def stored_as(x: Any, like: Any) -> Any:
    """A computed array, or a number for all elements, in the dtype, shape and sharding of `like`."""
    if not np.issubdtype(like.dtype, np.complexfloating):
        return round_to(spread(x, like), like.dtype)
    return round_to(x if np.ndim(x) else lax.full((*like.shape, 2), x, x.dtype), like.dtype)


def _same_shape(*xs: Any) -> tuple[Any, ...]:
    like = max(xs, key=np.ndim)
    return tuple(spread(x, like) for x in xs)


def _add(x: Any, y: Any) -> Any:
    # x + 0 would become x, which is wrong for -0.
    return lax.add(opaque(x, y) if is_zero(x) else x, opaque(y, x) if is_zero(y) else y)


def _div(x: Any, y: Any) -> Any:
    # array / number would become array * (1 / number).
    return lax.div(x, opaque(y, x) if np.ndim(y) == 0 else y)


def _where(condition: Any, x: Any, y: Any) -> Any:
    condition, x, y = _same_shape(condition, x, y)
    return lax.select(condition, x, y)


_ELEMENTWISE: Mapping[str, Callable[..., Any]] = {
    "add": _add,
    "sub": lax.sub,
    "mul": lax.mul,
    "div": _div,
    "sqrt": lax.sqrt,
    "neg": lax.neg,
    "abs": lax.abs,
    **CONDITIONS,
    "where": _where,
    "pin": pin,
    "flush": flush,
    "held": held,
    "kept": once,
    "beside": beside,
}


def _through_float64(operation: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*xs: Any) -> Any:
        wide = operation(*(lax.convert_element_type(x, FLOAT64) for x in xs))
        return flush(lax.convert_element_type(wide, xs[0].dtype))

    return apply


def _flushed(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *xs: flush(operation(*xs))


_ELEMENTWISE_ON_GPU: Mapping[str, Callable[..., Any]] = {
    **_ELEMENTWISE,
    "add": _flushed(_add),
    "sub": _flushed(lax.sub),
    "mul": _flushed(lax.mul),
    "div": _through_float64(_div),
    "sqrt": _through_float64(lax.sqrt),
    "held": pin,  # XLA's GPU code makes loops first: p + u would be another one
    "kept": lambda x: x,
    "beside": lambda x, old: x,
}


# -- random numbers ----------------------------------------------------------------------------------------------------


def draws(like: Any) -> dict[str, Callable[..., Any]]:
    """The random whole numbers below 2**24 of a leaf, which is whole, its shards being the compiler's affair."""
    # By identity of what they are drawn by, which is kept.  Moments and updates that read them would each encrypt anew,
    # which takes the compiler longer than all else: hence `once`.
    known: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def draw(which: int, *words: Any) -> Any:
        key = tuple(map(id, words))
        if key not in known:
            key_high, key_low, stream = map(word, words)
            high, low = (lax.convert_element_type(x, np.uint32) for x in random.place(_index(like), int(stream)))
            known[key] = random.threefry2x32((key_high, key_low), (high, low)), words
        return once(lax.convert_element_type(random.upper_bits(known[key][0][which]), like.dtype))

    return {f"random_{i}": functools.partial(draw, i) for i in range(2)}


def _index(like: Any) -> Any:
    """The place of each element in C order, with the sharding of `like`."""
    index = lax.full_like(like, 0, dtype=np.int64)
    stride = 1
    for axis in reversed(range(like.ndim)):
        along = lax.broadcasted_iota(np.int64, like.shape, axis, out_sharding=jax.typeof(index).sharding)
        index = lax.add(index, lax.mul(along, lax.full_like(along, stride)))
        stride *= like.shape[axis]
    return index


# -- reductions --------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class LeafCall(Call):
    """One leaf's program, whose reductions of each pass are taken together, reading what they share once.

    like: an array of the leaf; meetings: of the step; axes: the mesh axes along which the leaf is a shard.
    """

    like: Any
    meetings: Meetings
    axes: tuple[str, ...]

    def reduced(self, nodes: Sequence[Node]) -> Iterator[Any]:
        due = [(node.op, self.arguments(node)) for node in nodes]
        largest = iter(reductions.maxima([(op, self._whole(*xs)) for op, xs in due if not op.startswith("sum")]))
        # Where lowering makes one sum only, nothing is left over for the other.
        asked = {_identities([coarse, *xs]): (coarse, coarse, xs) for coarse, *xs in _of("sum_coarse", due)}
        asked |= {_identities([coarse, *xs]): (coarse, fine, xs) for coarse, fine, *xs in _of("sum_fine", due)}
        sums = self._sums(list(asked.values()))
        for op, xs in due:
            if op == "sum_coarse":
                yield sums[_identities(xs)][0]
            elif op == "sum_fine":
                yield sums[_identities([xs[0], *xs[2:]])][1]
            else:
                yield reductions.largest_of_shards(next(largest), self.axes)

    def _sums(self, asked: Sequence[tuple[Any, Any, list[Any]]]) -> dict[tuple[int, ...], tuple[Array, Array]]:
        """On both grids, by what is read but for the fine grid."""

        def met(grid: Any) -> Any:
            return self.meetings(grid, FLOAT64)  # not computed anew in each leaf's loop

        sums = reductions.sums_on_grids([(met(coarse), met(fine), self._whole(*xs)) for coarse, fine, xs in asked])
        return {
            _identities([coarse, *xs]): tuple(reductions.sum_of_shards(x, self.axes) for x in both)
            for (coarse, _, xs), both in zip(asked, sums, strict=True)
        }

    def _whole(self, *xs: Any) -> tuple[Any, ...]:
        """Each in one shape, the leaf's for numbers; equal ones still one object."""
        shape = np.broadcast_shapes(*map(np.shape, xs))
        arrays = {id(x): jnp.broadcast_to(x, shape) for x in xs if np.ndim(x)}
        like = next(iter(arrays.values()), self.like)
        numbers = {id(x): spread(x, like) for x in xs if not np.ndim(x)}
        return tuple((arrays | numbers)[id(x)] for x in xs)


def _of(op: str, due: Sequence[tuple[str, list[Any]]]) -> list[list[Any]]:
    return [xs for own, xs in due if own == op]


def _identities(xs: Sequence[Any]) -> tuple[int, ...]:
    return tuple(map(id, xs))
