"""What XLA does to arithmetic that is left unpinned: why each pin is there.

A test here that fails means that this jaxlib no longer does it: the pin can go.  That the pins still work is shown by
the random programs, not here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax import lax

from tests.bits import differing as differing_bits
from tests.executions import factors
from tests.inputs import numbers
from trainfn_jax.primitives import pin

X, Y, Z = (np.abs(numbers(key, (4096,), decades=1)) for key in range(3))
S, T = np.float32(0.7), np.float32(-1.3)
Identity = Callable[[Any], Any]


def contracted(xp: Any, keep: Identity) -> Any:
    return keep(X * Y) + Z


def contracted_with_a_number(xp: Any, keep: Identity) -> Any:
    return keep(X * Y) + S


def numbers_of_products_merged(xp: Any, keep: Identity) -> Any:
    return keep(X * S) * T


def numbers_of_sums_merged(xp: Any, keep: Identity) -> Any:
    return keep(X + S) + T


def root_of_the_divisor(xp: Any, keep: Identity) -> Any:
    return X / keep(xp.sqrt(Y))


def quotient_divided(xp: Any, keep: Identity) -> Any:
    return keep(X / Y) / Z


def quotient_as_divisor(xp: Any, keep: Identity) -> Any:
    return X / keep(Y / Z)


def root_of_a_square(xp: Any, keep: Identity) -> Any:
    tiny = X * np.float32(2.0**-100)
    return xp.sqrt(keep(tiny * tiny))


REWRITTEN = (
    contracted,
    contracted_with_a_number,
    numbers_of_products_merged,
    numbers_of_sums_merged,
    root_of_the_divisor,
    quotient_divided,
    quotient_as_divisor,
    root_of_a_square,
)


def differing(formula: Any, keep: Identity) -> int:
    def jitted(x: Any, y: Any, z: Any) -> Any:
        namespace = dict(formula.__globals__, X=x, Y=y, Z=z)
        return type(formula)(formula.__code__, namespace)(jnp, keep)

    return int(np.count_nonzero(np.asarray(jax.jit(jitted)(X, Y, Z)) != formula(np, lambda x: x)))


@pytest.mark.parametrize("formula", REWRITTEN)
def test_rewritten_without_a_pin_and_not_with_it(formula: Any) -> None:
    assert differing(formula, lambda x: x) > 0
    assert differing(formula, pin) == 0


def test_gradients_computed_in_the_same_jit_are_such_products() -> None:
    """What `tests.executions` gives the step to multiply: its product is the gradient, and would be contracted."""
    x, y = factors(X)
    assert np.array_equal(x * y, X)
    assert np.mean(np.asarray(jax.jit(lambda x, y, z: x * y + z)(x, y, Z)) != X + Z) > 0.1
    for special in (np.float32([np.nan, np.inf, 0.0, 1e-45, 2.0**-126]), np.zeros(0, np.float16), np.float64(0.3)):
        x, y = factors(special)
        assert differing_bits(x * y, special) == 0


def test_division_by_a_number_becomes_a_product() -> None:
    assert np.any(np.asarray(jax.jit(lambda x: x / np.float32(3))(X)) != X / np.float32(3))


def test_contraction_of_float64_scalars() -> None:
    with jax.enable_x64(True):
        a, b, c = (np.float64(x[:64]) * 1.1 for x in (X, Y, Z))
        assert np.any(np.asarray(jax.jit(lambda a, b, c: a * b + c)(a, b, c)) != a * b + c)
        assert np.all(np.asarray(jax.jit(lambda a, b, c: pin(a * b) + c)(a, b, c)) == a * b + c)


def test_zero_added_is_dropped() -> None:
    got = jax.jit(lambda x: x + np.float32(0))(np.float32(-0.0))
    assert np.signbit(np.asarray(got)), "-0 + 0 is 0"


def test_the_maximum_drops_nan() -> None:
    """Why `trainfn_jax.reductions` finds the maximum through integers."""
    x = np.ones((64, 300), np.float32)
    x[3, 5] = np.nan
    assert np.asarray(jax.jit(lambda x: jnp.max(jnp.abs(x)))(x)) == 1


def test_subnormals_are_zero_for_arithmetic_and_not_for_moves() -> None:
    tiny = np.float32(1e-40)
    assert jax.jit(lambda x: x + x)(tiny) == 0
    moved = np.asarray(jax.jit(lambda x: lax.select(np.bool_(True), x, x))(tiny))
    assert moved.view(np.int32) != 0


def test_the_rounding_of_a_bfloat16_product_is_dropped() -> None:
    x, y = X.astype(ml_dtypes.bfloat16), Y.astype(ml_dtypes.bfloat16)

    def widened(keep: Identity) -> Any:
        return np.asarray(jax.jit(lambda x, y: keep(x * y).astype(jnp.float32))(x, y))

    assert np.any(widened(lambda x: x) != (x * y).astype(np.float32))
    assert np.all(widened(pin) == (x * y).astype(np.float32))
