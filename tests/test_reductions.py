"""Sums that do not depend on order: the same float64 bits for every arrangement, and close to the exact sum."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
from tests.inputs import numbers, uniform_bits
from trainfn import reference
from trainfn.verbs import global_dot, global_max, global_norm, global_sum, leaf_sum


class Sum(NamedTuple):
    total: tf.ModelPair


@tf.rule
def squares(state: Sum, g):  # type: ignore[no-untyped-def]
    return g, Sum(global_dot(g, g))


def _sum_of_squares(*leaves: Any) -> float:
    params = {str(i): x for i, x in enumerate(leaves)}
    _, state = reference.update(squares(), reference.init(squares(), params), params, params)
    return state.model["total.high"] + state.model["total.low"]


def _exact(x: Any) -> Fraction:
    return sum((Fraction(float(v)) ** 2 for v in np.ravel(x)), Fraction(0))


@given(key=st.integers(0, 2**31), size=st.integers(2, 200), cut=st.integers(1, 199))
def test_any_arrangement_gives_the_same_bits(key: int, size: int, cut: int) -> None:
    x = numbers(key, (size,), decades=30, largest=1e10)
    order = np.argsort(uniform_bits(key + 1, size))
    whole = _sum_of_squares(x)
    assert _sum_of_squares(x[order]) == whole
    assert _sum_of_squares(x[: cut % size], x[cut % size :]) == whole
    assert _sum_of_squares(x[order][: cut % size].reshape(1, -1), x[order][cut % size :].reshape(-1, 1)) == whole


# Stored as two float32 numbers the sum keeps 48 bits: the comparison cannot be tighter than that.
@pytest.mark.parametrize(
    ("x", "bound"),
    [
        (numbers(1, (1 << 16,), decades=8), 1e-13),
        (np.concatenate([[np.float32(1)], np.full(1 << 16, 2.0**-19, np.float32)]), 1e-13),
        (np.concatenate([[np.float32(3e18)], numbers(3, (1 << 14,))]), 1e-13),
        (np.full(1000, 1e-20, np.float32), 1e-13),
        (np.full(1000, 1e25, np.float32), 1e-13),
    ],
)
def test_close_to_the_exact_sum(x: Any, bound: float) -> None:
    got = global_norm_squared(x)
    exact = _exact(x)
    assert abs(Fraction(got) - exact) <= bound * exact


def global_norm_squared(x: Any) -> float:
    """The float64 sum itself, without the rounding of state."""
    call = _call(x)
    return float(call["total"])


def _call(x: Any) -> dict[str, Any]:
    from trainfn.interpret import Call, run
    from trainfn.lowering import lower
    from trainfn.program import Sort
    from trainfn.trace import Graph

    graph = Graph()
    g: Any = graph.input("g", Sort.ARRAY)
    program = graph.program({"total": global_dot(g, g)})
    inputs = {"g": reference.load(x), "count.global": float(x.size)}
    with np.errstate(all="ignore"):
        return run([Call(lower(program), inputs, reference.arrays(x.dtype, x.shape))], reference.TABLE)[0]


@pytest.mark.parametrize(
    ("special", "expected"), [([math.inf], math.inf), ([math.nan], math.nan), ([math.inf, math.nan], math.nan)]
)
def test_what_is_not_finite_is_the_sum(special: list[float], expected: float) -> None:
    x = np.concatenate([numbers(5, (20,)), np.float32(special)])
    got = _call(x)["total"]
    assert got == expected or (math.isnan(got) and math.isnan(expected))


def test_infinities_of_both_signs_in_two_leaves() -> None:
    rule = tf.skip_if_not_finite(tf.rule(lambda g: g / global_sum(g))())
    params = {"a": np.float32([math.inf]), "b": np.float32([-math.inf])}
    _, state = reference.update(rule, reference.init(rule, params), params, params)
    assert state.count == 0


def test_zero_and_empty_sums() -> None:
    assert _call(np.zeros(5, np.float32))["total"] == 0.0
    assert _call(np.zeros(0, np.float32))["total"] == 0.0


def test_reductions_of_a_leaf_and_of_the_model() -> None:
    @tf.rule
    def probe(g):  # type: ignore[no-untyped-def]
        return g * 0 + leaf_sum(g) + 100 * global_max(g) + 10000 * global_norm(g)

    params = {"a": np.float32([3.0]), "b": np.float32([4.0])}
    updates, _ = reference.update(probe(), reference.init(probe(), params), params, params)
    assert [float(updates[k][0]) for k in "ab"] == [3 + 400 + 50000, 4 + 400 + 50000]


@pytest.mark.parametrize("x", [[0.0, -0.0], [-0.0, 0.0], [-0.0], [-1.0, -0.0]])
def test_a_maximum_of_zero_is_positive_zero(x: list[float]) -> None:
    """Whatever the order; the sign of the reciprocal shows it."""

    @tf.rule
    def probe(g):  # type: ignore[no-untyped-def]
        return g * 0 + 1 / tf.verbs.leaf_max(g)

    params = {"w": np.float32(x)}
    updates, _ = reference.update(probe(), reference.init(probe(), params), params, params)
    assert all(updates["w"] == np.inf)
