"""What holds of every rule, whatever its formula: each property runs over every row of the catalogue.

Of the rule itself, on numpy: it does what its plain function says on Python's numbers, it descends, it changes nothing
that it was given and keeps nothing of it, and goes on from a saved state as if it had not stopped.  Of the adapters,
where they could break it: dtypes of states, memory shared with parameters and gradients, saving and loading, and which
execution runs.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import trainfn as tf
import trainfn_jax
import trainfn_torch
from tests.bits import assert_same_bits
from tests.catalogue import ROWS, Row
from tests.executions import extras
from tests.inputs import numbers
from trainfn import reference
from trainfn.rule import Field
from trainfn_torch.names import Names

STEPS = 4
SHAPES = {"w": (5, 3), "b": (4,)}
Model = dict[str, Any]

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def _model(dtype: Any = np.float32) -> tuple[Model, list[Model]]:
    params = {k: numbers(i, s, decades=2).astype(dtype) for i, (k, s) in enumerate(SHAPES.items())}
    grads = [
        {k: numbers(10 * n + i, s, decades=4).astype(dtype) for i, (k, s) in enumerate(SHAPES.items())}
        for n in range(1, STEPS + 1)
    ]
    return params, grads


# -- the formula -------------------------------------------------------------------------------------------------------


def _is_of_numbers(row: Row) -> bool:
    """Whether a rule is one function of numbers: no chain, nothing around it, no other element's numbers, no chance.

    One that counts some of its calls alone needs a model to count in.
    """
    rule, program = row.rule(), row.rule().program()
    is_alone = rule.links == rule.all_links and len(rule.links) == 1 and "counted" not in program.output
    return is_alone and program.is_elementwise and not (program.has_reductions or program.is_random)


@pytest.mark.parametrize("row", list(filter(_is_of_numbers, ROWS)), ids=lambda row: row.name)
def test_a_step_is_the_plain_function_of_pythons_numbers(row: Row) -> None:
    rule = row.rule()
    (link,) = rule.all_links
    params = {"x": np.array(-1.5)}
    state = reference.init(rule, params)
    for n, g in enumerate(np.float64([0.25, -3.0, 1e-3])):  # of numpy, so that what `where` does not take may be 1 / 0
        asked = {"step": n, "state": _as_numbers(rule, state), "g": g, "p": params["x"][()], **extras(rule, n)}
        hyper = {k: value(n) if isinstance(value, tf.Schedule) else value for k, value in link.hyper.items()}
        with np.errstate(all="ignore"):
            result = link.definition.function(
                *(asked[name] for name in link.definition.positional), **dict(link.options), **hyper
            )
        updates, state = reference.update(rule, state, {"x": np.array(g)}, params, **extras(rule, n))
        params = {"x": params["x"] + updates["x"]}
        update, after = result if isinstance(result, tuple) else (result, ())
        assert float(updates["x"]) == pytest.approx(update, rel=1e-12, abs=1e-300)
        assert np.isfinite(update)
        for field, x, y in zip(rule.fields, after, _as_numbers(rule, state) or (), strict=True):
            is_absent = x is None and y is None
            assert is_absent or float(x) == pytest.approx(y, rel=1e-12 if field.is_array else 1e-7), field.name


def _as_numbers(rule: tf.Rule, state: reference.State) -> Any:
    """A state of one number as the plain function takes it."""
    held = {**state.model, **state.leaves["x"]}

    def number(field: Field) -> Any:
        parts = [held[name.removeprefix("state.")] for name in field.inputs if name.removeprefix("state.") in held]
        return np.float64(sum(map(float, parts))) if parts else None

    kind = rule.all_links[0].definition.state
    return kind(*map(number, rule.fields)) if kind else None


@every_row
def test_the_first_step_is_finite(row: Row) -> None:
    """Also where parameters and gradients are zero."""
    rule, (params, (grads, *_)) = row.rule(), _model()
    params["b"][:2] = grads["b"][1:3] = grads["w"][0] = 0
    updates, state = reference.update(rule, reference.init(rule, params), grads, params, **extras(rule, 0))
    for name, x in {**updates, **_arrays(state)}.items():
        assert np.isfinite(x).all(), name


# -- descent -----------------------------------------------------------------------------------------------------------

CURVATURE = np.float32([[1, 2, 4], [0.5, 1, 3]])


def _losses(params: Model) -> tuple[dict[str, float], Model]:
    """Of a quadratic with its minimum at 1/2, and of Rosenbrock's function, (1 - x)^2 + 100 (y - x^2)^2."""
    offset = params["quadratic"] - np.float32(0.5)
    x, y = map(float, params["rosenbrock"])
    losses = {
        "quadratic": 0.5 * float(np.sum(CURVATURE * offset**2)),
        "rosenbrock": (1 - x) ** 2 + 100 * (y - x * x) ** 2,
    }
    along_x, along_y = -2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)
    return losses, {"quadratic": CURVATURE * offset, "rosenbrock": np.float32([along_x, along_y])}


@every_row
def test_descent(row: Row) -> None:
    """At rates that make sense here, the row's `descent` where its own does not."""
    rule = row.rule(**row.descent)
    params: Model = {
        "quadratic": np.float32([[1.5, -0.5, 1.25], [-0.6, 1.4, 0.1]]),
        "rosenbrock": np.float32([-1.2, 1.0]),
    }
    before, _ = _losses(params)
    state = reference.init(rule, params)
    for _ in range(40):
        losses, grads = _losses(params)
        given = {"value": sum(losses.values())} if "value" in rule.extras else {}
        updates, state = reference.update(rule, state, grads, params, **given)
        params = {k: p + updates[k] for k, p in params.items()}
    after, _ = _losses(params)
    assert all(after[k] < before[k] for k in before), (before, after)
    assert sum(after.values()) < 0.5 * sum(before.values()), (before, after)


# -- numpy -------------------------------------------------------------------------------------------------------------


def _arrays(state: reference.State) -> Model:
    """Everything in a state, flat."""
    of_leaves = {f"{leaf}/{k}": x for leaf, kept in state.leaves.items() for k, x in kept.items()}
    counts = {"count": state.count, **{f"{leaf}/step": n for leaf, n in state.steps.items()}}
    return {k: np.asarray(x) for k, x in {**counts, **state.model, **of_leaves}.items()}


def _read_only(model: Model) -> Model:
    for x in model.values():
        x.flags.writeable = False
    return model


@every_row
def test_numpy_changes_nothing_and_keeps_nothing(row: Row) -> None:
    rule = row.rule()
    params, (grads, *_) = _model()
    state = reference.init(rule, _read_only(params))
    updates, after = reference.update(rule, state, _read_only(grads), params, **extras(rule, 0))
    given = [*params.values(), *grads.values()]
    for made in (_arrays(state), updates, _arrays(after)):
        for name, x in made.items():
            assert not any(np.shares_memory(x, y) for y in given), name


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64])
@every_row
def test_numpys_states_have_the_parameters_dtype(row: Row, dtype: Any) -> None:
    rule, (params, (grads, *_)) = row.rule(), _model(dtype)
    state = reference.init(rule, params)
    updates, after = reference.update(rule, state, grads, params, **extras(rule, 0))
    arrays = {f.name for k, p in params.items() for f in rule.fields_of(tf.Leaf(k, p.shape)) if f.is_array}
    made = [x for s in (state, after) for kept in s.leaves.values() for name, x in kept.items() if name in arrays]
    assert {x.dtype for x in made} == ({np.dtype(dtype)} if arrays else set())
    assert {x.dtype for x in updates.values()} == {_dtype_of_updates(rule, np.dtype(dtype))}


def _dtype_of_updates(rule: tf.Rule, dtype: Any) -> Any:
    """The parameters', but for rules that round the sum alone: they add float32."""
    is_rounded = any(node.op == "stored" for node in rule.program().nodes)
    return dtype if is_rounded else np.result_type(np.float32, dtype)


@every_row
def test_numpy_goes_on_from_a_state_of_plain_numbers(row: Row) -> None:
    """As it is read from a file: every array another one, scalars rounded to the float32 they are stored as."""
    rule = row.rule()
    params, grads = _model()
    state = again = reference.init(rule, params)
    for n, g in enumerate(grads):
        again = dataclasses.replace(
            again,
            model={k: float(np.float32(x)) for k, x in again.model.items()},
            leaves={
                leaf: {k: x.copy() if isinstance(x, np.ndarray) else float(np.float32(x)) for k, x in kept.items()}
                for leaf, kept in again.leaves.items()
            },
        )
        updates, state = reference.update(rule, state, g, params, **extras(rule, n))
        others, again = reference.update(rule, again, g, {k: p.copy() for k, p in params.items()}, **extras(rule, n))
        assert_same_bits(updates, others)
        assert_same_bits(_arrays(state), _arrays(again))
        params = {k: p + updates[k] for k, p in params.items()}


# -- torch -------------------------------------------------------------------------------------------------------------


def _optimizer(rule: tf.Rule, params: Mapping[str, torch.Tensor], execution: str | None = None) -> Any:
    return trainfn_torch.Optimizer(list(params.items()), rule, execution=execution)


def _tensors(model: Model, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {k: torch.tensor(x).to(dtype).requires_grad_() for k, x in model.items()}


def _step(optimizer: Any, rule: tf.Rule, params: Mapping[str, torch.Tensor], grads: Model, n: int) -> None:
    for k, p in params.items():
        p.grad = torch.tensor(grads[k]).to(p.dtype)
    optimizer.step(**extras(rule, n))


def _snapshot(optimizer: Any, params: Mapping[str, torch.Tensor]) -> Model:
    """Parameters, their states, and what the groups hold for the whole model."""
    flat = {f"{name}/p": p for name, p in params.items()}
    for name, p in params.items():
        flat |= {f"{name}/{k}": x for k, x in optimizer.state[p].items()}
    flat |= {k: x for k, x in optimizer.param_groups[0].items() if isinstance(x, torch.Tensor)}
    return {k: x.detach().numpy().copy() for k, x in flat.items()}


@every_row
def test_torch_runs_what_it_can_fused_and_the_rest_in_pieces(row: Row) -> None:
    """On a CPU: nothing elementwise, reductions to one number included, falls back to a slower execution.

    What works along axes is compiled in pieces, a leaf at a time; leaves that need each other are updated together, by
    the execution that takes them all.
    """
    rule, (params, grads) = row.rule(), _model()
    tensors = _tensors(params)
    optimizer = _optimizer(rule, tensors)
    _step(optimizer, rule, tensors, grads[0], 0)
    ran = {module.__name__: len(batch.leaves) for module, batch in optimizer._plan._batches}
    programs = [rule.program(tf.Leaf(k, x.shape)) for k, x in params.items()]
    fused = sum(program.is_elementwise for program in programs)
    if any(program.scopes for program in programs) and fused < len(programs):
        fused = 0
    due = {"trainfn_torch.fused": fused, "trainfn_torch.pieces": len(programs) - fused}
    assert ran == {name: leaves for name, leaves in due.items() if leaves}


@every_row
def test_torch_goes_on_from_any_step(row: Row) -> None:
    """From files of parameters and of the state, in another optimizer, with the bits of the uninterrupted run."""
    rule, (params, grads) = row.rule(), _model()
    tensors = _tensors(params)
    optimizer = _optimizer(rule, tensors)
    saved, path = [], []
    for n, g in enumerate(grads):
        _step(optimizer, rule, tensors, g, n)
        file = io.BytesIO()
        torch.save((optimizer.state_dict(), {k: p.detach() for k, p in tensors.items()}), file)
        saved.append(file)
        path.append(_snapshot(optimizer, tensors))
    for at, file in enumerate(saved[:-1], start=1):
        file.seek(0)
        state, values = torch.load(file, weights_only=True)
        again = {k: x.requires_grad_() for k, x in values.items()}
        resumed = _optimizer(rule, again)
        resumed.load_state_dict(state)
        for n in range(at, len(grads)):
            _step(resumed, rule, again, grads[n], n)
            assert_same_bits(path[n], _snapshot(resumed, again), f"after {at} steps, step {n}")


@pytest.mark.parametrize("execution", ["single", "foreach", "fused"])
@every_row
def test_torch_states_share_no_memory(row: Row, execution: str) -> None:
    """Neither with parameters and gradients nor with each other; and gradients stay what they were."""
    rule, (params, grads) = row.rule(), _model()
    tensors = _tensors(params)
    optimizer = _optimizer(rule, tensors, execution)
    for n in range(2):
        _step(optimizer, rule, tensors, grads[n], n)
    given = [x for p in tensors.values() for x in (p, p.grad)]
    kept = [x for p in tensors.values() for x in optimizer.state[p].values()]
    kept += [x for x in optimizer.param_groups[0].values() if isinstance(x, torch.Tensor)]
    places = [x.untyped_storage().data_ptr() for x in [*given, *kept]]
    assert len(set(places)) == len(places)
    assert_same_bits(grads[1], {k: p.grad.numpy() for k, p in tensors.items() if p.grad is not None})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@every_row
def test_torch_states_have_the_parameters_dtype(row: Row, dtype: torch.dtype) -> None:
    """Arrays do; numbers of a leaf or of the model are float32, pairs two of them."""
    rule, (params, grads) = row.rule(), _model()
    tensors = _tensors(params, dtype)
    optimizer = _optimizer(rule, tensors, "single")
    _step(optimizer, rule, tensors, grads[0], 0)
    names = Names(rule).state
    for name, p in tensors.items():
        assert p.dtype == dtype
        for f in rule.fields_of(tf.Leaf(name, tuple(p.shape))):
            x = optimizer.param_groups[0][f.name] if f.is_of_model else optimizer.state[p][names[f.name]]
            assert x.dtype == (dtype if f.is_array else torch.float32), f.name
            assert f.is_array or tuple(x.shape) == ((2,) if f.is_pair else ()), f.name


# -- JAX ---------------------------------------------------------------------------------------------------------------


@every_row
def test_jax_states_have_memory_of_their_own(row: Row) -> None:
    """What init makes can be donated together with the parameters."""
    params = {k: jnp.asarray(p) for k, p in _model()[0].items()}
    state = trainfn_jax.transform(row.rule()).init(params)
    places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state))]
    assert len(set(places)) == len(places)


@every_row
def test_jax_states_have_the_parameters_dtype(row: Row) -> None:
    """After init, and after an update, too: those of float32 are compared with numpy's, dtypes included, elsewhere."""
    rule = row.rule()
    tx = trainfn_jax.transform(rule)
    params = {k: jnp.asarray(p, jnp.bfloat16) for k, p in _model()[0].items()}
    before = tx.init(params)
    updates, after = jax.eval_shape(lambda g, s, p: tx.update(g, s, p, **extras(rule, 0)), params, before, params)
    due = {k: (p.shape, _dtype_of_updates(rule, p.dtype)) for k, p in params.items()}
    assert jax.tree.map(_kind, updates) == due
    assert jax.tree.map(_kind, after) == jax.tree.map(_kind, before)
    for f, tree in zip(rule.fields, before[1:], strict=True):
        assert {x.dtype for x in jax.tree.leaves(tree)} <= {jnp.dtype(jnp.bfloat16 if f.is_array else jnp.float32)}


def _kind(x: Any) -> tuple[Any, Any]:
    return x.shape, x.dtype
