"""Parameters of low precision: rounded once, or by chance, with the same bits everywhere."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import trainfn as tf
from tests.bits import as_integers, assert_same_bits
from tests.catalogue import ROWS, Row
from tests.executions import EXECUTIONS, extras, run_reference
from tests.inputs import numbers, with_specials
from tests.test_mutation import Mutant, mutations
from trainfn import reference
from trainfn.trace import TraceError

LOW = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
by_dtype = pytest.mark.parametrize("dtype", list(LOW.values()), ids=list(LOW))
STEPS = 3
SHAPES: dict[str, tuple[int, ...]] = {"w": (70, 50), "b": (17,), "s": (), "empty": (0, 3)}
RULES = {
    "stochastic": tf.stochastic_rounding(tf.sgd(lr=1e-2, momentum=0.9), seed=3),
    "once": tf.round_once(tf.adam(lr=1e-3)),
    "skipped": tf.skip_if_not_finite(tf.stochastic_rounding(tf.sgd(lr=1e-2))),
}


@tf.rule
def add(g: Any) -> Any:
    """The gradient itself is the update."""
    return 1.0 * g


def _model(dtype: Any, is_special: bool = False) -> tuple[Any, list[Any]]:
    params = {k: numbers(i, s).astype(dtype) for i, (k, s) in enumerate(SHAPES.items())}
    grads = [{k: numbers(100 * n + i, s) for i, (k, s) in enumerate(SHAPES.items())} for n in range(1, STEPS + 1)]
    if is_special:
        grads = [{k: with_specials(g, n) for k, g in model.items()} for n, model in enumerate(grads)]
    with np.errstate(over="ignore"):
        return params, [{k: g.astype(dtype) for k, g in model.items()} for model in grads]


# -- the same bits -----------------------------------------------------------------------------------------------------


@by_dtype
@pytest.mark.parametrize("execution", ["torch_single", "torch_foreach", "torch_fused", "jax_jit_with_gradient"])
@pytest.mark.parametrize("name", list(RULES))
def test_same_bits(name: str, execution: str, dtype: Any) -> None:
    for is_special in {False, execution != "torch_foreach"}:  # which leaves subnormal numbers
        params, grads = _model(dtype, is_special)
        expected = run_reference(RULES[name], params, grads)
        for a, b in zip(expected, EXECUTIONS[execution](RULES[name], params, grads), strict=True):
            assert_same_bits(a, b, f"{name} on {execution}")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wrapper", [tf.round_once, tf.stochastic_rounding])
def test_wide_parameters_are_as_without(wrapper: Any, dtype: Any) -> None:
    params, grads = _model(dtype, is_special=dtype is np.float32)
    plain, wrapped = (run_reference(rule, params, grads) for rule in (tf.adam(), wrapper(tf.adam())))
    for a, b in zip(plain, wrapped, strict=True):
        assert_same_bits(a, b, wrapper.name)


def test_updates_of_jax_are_float32() -> None:
    """In bfloat16 they could not say which neighbour is meant; gradients may have another dtype than parameters."""
    import jax.numpy as jnp
    import optax

    import trainfn_jax

    rule = tf.stochastic_rounding(add(), seed=3)
    p, g = numbers(1, (50,)).astype(LOW["bfloat16"]), numbers(2, (50,), largest=2.0**-6)
    expected = run_reference(rule, {"w": p}, [{"w": g}])[0]["w/p"]
    tx = trainfn_jax.transform(rule)
    params = {"w": jnp.asarray(p)}
    updates, _ = tx.update({"w": jnp.asarray(g)}, tx.init(params), params)
    assert updates["w"].dtype == jnp.float32
    assert_same_bits({"p": expected}, {"p": np.asarray(optax.apply_updates(params, updates)["w"])})


# -- states of another dtype -------------------------------------------------------------------------------------------

KEEPERS = {
    "adam": tf.stochastic_rounding(tf.adam(lr=1e-2, amsgrad=True), seed=3),
    "copies": tf.chain(tf.clip_by_global_norm(0.1), tf.mechanic(tf.sgd(momentum=0.9))),
}


@pytest.mark.parametrize("execution", ["torch_single", "torch_foreach", "torch_fused", "jax_jit"])
@pytest.mark.parametrize(("name", "kept"), [("adam", "float32"), ("copies", "float32"), ("adam", "bfloat16")])
def test_same_bits_with_states_of_another_dtype(name: str, kept: str, execution: str) -> None:
    params, grads = _model(np.float32 if kept == "bfloat16" else LOW["bfloat16"])
    params["wide"], grads = numbers(9, (4,)), [{**g, "wide": numbers(n, (4,))} for n, g in enumerate(grads)]
    expected = run_reference(KEEPERS[name], params, grads, kept)
    is_state = [k for k, x in expected[-1].items() if np.ndim(x) and not k.endswith("/p")]
    assert is_state
    assert all(expected[-1][k].dtype == kept for k in is_state)
    for a, b in zip(expected, EXECUTIONS[execution](KEEPERS[name], params, grads, kept), strict=True):
        assert_same_bits(a, b, f"{name} on {execution}")


def test_moments_in_float32_do_not_stand_still() -> None:
    """In bfloat16 v cannot follow: what b2 = 0.999 takes away is rounded back."""
    p, zeros = {"w": np.ones(3, LOW["bfloat16"])}, [{"w": np.zeros(3, LOW["bfloat16"])}] * 200
    grads = [{"w": np.ones(3, LOW["bfloat16"])}, *zeros]
    low, wide = (float(run_reference(tf.adam(), p, grads, kept)[-1]["w/v"][0]) for kept in (None, "float32"))
    assert low == float(np.asarray(1e-3, LOW["bfloat16"]))
    assert wide == pytest.approx(1e-3 * 0.999**200, rel=1e-3)


def test_a_state_dtype_is_one_of_small_numbers() -> None:
    import torch

    import trainfn_jax
    import trainfn_torch

    with pytest.raises(TypeError, match="state_dtype"):
        trainfn_torch.Optimizer([torch.zeros(3, requires_grad=True)], tf.adam(), state_dtype=torch.int32)
    with pytest.raises(TypeError, match="state_dtype"):
        trainfn_jax.transform(tf.adam(), state_dtype=np.float64)


# -- once --------------------------------------------------------------------------------------------------------------


@by_dtype
def test_once_is_the_rounded_sum(dtype: Any) -> None:
    p, u = numbers(1, (1000,)).astype(dtype), numbers(2, (1000,))
    once, twice = (run_reference(rule, {"w": p}, [{"w": u}])[0]["w/p"] for rule in (tf.round_once(add()), add()))
    assert_same_bits({"p": (p.astype(np.float32) + u).astype(dtype)}, {"p": once})
    assert np.any(once != twice)


# -- by chance ---------------------------------------------------------------------------------------------------------


def _neighbours(x: Any, dtype: Any) -> tuple[Any, Any]:
    """The dtype's largest number at most |x| and the next one, with x's sign."""
    below = np.abs(x).astype(dtype)
    bits = below.view(np.uint16) - (below.astype(np.float64) > np.abs(x)).astype(np.uint16)
    return tuple(np.copysign(b.view(dtype).astype(np.float64), x) for b in (bits, bits + np.uint16(1)))


def _stored(p: Any, u: Any, seed: int = 0) -> Any:
    return run_reference(tf.stochastic_rounding(add(), seed=seed), {"w": p}, [{"w": u}])[0]["w/p"].astype(np.float64)


@by_dtype
def test_numbers_become_a_neighbour_with_the_right_mean(dtype: Any) -> None:
    copies = 20_000
    tiny = float(np.float32(3e-7)) if dtype == np.float16 else 3e-20
    some = np.array([1.0, 1.0, -1.0, 0.3, 2.0, 2.0, 1000.0, tiny, 0.0, 2.0**-14], np.float32)
    more = np.array([1e-3, -1e-3, 3e-3, 1e-4, -5e-3, 5e-3, 0.7, tiny / 3, tiny, 2.0**-27], np.float32)
    p, u = np.repeat(some.astype(dtype), copies), np.repeat(more, copies)
    x = p.astype(np.float32) + u
    low, high = _neighbours(x, dtype)
    stored = _stored(p, u)
    assert np.all((stored == low) | (stored == high))
    share = (np.abs(stored - low) > 0).reshape(-1, copies).mean(1)
    expected = ((x - low) / (high - low)).reshape(-1, copies)[:, 0]
    assert np.all(np.abs(share - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / copies))
    assert np.any((expected > 0.05) & (expected < 0.95))


@by_dtype
def test_each_number_becomes_a_neighbour(dtype: Any) -> None:
    p = numbers(1, (5000,), decades=4).astype(dtype)
    u = numbers(2, (5000,), decades=9, largest=2.0)
    u[::7] = -p[::7].astype(np.float32) * (1 + u[::7] * 1e-6)  # almost nothing is left
    x = p.astype(np.float32) + u
    low, high = _neighbours(x, dtype)
    stored = _stored(p, u)
    assert np.all((stored == low) | (stored == high))
    assert np.any(stored != low)
    assert np.any(stored != high)


@by_dtype
def test_what_the_dtype_holds_stays(dtype: Any) -> None:
    """Every number of 16 bits, infinities included, but the subnormal ones of bfloat16."""
    bits = np.arange(2**16, dtype=np.uint16)
    size, infinity = bits & 0x7FFF, np.asarray(math.inf, dtype).view(np.uint16)
    is_subnormal = (size > 0) & (size < 0x80) & (dtype != np.float16)
    every = bits[(size <= infinity) & ~is_subnormal].view(dtype)
    for zero in (0.0, -0.0):
        u = np.full(every.shape, zero, np.float32)
        stored = run_reference(tf.stochastic_rounding(add()), {"w": every}, [{"w": u}])[0]["w/p"]
        plain = run_reference(add(), {"w": every}, [{"w": u}])[0]["w/p"]  # -0.0 + 0.0 is 0.0
        assert_same_bits({"p": plain}, {"p": stored})
        np.testing.assert_array_equal(stored.astype(np.float32), every.astype(np.float32))


@by_dtype
def test_what_is_not_finite_is_stored_as_it_is(dtype: Any) -> None:
    p = np.array([1.0, 1.0, np.inf, 1.0], dtype)
    np.testing.assert_array_equal(
        _stored(p, np.array([np.nan, np.inf, -np.inf, -np.inf], np.float32)), [np.nan, np.inf, np.nan, -np.inf]
    )


@by_dtype
def test_beyond_the_largest_number_the_nearest_is_taken(dtype: Any) -> None:
    largest = float(ml_dtypes.finfo(dtype).max)
    gap = largest - float(np.nextafter(np.asarray(largest, dtype), np.zeros((), dtype)))
    p = np.full(3, largest, dtype)
    stored = _stored(p, np.array([0.49 * gap, 0.51 * gap, -3 * gap], np.float32))
    np.testing.assert_array_equal(stored, [largest, math.inf, largest - 3 * gap])


def test_small_updates_act_in_the_mean() -> None:
    """An eighth of what bfloat16 can tell from 1 moves nothing if it is rounded to the nearest."""
    p, u = np.ones(2000, LOW["bfloat16"]), np.full(2000, -(2.0**-11), np.float32)
    grads = [{"w": u}] * 64
    plain, rounded = (run_reference(r, {"w": p}, grads)[-1]["w/p"] for r in (add(), tf.stochastic_rounding(add())))
    assert np.all(plain == 1)
    assert abs(float(rounded.astype(np.float64).mean()) - (1 - 64 * 2.0**-11)) < 1e-3


def test_noise_of_the_same_seed_draws_other_numbers() -> None:
    """At steps 0 and 1: the last number drawn by is a purpose, not a step."""
    rule = tf.stochastic_rounding(tf.noisy_sgd(seed=4), seed=4)
    drawn = {n.args for n in rule.program().nodes if n.op in ("uniform_like", "normal_like")}
    assert len(drawn) == 2


def test_an_update_that_is_changed_afterwards_is_refused() -> None:
    with pytest.raises(TraceError, match=r"was changed.*stand around all links"):
        tf.chain(tf.stochastic_rounding(tf.adam()), tf.decoupled_weight_decay()).program()
    assert tf.maximize(tf.round_once(tf.adam())).program().is_rounded_once
    assert tf.stochastic_rounding(tf.chain(tf.adam(), tf.decoupled_weight_decay())).program().is_rounded_once


# -- mutants of programs that float32, of the golden hashes, does not show ---------------------------------------------

_SAME = {"sub34: operands swapped"}  # only the size of the difference is asked for


def test_every_mutant_is_noticed() -> None:
    rule = tf.stochastic_rounding(add(), seed=3)
    leaf = tf.Leaf("w", (3000,))
    models = []
    for dtype in LOW.values():
        p = numbers(1, leaf.shape, decades=4).astype(dtype)
        models.append(({"w": p}, {"w": numbers(2, leaf.shape, decades=9, largest=2.0)}))
    program = rule.program(leaf)

    def hashes(rule: tf.Rule) -> list[bytes]:
        return [as_integers(run_reference(rule, p, [g])[0]["w/p"]).tobytes() for p, g in models]

    expected = hashes(rule)
    assert {
        name for name, mutant in mutations(program) if hashes(Mutant(rule.links, program, mutant)) == expected
    } == _SAME


# -- float16 and zero gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_zero_gradients_make_no_nan_in_float16(row: Row) -> None:
    """There eps = 1e-8 is zero; arithmetic is float32's."""
    params = {"w": np.ones((3, 4), np.float16), "b": np.zeros(5, np.float16)}
    state = reference.init(row.rule(), params)
    zeros = {k: np.zeros_like(p) for k, p in params.items()}
    for n in range(2):
        updates, state = reference.update(row.rule(), state, zeros, params, **extras(row.rule(), n))
        assert all(np.all(np.isfinite(u)) for u in updates.values())
