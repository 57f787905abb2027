"""Random numbers that are functions: of a seed, the update, the leaf's name and an element's place in the leaf.

The bits are Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), which
JAX uses, too: `key(seed)` and `fold_in` give the key data of jax.random's.  A generator of this kind has no state.  It
encrypts a counter of two words with a key of two words, so that every element of every leaf has its number at once, in
any order, on any device, and in numpy, torch, C, CUDA and XLA the same one.

A rule's `uniform_like(g, seed, step)` encrypts, with the key fold_in(key(seed), step), for element i of a leaf in
C order, its shape being the whole leaf's, the counter

    (stream(name) + i // 2**32,  i mod 2**32)        words, both modulo 2**32

where `stream(name)` is a hash of the leaf's name.  The upper 24 bits of both words are numbers that float32 holds
exactly; everything that follows is a rule's ordinary arithmetic, each operation rounded on its own: `uniform` and
`normal` below, which lowering (`trainfn.lowering`) puts in place of the nodes `uniform_like` and `normal_like`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from trainfn.elementary import polynomial
from trainfn.trace import Value, emit

Words: TypeAlias = tuple[Any, Any]

_MASK = 0xFFFFFFFF
_PARITY = 0x1BD11BDA
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


# -- words -------------------------------------------------------------------------------------------------------------


def threefry2x32(key: Words, counter: Words) -> Words:
    """Two words, the counter's encrypted with the key's.

    Words are Python's whole numbers below 2**32, or arrays of any library: of unsigned 32 bits, or of 64 bits that hold
    such numbers.
    """
    keys = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x, y = _sum(counter[0], keys[0]), _sum(counter[1], keys[1])
    for block in range(1, 6):
        for distance in _ROTATIONS[(block - 1) % 2]:
            x = _sum(x, y)
            y = _rotated(y, distance) ^ x
        x = _sum(x, keys[block % 3])
        y = _sum(_sum(y, keys[(block + 1) % 3]), block)
    return x, y


def _sum(x: Any, y: Any) -> Any:
    return (x + y) & _MASK


def _rotated(x: Any, distance: int) -> Any:
    return ((x << distance) & _MASK) | (x >> (32 - distance))


def key(seed: int) -> Words:
    """The key of a seed below 2**64: what jax.random.PRNGKey(seed) holds."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed = {seed} must be a whole number in [0, 2**64).")
    return seed >> 32, seed & _MASK


def fold_in(key: Words, data: int) -> Words:
    """Another key, for each whole number below 2**32: what jax.random.fold_in gives."""
    return threefry2x32(key, (0, data))


@lru_cache(maxsize=65536)
def stream(name: str) -> int:
    """Where the numbers of a leaf of this name begin: the first 32 bits of the SHA-256 of its UTF-8 form."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def place(index: Any, stream: Any) -> Words:
    """The counter of an element, or of many: its `index` in the leaf's C order, a number of 64 bits."""
    return _sum(index >> 32, stream), index & _MASK


def upper_bits(word: Any) -> Any:
    """The upper 24 bits of a word, as a whole number: as many as float32 holds exactly."""
    return word >> 8


def draws(seed: int, data: Sequence[int], name: str, shape: tuple[int, ...]) -> Words:
    """The two words of each element of a leaf, as numpy arrays."""
    k = key(seed)
    for x in data:
        k = fold_in(k, x)
    index = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    return threefry2x32(k, place(index, stream(name)))


# -- what a rule makes of them: traced values --------------------------------------------------------------------------


def folded(seed: Value, *data: Value) -> tuple[Value, Value]:
    """fold_in(... fold_in(key(seed), data[0]) ..., data[-1]) of Scalars.

    As a word counts the whole part of a number in [0, 2**32), and 0 for every other.
    """
    zero = seed.graph.constant(0.0)
    words = (zero, seed)
    for x in data:
        high, low = (emit(f"threefry_{i}", *words, zero, x) for i in range(2))
        words = (high, low)
    return words


def uniform(u: Any) -> Any:
    """A number in [0, 1), a multiple of 2**-24, of a whole number below 2**24."""
    return u * 2.0**-24


def normal(u: Any, v: Any) -> Any:
    """A standard normal number of two whole numbers below 2**24 (Box & Muller, Ann. Math. Stat. 29, 1958).

        sqrt(-2 log x) sin(2 pi w),    x = (u + 1) / 2**24 in (0, 1],    w = 1/4 - |v / 2**24 - 1/2| in [-1/4, 1/4]

    in + - * /, sqrt and selection alone.  Of the exact value for these x and w it differs by less than 2e-6 in float32
    and 1e-7 in float64.  No number is larger than sqrt(48 log 2) = 5.77, which a normal one exceeds 8 times in 1e9.
    """
    w = 0.25 - abs(v * 2.0**-24 - 0.5)
    return emit("sqrt", _minus_two_log((u + 1.0) * 2.0**-24)) * _sine_of_turns(w)


_LOG = tuple(4.0 / (2 * k + 1) for k in range(5))  # -2 log((1 + s) / (1 - s)) = -s * sum(_LOG[k] * s**2k)
# sin(2 pi w) / w as a polynomial in w**2 for |w| <= 1/4; relative error below 6e-9.
_SINE = (6.28318527, -41.34167748, 81.60223124, -76.57499218, 39.7109181)


def _minus_two_log(x: Any) -> Any:
    """-2 log x of an Array of numbers in [2**-24, 1]: x = m / 2**e with m between sqrt(1/2) and sqrt(2)."""
    e: Any = 0.0
    for k in (16, 8, 4, 2, 1):
        small = x < math.sqrt(0.5) * 2.0 ** (1 - k)
        x = emit("where", small, x * 2.0**k, x)
        e = emit("where", small, e + float(k), e)
    s = (x - 1.0) / (x + 1.0)
    return e * (2.0 * math.log(2.0)) - s * polynomial(_LOG, s * s)


def _sine_of_turns(w: Any) -> Any:
    return w * polynomial(_SINE, w * w)
