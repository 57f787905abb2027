"""The comparison all other tests stand on must itself be able to fail."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bits import assert_same_bits, differing


def test_one_differing_bit_is_seen() -> None:
    x = np.linspace(-1, 1, 100, dtype=np.float32)
    y = x.copy()
    y[57] = np.nextafter(y[57], np.float32(2))
    assert differing(x, y) == 1
    with pytest.raises(AssertionError, match=r"w/p differs in 1 of 100 elements, first at 57"):
        assert_same_bits({"w/p": x}, {"w/p": y})


def test_zeros_have_a_sign_and_nans_are_equal() -> None:
    assert differing(np.float32([0.0]), np.float32([-0.0])) == 1
    nans = np.array([0x7FC00000, 0xFFC00001, 0x7F800001], np.uint32).view(np.float32)
    assert differing(nans, np.full(3, np.nan, np.float32)) == 0
    assert differing(nans[:1], np.float32([np.inf])) == 1


def test_shape_dtype_and_names_count() -> None:
    x = np.zeros(3, np.float32)
    for other in (x.astype(np.float64), x[:2]):
        with pytest.raises(AssertionError):
            assert_same_bits({"x": x}, {"x": other})
    with pytest.raises(AssertionError):
        assert_same_bits({"x": x}, {"y": x})
