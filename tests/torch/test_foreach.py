"""Many tensors at a time: numbers among lists, results that are inputs, and which leaves may go side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

import trainfn as tf
from tests.bits import assert_same_bits
from tests.executions import run_reference, run_torch
from tests.inputs import numbers
from trainfn.verbs import leaf_max, maximum, sqrt, where

SHAPES: dict[str, tuple[int, ...]] = {"a": (5,), "b": (2, 3), "c": ()}


def leaves(key: int) -> dict[str, Any]:
    return {name: numbers(key + i, shape) for i, (name, shape) in enumerate(SHAPES.items())}


def check(rule: tf.Rule, params: Any, grads: Any) -> None:
    expected, actual = run_reference(rule, params, grads), run_torch("foreach", rule, params, grads)
    for n, (a, b) in enumerate(zip(expected, actual, strict=True)):
        assert_same_bits(a, b, f"step {n + 1}")


# Each a formula in which something that is one number for all leaves stands where a list is due.
NUMBERS: tuple[Callable[[Any, Any, Any], Any], ...] = (
    lambda step, g, lr: -lr * where(step < 2, 0.0, g),
    lambda step, g, lr: -lr * sqrt(where(step < 2, 1.0, abs(g))),
    lambda step, g, lr: -lr * where(where(step < 2, 1.0, g) > 0.0, g, 2.0),
    lambda step, g, lr: where(step < 2, lr, g) - where(step < 1, g, 0.5),
    lambda step, g, lr: -lr * maximum(lr, g),
    lambda step, g, lr: -lr * where(((step < 2) & (g > 0.0)) | (lr > 1.0), g, lr),
    lambda step, g, lr: g * leaf_max(where(step < 2, lr, g)),
    lambda step, g, lr: where(step < 2, 0.0, g) * where(step < 2, 3.0, g),
)


@pytest.mark.parametrize("formula", NUMBERS)
def test_numbers_where_lists_are_due(formula: Any) -> None:
    @tf.rule
    def made(step: Any, g: Any, *, lr: Any = 0.1) -> Any:
        return formula(step, g, lr)

    check(made(), leaves(1), [leaves(10 * n) for n in range(1, 5)])


class Last(NamedTuple):
    last: tf.Array
    m: tf.Array
    n: tf.Array


@tf.rule
def keeps_the_last(step: Any, state: Last, g: Any, p: Any) -> Any:
    """States that are what was read a moment before: `p`, and each other."""
    return -0.5 * g, Last(p, where(step < 2, state.n, state.last), where(step < 1, g, state.m))


def test_what_is_read_is_not_written_too_early() -> None:
    check(keeps_the_last(), leaves(1), [leaves(10 * n) for n in range(1, 6)])


def test_leaves_of_two_dtypes() -> None:
    narrow = {name: x.astype(ml_dtypes.bfloat16) for name, x in leaves(5).items()}
    params = leaves(1) | {f"narrow {name}": x for name, x in narrow.items()}
    grads = [{name: numbers(100 * n + i, np.shape(p)).astype(p.dtype) for i, (name, p) in enumerate(params.items())}
             for n in range(1, 4)]  # fmt: skip
    check(tf.adamw(lr=0.1), params, grads)
    check(tf.adamw(lr=0.1), dict(reversed(params.items())), grads)
