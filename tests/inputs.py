"""Parameters and gradients for tests, from a counter: the same on every machine and in every version of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

SPECIAL = np.array(
    [0.0, -0.0, 1e-45, -1e-40, 1.1754942e-38, 1.1754944e-38, -1e-30, 1e-20, 1e-8, 1.0, -1.0, 65504.0, 3e19, 3.4e38,
     np.inf, -np.inf, np.nan],
    np.float32,
)  # fmt: skip


def uniform_bits(key: int, size: int) -> np.ndarray[Any, Any]:
    """`size` random 32-bit integers: a counter mixed by multiplications and shifts (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        x = (np.arange(size, dtype=np.uint64) + np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) * np.uint64(
            0xBF58476D1CE4E5B9
        )
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(32)).astype(np.uint32)


def numbers(key: int, shape: tuple[int, ...], decades: int = 8, largest: float = 1.0) -> np.ndarray[Any, Any]:
    """float32 numbers of both signs, log-uniform over `decades` powers of ten below `largest`."""
    size = int(np.prod(shape, dtype=np.int64))
    bits = uniform_bits(key, 2 * size)
    exponent = bits[:size].astype(np.float64) / 2**32 * decades
    sign = np.where(bits[size:] & 1, -1.0, 1.0)
    fraction = 1.0 + (bits[size:] >> np.uint32(8)).astype(np.float64) / 2**24
    # Powers of two, not of ten: exact on every machine.
    scale = np.ldexp(1.0, -np.floor(exponent * 3.25).astype(np.int64) - 1)
    return (sign * fraction * scale * largest).astype(np.float32).reshape(shape)


def loss(n: int) -> float:
    """The loss before update n, from 0: a float32 number of some size, now more and now less than the last."""
    return float(1.0 + 0.9 * numbers(7 * n + 3, (), decades=1))


def with_specials(x: np.ndarray[Any, Any], key: int) -> np.ndarray[Any, Any]:
    """A copy in which about one element in three is zero, subnormal, huge, infinite or NaN."""
    x = x.copy()
    bits = uniform_bits(key, x.size).reshape(x.shape)
    chosen = bits % 3 == 0
    x[chosen] = SPECIAL[(bits[chosen] >> 8) % len(SPECIAL)].astype(x.dtype)
    return x
