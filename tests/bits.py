"""Comparing numbers as what they are: bits.  NaN equals NaN, whatever its payload; 0.0 and -0.0 differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def as_integers(x: Any) -> np.ndarray[Any, Any]:
    """The bit patterns of an array, all NaNs being one pattern."""
    x = np.atleast_1d(np.array(x))  # a copy: the caller's NaNs stay
    if x.dtype.kind not in "iu":
        x[np.isnan(x)] = np.nan
    return x.view(f"u{x.dtype.itemsize}")


def differing(a: Any, b: Any) -> int:
    """How many elements of two float arrays of one shape and dtype have different bits."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape, f"shapes {a.shape} and {b.shape}"
    assert a.dtype == b.dtype, f"dtypes {a.dtype} and {b.dtype}"
    return int(np.count_nonzero(as_integers(a) != as_integers(b)))


def assert_same_bits(expected: Mapping[str, Any], actual: Mapping[str, Any], context: str = "") -> None:
    """Every array of one mapping equals its namesake in the other; the message shows the first that does not."""
    assert expected.keys() == actual.keys(), f"{context}: {sorted(expected)} and {sorted(actual)}"
    for name, x in expected.items():
        x, y = np.asarray(x), np.asarray(actual[name])
        count = differing(x, y)
        if count:
            at = np.flatnonzero(as_integers(x) != as_integers(y))[0]
            x, y = x.reshape(-1)[at], y.reshape(-1)[at]
            raise AssertionError(
                f"{context}: {name} differs in {count} of {np.size(expected[name])} elements, "
                f"first at {at}: {x!r} and {y!r}"
            )
