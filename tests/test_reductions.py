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
from tests.bits import assert_same_bits
from tests.executions import EXECUTIONS
from tests.inputs import numbers, uniform_bits
from trainfn import elementary, reference
from trainfn.interpret import Call, run
from trainfn.lowering import lower
from trainfn.program import Sort
from trainfn.trace import Graph
from trainfn.verbs import full_like, global_dot, global_max, global_norm, global_sum, leaf_sum, where


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


# -- the two grids: 2**k - 1 summands of one sign, each near the largest, are the most that a grid is made for ---------

COUNTS = (1, 2, 3, 4, 127, 128, 255, 1023, 65535)


def _grids(largest: float, count: int) -> tuple[float, float]:
    graph = Graph()
    coarse = elementary.coarse_grid(graph.input("largest", Sort.SCALAR), graph.input("count", Sort.SCALAR))
    program = graph.program({"coarse": coarse, "fine": elementary.fine_grid(coarse, graph.input("count", Sort.SCALAR))})
    grids = reference.evaluate(program, {"largest": largest, "count": float(count)})
    return grids["coarse"], grids["fine"]


def _is_exact(summands: Any) -> bool:
    """Whether a sum from left to right, whose partial sums grow all the way, loses nothing."""
    return float(np.cumsum(summands)[-1]) == math.fsum(summands)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("count", COUNTS)
def test_sums_on_the_coarse_grid_are_exact(count: int, sign: float) -> None:
    x = sign * (2.0 - uniform_bits(count, count) / 2.0**52)  # every last bit, and largest is just below a power of two
    coarse, _ = _grids(2.0 - 2.0**-52, count)
    assert _is_exact((x + coarse) - coarse)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("count", COUNTS)
def test_sums_on_the_fine_grid_are_exact(count: int, sign: float) -> None:
    coarse, fine = _grids(1.0, count)
    half = coarse * 2.0**-53  # of the distance of neighbours above the coarse grid's M: nothing more is left over
    x = half * (1.0 - sign * (1 + uniform_bits(count, count)) / 2.0**50)
    rest = x - ((x + coarse) - coarse)
    assert np.all(rest * sign > 0)
    assert np.max(np.abs(rest)) > 0.99 * half
    assert _is_exact((rest + fine) - fine)


@pytest.mark.parametrize("count", COUNTS[2:])
def test_where_the_large_cancels_the_small_is_left(count: int) -> None:
    """To the last bit a fine grid of this many numbers has; one twice as coarse would round it away."""
    x = np.zeros(count)
    x[:3] = 1.0, 2.0 ** (2 * count.bit_length() - 104), -1.0
    assert _call(x, global_sum)["total"] == x[1]


def test_many_leaves_of_one_negative_product_in_any_order() -> None:
    count = 255
    x = (2.0 - uniform_bits(3, count) / 2.0**33).astype(np.float32).reshape(count, 1)
    leaf = tf.Leaf("", (1,))
    graph = Graph(leaf)
    g: Any = graph.input("g", Sort.ARRAY)
    program = lower(graph.program({"total": global_dot(g, -g)}))

    def total(order: Any) -> float:
        inputs = [{"g": g, "count.global": float(count)} for g in x[order]]
        calls = [Call(program, given, reference.arrays(np.float32, (1,))) for given in inputs]
        return float(run(calls, reference.TABLE)[0]["total"])

    assert len({total(np.argsort(uniform_bits(key, count))) for key in range(10)}) == 1


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


def _call(x: Any, product: Any = lambda g: global_dot(g, g)) -> dict[str, Any]:
    graph = Graph()
    program = graph.program({"total": product(graph.input("g", Sort.ARRAY))})
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


def test_no_pass_counts_the_elements_of_a_leaf() -> None:
    mean = tf.rule(lambda g: g * (leaf_sum(g) / leaf_sum(full_like(g, 1.0))))
    assert sum(node.is_reduction for node in lower(mean().program()).nodes) == 3  # the maximum and two sums over g
    twos = tf.rule(lambda g: g / leaf_sum(full_like(g, 2.0)))
    assert lower(twos().program()).has_reductions
    params = {"x": np.full((2, 5), 3.0, np.float32), "y": np.ones(4, np.float32)}
    updates, _ = reference.update(mean(), reference.init(mean(), params), params, params)
    assert (updates["x"][0, 0], updates["y"][0]) == (9.0, 1.0)


@pytest.mark.parametrize(
    ("values", "passes"),
    [((1.0, 0.0), ["sum_coarse"]), ((0.0, 1.0), ["sum_coarse"]), ((2.0, 0.0), ["max_abs", "sum_coarse", "sum_fine"])],
)
def test_a_condition_is_counted_in_one_pass(values: tuple[float, float], passes: list[str]) -> None:
    counted = tf.rule(lambda g: g * leaf_sum(where(g > 0, *values)))()
    assert [node.op for node in lower(counted.program()).nodes if node.is_reduction] == passes
    g = {"w": np.float32([1, -2, 0, 3, np.nan]), "empty": np.zeros((0,), np.float32)}
    updates, _ = reference.update(counted, reference.init(counted, g), g, g)
    assert_same_bits({"": updates["w"]}, {"": g["w"] * np.float32(2 * values[0] + 3 * values[1])})


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_ten_thousand_flags(execution: str) -> None:
    """More than one addition on a grid of ones could hold in the whole numbers of some executions."""
    count = tf.rule(lambda g: leaf_sum(where(g > 0, 1.0, 0.0)) * full_like(g, 1.0))
    params, g = {"w": np.zeros(10_000, np.float32)}, {"w": np.ones(10_000, np.float32)}
    assert EXECUTIONS[execution](count(), params, [g])[0]["w/p"][0] == 10_000


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_leaves_may_count_where_others_add(execution: str) -> None:
    """A sum over the model is the same in the leaves that add flags to it and in those that add numbers."""

    def swapped(g):  # type: ignore[no-untyped-def]
        flags, numbers = where(g > 0, 1.0, 0.0), g
        first, second = (flags, numbers) if g.ndim == 2 else (numbers, flags)
        return -global_sum(first) * g - 16 * global_sum(second)

    params = {"b": np.zeros(4, np.float32), "w": np.zeros((2, 3), np.float32)}
    g = {"b": np.float32([1, -2, 8, 0.5]), "w": np.float32([[1, -1, 2], [0, 4, -8]])}
    steps = EXECUTIONS[execution](tf.rule(swapped)(), params, [g])
    first, second = 3 + 7.5, -2 + 3  # of w and b
    assert np.array_equal(steps[0]["b/p"], np.float32(-first * g["b"] - 16 * second))
    assert np.array_equal(steps[0]["w/p"], np.float32(-first * g["w"] - 16 * second))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_leaves_that_reduce_in_another_order_are_refused(execution: str) -> None:
    def swapped(g):  # type: ignore[no-untyped-def]
        largest, total = (global_max(g), global_sum(g)) if g.ndim == 2 else (global_sum(g), global_max(g))
        return -largest * g - 16 * total

    params = {"b": np.zeros(4, np.float32), "w": np.zeros((2, 3), np.float32)}
    with pytest.raises(ValueError, match=r"do not agree on what is reduced .* in every branch, in one order"):
        EXECUTIONS[execution](tf.rule(swapped)(), params, [params])
