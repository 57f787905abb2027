"""Schedules in JAX: all 64 bits of numpy's curve inside a jit, one rounding on the way out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import trainfn as tf
from tests.bits import differing
from tests.catalogue import SCHEDULES
from trainfn.interpret import evaluate_scalars
from trainfn.lowering import lower
from trainfn_jax import evaluate_schedule
from trainfn_jax.scalars import TABLE, in_float64, widen

STEPS = 60_000
LONG = {
    "warmup_cosine": tf.warmup_cosine(1e-3, 1000, STEPS, 1e-5),
    "polynomial": tf.polynomial(start=0.3, stop=0.01, steps=50_000, power=1.7),
    "exponential": tf.exponential(start=0.1, decay=0.97, steps=300),
    "step_decay": tf.step_decay(start=0.1, factor=0.3, every=7777),
    "product": tf.cosine(peak=0.1, steps=STEPS) * 0.3,
}


def scanned_bits(value: Any) -> Any:
    """The float64 `value(step)` at each step of a jitted scan, as uint32 halves: float64 does not leave a jit."""

    @jax.jit
    @in_float64
    def run() -> Any:
        def body(step: Any, _: Any) -> Any:
            return step + np.int32(1), lax.bitcast_convert_type(value(step), np.uint32)

        return lax.scan(body, np.int32(0), None, length=STEPS)[1]

    return np.ascontiguousarray(np.asarray(run())).view(np.float64)[:, 0]


@pytest.mark.parametrize("name", LONG)
def test_float64_bits_of_a_long_run(name: str) -> None:
    schedule = LONG[name]
    program, parameters = lower(schedule.program), {k: float(v) for k, v in schedule.parameters.items()}
    got = scanned_bits(lambda step: evaluate_scalars(program, {"step": widen(step), **parameters}, TABLE)["value"])
    assert differing(schedule(np.arange(STEPS)), got) == 0


@pytest.mark.parametrize("decay", [0.9, 0.99, 0.999, 0.9999])
def test_float64_bits_of_bias_correction(decay: float) -> None:
    @tf.schedule
    def correction(step: Any, *, decay: Any) -> Any:
        return 1 / (1 - decay ** (step + 1))

    program = lower(correction(decay).program)
    # The decay known while tracing, and not.
    for make in (float, lambda x: widen(jnp.float32(x)) * 0 + np.float64(x)):
        got = scanned_bits(
            lambda step, make=make: evaluate_scalars(program, {"step": widen(step), "decay": make(decay)}, TABLE)[
                "value"
            ]
        )
        assert differing(correction(decay)(np.arange(STEPS)), got) == 0


@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: row.name)
def test_one_number_an_array_and_under_transformations(row: Any) -> None:
    schedule = row.schedule
    steps = np.arange(60, dtype=np.int32)
    curve = schedule(steps).astype(np.float32)
    assert differing(curve, schedule(jnp.asarray(steps))) == 0
    assert differing(curve.reshape(5, 12), jax.jit(schedule)(jnp.asarray(steps.reshape(5, 12)))) == 0
    assert differing(curve, jax.vmap(schedule)(jnp.asarray(steps))) == 0
    assert differing(curve[7], schedule(jnp.int32(7))) == 0
    scanned = lax.scan(lambda n, _: (n + 1, schedule(n)), jnp.int32(0), None, length=60)[1]
    assert differing(curve, scanned) == 0


def test_as_learning_rate_of_optax() -> None:
    schedule = tf.warmup_cosine(0.1, 3, 10)
    tx = optax.sgd(learning_rate=schedule)
    g = jnp.ones(2)

    @jax.jit
    def step(state: Any) -> Any:
        return tx.update(g, state)

    state = tx.init(g)
    for n in range(5):
        updates, state = step(state)
        assert updates[0] == -np.float32(schedule(n))


def test_of_traced_parameters_and_their_derivative() -> None:
    def at(peak: Any) -> Any:
        return tf.cosine(peak=peak, steps=10)(jnp.int32(5))

    assert jax.jit(at)(jnp.float32(0.5)) == np.float32(tf.cosine(peak=0.5, steps=10)(5))
    np.testing.assert_allclose(jax.grad(at)(0.5), 0.5, rtol=1e-6)
    many = jax.vmap(at)(jnp.asarray([0.5, 0.25]))
    assert list(many) == [np.float32(tf.cosine(peak=p, steps=10)(5)) for p in (0.5, 0.25)]


def test_float64_where_the_user_has_it() -> None:
    schedule = LONG["polynomial"]
    with jax.enable_x64(True):
        value = evaluate_schedule(schedule, jnp.asarray(1234))
    assert value.dtype == np.float64
    assert float(value) == schedule(1234)
