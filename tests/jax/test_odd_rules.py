"""Rules no paper has, each of which XLA once computed with other bits than written."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import trainfn as tf
from tests.bits import assert_same_bits
from tests.executions import EXECUTIONS, run_reference
from tests.inputs import numbers
from trainfn.verbs import abs, sqrt, square, where


@tf.rule
def square_of_a_root(g):  # type: ignore[no-untyped-def]
    """sqrt(x) * sqrt(x), which XLA would like to be x."""
    return square(sqrt(abs(g)))


@tf.rule
def square_of_a_product(g, p, *, lr=0.3):  # type: ignore[no-untyped-def]
    """(s * x) * (s * x), which for a single element becomes (s * s) * (x * x)."""
    return square(lr * (g + p))


@tf.rule
def comparison_with_zero(g, *, lr=1e-3):  # type: ignore[no-untyped-def]
    """A subnormal bfloat16 number is zero, also where it is only compared."""
    return where(g == 0, lr, 2.0)


CASES = (
    square_of_a_root(),
    square_of_a_product(),
    comparison_with_zero(),
    tf.chain(tf.lion(), tf.adam()),
    tf.chain(tf.adam(), tf.rmsprop(centered=True)),  # optax calls fields of both mu and nu
)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (257,)])
@pytest.mark.parametrize("rule", CASES, ids=lambda rule: rule.name)
def test_odd_rules(rule: tf.Rule, shape: tuple[int, ...], dtype: type) -> None:
    params = {"w": numbers(1, shape).astype(dtype)}
    grads = [{"w": numbers(n, shape, largest=scale).astype(dtype)} for n, scale in ((2, 1.0), (3, 1e-37), (4, 1e-39))]
    expected = run_reference(rule, params, grads)
    for ours, theirs in zip(expected, EXECUTIONS["jax_jit"](rule, params, grads), strict=True):
        assert_same_bits(ours, theirs, rule.name)
