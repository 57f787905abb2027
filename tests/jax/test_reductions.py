"""Sums and maxima in JAX: numpy's bits for every arrangement of the elements."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bits import assert_same_bits
from tests.inputs import numbers, uniform_bits, with_specials
from trainfn import elementary, reference
from trainfn.interpret import evaluate_scalars
from trainfn.program import Sort
from trainfn.trace import Graph
from trainfn_jax import axes, reductions
from trainfn_jax.scalars import in_float64

NUMPY = reference.arrays(np.float32, ())


def grids(largest: float, count: int) -> tuple[float, float]:
    graph = Graph()
    inputs: list[Any] = [graph.input(name, Sort.SCALAR) for name in ("largest", "count")]
    coarse = elementary.coarse_grid(*inputs)
    program = graph.program({"coarse": coarse, "fine": elementary.fine_grid(coarse, inputs[1])})
    out = evaluate_scalars(program, {"largest": largest, "count": float(count)}, reference.TABLE)
    return out["coarse"], out["fine"]


@jax.jit
@in_float64
def in_jax(coarse: Any, fine: Any, *xs: Any) -> Any:
    """The four reductions, exact in float32 pairs of halves: their bits."""
    coarse, fine = (jax.lax.bitcast_convert_type(m, jnp.float64) for m in (coarse, fine))
    found = reductions.maxima([("max", xs[:1]), ("max_abs", xs)])
    found += [x for both in reductions.sums_on_grids([(coarse, fine, xs)]) for x in both]
    return [jax.lax.bitcast_convert_type(x, jnp.uint32) for x in found]


def as_halves(x: float) -> Any:
    return np.float64(x).view(np.uint64).reshape(1).view(np.uint32)


def compare(*xs: Any) -> None:
    loaded = [reference.load(x) for x in xs]
    loaded = [loaded[[y is x for y in xs].index(True)] for x in xs]
    with np.errstate(all="ignore"):
        largest = NUMPY["max_abs"](*loaded)
        coarse, fine = grids(largest, max(xs[0].size, 1))
        want = [NUMPY["max"](loaded[0]), largest]
        want += [NUMPY["sum_coarse"](coarse, *loaded), NUMPY["sum_fine"](coarse, fine, *loaded)]
    got = [np.asarray(x).view(np.float64)[0] for x in in_jax(as_halves(coarse), as_halves(fine), *xs)]
    finite = np.isfinite(largest)
    for name, a, b in zip(("max", "max_abs", "coarse", "fine"), want, got, strict=True):
        if finite or name.startswith("max"):  # a sum beside an infinite maximum is not used
            assert a == b or (np.isnan(a) and np.isnan(b)), f"{name}: {a!r} and {b!r}"


@settings(max_examples=25)
@given(
    key=st.integers(0, 2**20),
    shape=st.sampled_from([(), (1,), (0,), (2,), (17,), (30, 40), (3, 5, 7)]),
    magnitude=st.sampled_from([-90, -20, 0, 40]),
    special=st.booleans(),
)
def test_same_bits(key: int, shape: tuple[int, ...], magnitude: int, special: bool) -> None:
    x = numbers(key, shape, 20, 2.0**magnitude)
    if special:
        x = with_specials(x, key)
    compare(x, x)
    compare(x, numbers(key + 1, shape))
    compare(x)
    compare(-np.abs(x))


@pytest.mark.parametrize("x", [np.inf, -np.inf])
def test_the_largest_product_is_nan_where_one_is(x: float) -> None:
    """Infinity times zero is a NaN of either sign, as the processor has it."""
    compare(np.float32([1.0, x, 2.0]), np.float32([3.0, 0.0, -4.0]))
    compare(np.float32([1.0, 0.0, 2.0]), np.float32([3.0, x, -4.0]))


@pytest.mark.parametrize("size", [2, 40_000])
def test_any_arrangement(size: int) -> None:
    x = numbers(3, (size,), 30, 1e10)
    order = np.argsort(uniform_bits(4, size))
    coarse, fine = (as_halves(m) for m in grids(float(np.max(np.abs(np.float64(x)) ** 2)), size))
    results = [in_jax(coarse, fine, y, y) for y in (x, x[order], x.reshape(2, -1), x.reshape(2, -1).T)]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert np.array_equal(a, b)


def test_of_every_leaf_of_a_model() -> None:
    """Leaves in another order, cut and transposed: the same clipped updates, from the same norm."""
    import trainfn as tf
    import trainfn_jax

    tx = trainfn_jax.transform(tf.chain(tf.clip_by_global_norm(0.01), tf.sgd(lr=1.0)))
    x, y = numbers(1, (40, 6), 20), numbers(2, (30,), 20)

    def updates(**leaves: Any) -> dict[str, Any]:
        return jax.jit(tx.update)(leaves, tx.init(leaves))[0]  # type: ignore[no-any-return]

    one = updates(a=x, b=y)
    other = updates(a=y[:7], b=x.T, c=y[7:])
    assert np.array_equal(one["a"], np.asarray(other["b"]).T)
    assert np.array_equal(one["b"], np.concatenate([other["a"], other["c"]]))


@pytest.mark.parametrize("axis", [-1, -2, -3])
@pytest.mark.parametrize("length", [0, 1, 2, 16, 17, 300])
def test_along_any_axis(axis: int, length: int) -> None:
    """In stages of 16, but along the last axis; also where slices have infinities or NaN."""
    shape = [3, 4, 5]
    shape[axis] = length
    x = numbers(1, shape, 20)
    x = np.concatenate([x, with_specials(x, 2)], axis=-1 if axis != -1 else 0)
    for op, function in (("axis_sum", axes.axis_sum), ("axis_max", axes.axis_max)):
        with np.errstate(all="ignore"):
            want = reference.arrays(np.float32, x.shape)[op](axis, reference.load(x))
        got = jax.jit(in_float64(functools.partial(function, axis)))(reference.load(x))
        assert_same_bits({op: want}, {op: np.asarray(got)})


def test_derivatives_along_axes() -> None:
    x = jnp.float32([[1.0, 5.0, -3.0], [4.0, -2.0, 6.0]])
    scale = np.float32([[1.0, 2.0, 3.0]])
    sums = jax.grad(in_float64(lambda x: (axes.axis_sum(0, x) * scale).sum()))(x)
    assert np.array_equal(sums, [[1, 2, 3]] * 2)
    largest = jax.vmap(jax.grad(in_float64(lambda x: (axes.axis_max(-1, x[None]) * scale[0, 2]).sum())))(x)
    assert np.array_equal(largest, [[0, 3, 0], [0, 0, 3]])


@pytest.mark.parametrize("axis", [0, 1])
def test_no_copy_along_an_axis(axis: int) -> None:
    x = jax.ShapeDtypeStruct((512, 512), np.float32)
    for function, limit in ((axes.axis_sum, 0.3), (axes.axis_max, 0.2)):
        compiled = jax.jit(in_float64(functools.partial(function, axis))).lower(x).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < limit * 4 * 512 * 512


def test_one_pass_and_no_copy() -> None:
    """Both sums in one loop over the leaf, the maximum in another, and no array of the leaf's size in between."""
    x = jax.ShapeDtypeStruct((512, 512), np.float32)

    @in_float64
    def norm(x: Any) -> Any:
        (largest,) = reductions.maxima([("max_abs", (x, x))])
        ((high, low),) = reductions.sums_on_grids([(largest, largest, (x, x))])
        return (high + low).astype(np.float32)

    compiled = jax.jit(norm).lower(x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 512
    assert compiled.as_text().count("reduce(") == 2
    signed = jax.jit(in_float64(lambda x: reductions.maxima([("max", (x,))])[0].astype(np.float32))).lower(x).compile()
    assert signed.memory_analysis().temp_size_in_bytes < 512


def test_derivatives_are_those_of_the_formula() -> None:
    """To the second order, reversed and mapped; numbers found through bits have none of their own."""

    @in_float64
    def energy(x: Any) -> Any:
        ((high, low),) = reductions.sums_on_grids([(np.float64(2.0**20), np.float64(2.0**-20), (x, x))])
        signed, size = reductions.maxima([("max", (x,)), ("max_abs", (x,))])
        return (high + low + 3 * signed - size).astype(np.float32)

    x = jnp.float32([0.5, 2.0, -3.0])
    gradient = np.float32([1.0, 4.0 + 3.0, -6.0 + 1.0])
    assert np.array_equal(jax.grad(energy)(x), gradient)
    assert np.array_equal(jax.jit(jax.vmap(jax.grad(energy)))(jnp.stack([x, -x])), [gradient, [-1 + 0, -4 + 0, 6 + 2]])
    assert np.array_equal(jax.grad(lambda x: jax.vmap(energy)(x).sum())(jnp.stack([x, x])), [gradient, gradient])
    assert np.array_equal(jax.hessian(energy)(x), 2 * np.eye(3))
