"""trainfn's schedules under optax's names: its signatures and its curves."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainfn as tf
import trainfn_jax
from trainfn_jax import schedules

CYCLES = [
    {"init_value": 0.1, "peak_value": 1.0, "warmup_steps": 3, "decay_steps": 10, "end_value": 0.1},
    {"init_value": 0.1, "peak_value": 0.5, "warmup_steps": 0, "decay_steps": 20, "exponent": 2.0},
]
CALLS: list[tuple[str, dict[str, Any]]] = [
    ("constant_schedule", {"value": 0.3}),
    ("linear_schedule", {"init_value": 0.1, "end_value": 0.7, "transition_steps": 13, "transition_begin": 4}),
    ("polynomial_schedule", {"init_value": 1.0, "end_value": 0.1, "power": 1.7, "transition_steps": 30}),
    ("exponential_decay", {"init_value": 1.0, "transition_steps": 5, "decay_rate": 0.8, "end_value": 0.5}),
    ("exponential_decay", {"init_value": 1.0, "transition_steps": 5, "decay_rate": 1.2, "end_value": 2.0}),
    ("exponential_decay", {"init_value": 1.0, "transition_steps": 5, "decay_rate": 0.0}),
    (
        "exponential_decay",
        {"init_value": 1.0, "transition_steps": 5, "decay_rate": 0.8, "transition_begin": 3, "staircase": True},
    ),
    ("cosine_decay_schedule", {"init_value": 2.0, "decay_steps": 40, "alpha": 0.1}),
    ("cosine_decay_schedule", {"init_value": 2.0, "decay_steps": 40, "alpha": 0.1, "exponent": 1.5}),
    ("piecewise_constant_schedule", {"init_value": 1.0, "boundaries_and_scales": {12: 0.1, 3: 0.5}}),
    ("piecewise_constant_schedule", {"init_value": 1.0}),
    (
        "piecewise_interpolate_schedule",
        {"interpolate_type": "cosine", "init_value": 1.0, "boundaries_and_scales": {5: 0.5, 12: 4.0}},
    ),
    ("linear_onecycle_schedule", {"transition_steps": 50, "peak_value": 0.3}),
    ("cosine_onecycle_schedule", {"transition_steps": 50, "peak_value": 0.3, "pct_start": 0.25}),
    ("warmup_constant_schedule", {"init_value": 0.1, "peak_value": 0.3, "warmup_steps": 7}),
    ("warmup_cosine_decay_schedule", CYCLES[0]),
    ("warmup_cosine_decay_schedule", {**CYCLES[0], "exponent": 2.0}),
    (
        "warmup_exponential_decay_schedule",
        {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 6, "transition_steps": 10, "decay_rate": 0.5},
    ),
    ("sgdr_schedule", {"cosine_kwargs": CYCLES}),
]


@pytest.mark.parametrize(("name", "arguments"), CALLS, ids=[name for name, _ in CALLS])
def test_optaxs_curve(name: str, arguments: dict[str, Any]) -> None:
    ours = getattr(trainfn_jax, name)(**arguments)
    with jax.enable_x64(True):
        theirs = np.array([float(getattr(optax, name)(**arguments)(n)) for n in range(60)])
    np.testing.assert_allclose(ours(np.arange(60)), theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", schedules.__all__)
def test_optaxs_arguments(name: str) -> None:
    assert getattr(trainfn_jax, name) is getattr(schedules, name)
    theirs, ours = (inspect.signature(getattr(m, name)).parameters for m in (optax, trainfn_jax))
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]


def test_every_schedule_of_optax_is_there() -> None:
    public = {name for name, x in vars(optax.schedules).items() if inspect.isfunction(x) and not name.startswith("_")}
    assert public - {"inject_hyperparams", "inject_stateful_hyperparams"} == set(schedules.__all__)


def test_joined() -> None:
    parts = [trainfn_jax.linear_schedule(0.0, 1.0, 5), 0.5]
    joined = trainfn_jax.join_schedules(parts, [5])
    assert list(joined(np.arange(4, 7))) == [0.8, 0.5, 0.5]
    with pytest.raises(TypeError, match=r"joins schedules of trainfn; .* optax\.join_schedules takes any"):
        trainfn_jax.join_schedules([optax.constant_schedule(1.0), 0.5], [5])


def test_no_steps() -> None:
    assert trainfn_jax.warmup_constant_schedule(0.0, 0.5, 0)(0) == 0.5
    with pytest.raises(ValueError, match="linear: steps = 0 must be a positive number of steps"):
        trainfn_jax.linear_schedule(0.0, 1.0, 0)


def test_they_take_traced_numbers() -> None:
    def at_three(peak: Any) -> Any:
        return trainfn_jax.warmup_cosine_decay_schedule(0.0, peak, 2, 10)(jnp.int32(3))

    assert float(jax.jit(at_three)(0.5)) == np.float32(tf.warmup_cosine(0.5, 2, 10)(3))
