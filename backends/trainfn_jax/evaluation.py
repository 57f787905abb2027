"""Schedules and state machines on JAX's numbers: float64 inside, one rounding at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from trainfn.interpret import evaluate_scalars
from trainfn.lowering import lower
from trainfn.program import Program
from trainfn.schedules.schedule import Schedule
from trainfn_jax.scalars import TABLE, in_float64, narrow, widen


def evaluate_schedule(schedule: Schedule, step: Any) -> Any:
    """The value at `step`, an integer array of any shape, traced or not, rounded once to JAX's default float.

    This makes every schedule of trainfn a schedule of optax: `optax.sgd(schedule)`.
    """
    known, traced = _split(schedule)
    dtype = jnp.result_type(float)
    return _evaluate(schedule.program, known, dtype, jnp.asarray(step), traced)


def _split(schedule: Schedule) -> tuple[tuple[tuple[str, float], ...], dict[str, Any]]:
    """Parameters known while tracing, and those that are arrays."""
    traced = {k: v for k, v in schedule.parameters.items() if isinstance(v, Array)}
    return tuple((k, float(v)) for k, v in schedule.parameters.items() if k not in traced), traced


def _value(
    program: Program, known: tuple[tuple[str, float], ...], dtype: Any, step: Array, traced: dict[str, Array]
) -> Any:
    parameters = {**dict(known), **{name: widen(x) for name, x in traced.items()}}

    def at(one: Array) -> Array:
        value = evaluate_scalars(lower(program), {"step": widen(one), **parameters}, TABLE)["value"]
        return jnp.asarray(narrow(value, dtype), dtype)

    return jax.vmap(at)(step.reshape(-1)).reshape(step.shape) if step.ndim else at(step)


_evaluate = jax.jit(in_float64(_value), static_argnums=(0, 1, 2))


def evaluate(program: Program, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate a program of scalars, each output rounded once to JAX's default float."""
    dtype = jnp.result_type(float)
    with jax.enable_x64(True):  # Python's numbers arrive with all their bits
        results: dict[str, Any] = _evaluate_all(program, dtype, {name: jnp.asarray(x) for name, x in inputs.items()})
    return results


def _values(program: Program, dtype: Any, inputs: Mapping[str, Array]) -> dict[str, Any]:
    values = evaluate_scalars(lower(program), {name: widen(x) for name, x in inputs.items()}, TABLE)
    return {name: jnp.asarray(narrow(value, dtype), dtype) for name, value in values.items()}


_evaluate_all = jax.jit(_values, static_argnums=(0, 1))
