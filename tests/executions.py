"""Every execution behind one interface: run a rule for some steps and give back all it left behind, each step.

A trajectory is a list, one entry a step, of flat dictionaries: `leaf/p`, `leaf/step`, `leaf/<field>`, `count`, and
`<field>` for model-wide scalars, as numpy arrays, by the core's names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

import ml_dtypes
import numpy as np

import trainfn as tf
from tests.bits import as_integers
from tests.inputs import loss
from trainfn import reference
from trainfn.rule import Field

Arrays = Mapping[str, np.ndarray[Any, Any]]
Trajectory = list[dict[str, Any]]
Execution = Callable[..., Trajectory]  # of a rule, parameters, gradients and perhaps state_dtype


def extras(rule: tf.Rule, n: int) -> dict[str, float]:
    """What a training loop supplies with update n to a rule that asks for it."""
    given = {"value": loss(n), "weight": 1.0 + n % 3}
    return {name: x for name, x in given.items() if name in rule.extras}


# -- numpy ---------------------------------------------------------------------------------------------------------


def run_reference(rule: tf.Rule, params: Arrays, grads: Sequence[Arrays], state_dtype: str | None = None) -> Trajectory:
    """numpy: the meaning."""
    return list(steps_of_reference(rule, params, grads, state_dtype))


def steps_of_reference(
    rule: tf.Rule, params: Arrays, grads: Sequence[Arrays], state_dtype: str | None = None
) -> Iterator[dict[str, Any]]:
    """The same, as far as one asks."""
    state = reference.init(rule, params, state_dtype)
    for n, g in enumerate(grads):
        updates, state = reference.update(rule, state, g, params, **extras(rule, n))
        params = {name: _add(p, updates[name]) for name, p in params.items()}
        yield _of_reference(params, state)


def _add(p: Any, u: Any) -> Any:
    """p + u as every framework computes it: in the compute dtype, flushed, and rounded to the parameter's."""
    with np.errstate(all="ignore"):
        return np.asarray(reference.load(reference.load(p) + reference.load(u))).astype(p.dtype)


def _of_reference(params: Arrays, state: reference.State) -> dict[str, Any]:
    flat: dict[str, Any] = {"count": np.int64(state.count)}
    flat |= {k: np.float32(v) for k, v in state.model.items()}
    for leaf, p in params.items():
        flat[f"{leaf}/p"] = p
        flat[f"{leaf}/step"] = np.int64(state.steps[leaf])
        flat |= {
            f"{leaf}/{k}": v if isinstance(v, np.ndarray | np.generic) else np.float32(v)
            for k, v in state.leaves[leaf].items()
        }
    return flat


def _parts(field: Field, value: Any) -> dict[str, Any]:
    """A stored field under the names of the program's inputs, pairs taken apart."""
    names = [name.removeprefix("state.") for name in field.inputs]
    return dict(zip(names, value if field.is_pair else [value], strict=True))


# -- torch ---------------------------------------------------------------------------------------------------------


def run_torch(
    execution: str, rule: tf.Rule, params: Arrays, grads: Sequence[Arrays], state_dtype: str | None = None
) -> Trajectory:
    """trainfn_torch.Optimizer, as its users hold it."""
    import torch

    import trainfn_torch

    tensors = {name: _tensor(p).requires_grad_() for name, p in params.items()}
    dtype = getattr(torch, state_dtype) if state_dtype else None
    optimizer = trainfn_torch.Optimizer(list(tensors.items()), rule, execution=execution, state_dtype=dtype)
    trajectory = []
    for n, g in enumerate(grads):
        for name, p in tensors.items():
            p.grad = _tensor(g[name])
        optimizer.step(**extras(rule, n))
        trajectory.append(_of_torch(rule, optimizer, tensors))
    return trajectory


def _of_torch(rule: tf.Rule, optimizer: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    from trainfn_torch.names import Names

    names = Names(rule).state
    group = optimizer.param_groups[0]
    flat: dict[str, Any] = {"count": np.int64(group["updates"].item())}
    for f in rule.fields:
        if f.is_of_model:
            flat |= _parts(f, _array(group[f.name]))
    for leaf, p in tensors.items():
        flat[f"{leaf}/p"] = _array(p)
        state = optimizer.state[p]
        flat[f"{leaf}/step"] = np.int64(state["step"].item())
        for f in rule.fields_of(tf.Leaf(leaf, tuple(p.shape))):
            if not f.is_of_model:
                flat |= {f"{leaf}/{k}": v for k, v in _parts(f, _array(state[names[f.name]])).items()}
    return flat


def _tensor(x: Any) -> Any:
    """A tensor of one's own; numpy's bfloat16 is handed over as bits."""
    import torch

    if x.dtype == ml_dtypes.bfloat16:
        return torch.tensor(x.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(x)


def _array(x: Any) -> Any:
    import torch

    x = x.detach().cpu()
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return x.numpy().copy()


# -- JAX -----------------------------------------------------------------------------------------------------------


@cache
def _jax_step(how: str, rule: tf.Rule, state_dtype: str | None) -> tuple[Any, Any]:
    """The transformation of a rule and one training step around it, kept so that equal runs compile once."""
    import jax
    import optax

    import trainfn_jax

    tx = trainfn_jax.transform(rule, state_dtype=state_dtype)

    def step(params: Any, state: Any, g: Any, given: Any) -> Any:
        if how == "jit_with_gradient":
            g = {name: x * y for name, (x, y) in g.items()}  # XLA would like to contract this
        updates, state = tx.update(g, state, params, **given)
        return optax.apply_updates(params, updates), state

    return tx, step if how == "eager" else jax.jit(step)


def run_jax(
    how: str, rule: tf.Rule, params: Arrays, grads: Sequence[Arrays], state_dtype: str | None = None
) -> Trajectory:
    """trainfn_jax.transform with optax.apply_updates: eager, jitted, or jitted with a gradient computed inside."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(any(p.dtype == np.float64 for p in params.values())):
        tx, step = _jax_step(how, rule, state_dtype)
        current = {name: jnp.asarray(p) for name, p in params.items()}
        state = tx.init(current)
        trajectory = []
        for n, g in enumerate(grads):
            if n % 2:  # every other step goes on from plain arrays, as they are read from a file
                current, state = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), (current, state))
            given = {k: factors(x) for k, x in g.items()} if how == "jit_with_gradient" else g
            current, state = step(current, state, jax.tree.map(jnp.asarray, dict(given)), extras(rule, n))
            trajectory.append(_of_jax(rule, current, state))
    return trajectory


def factors(g: Any) -> tuple[Any, Any]:
    """Two arrays whose product, rounded in their dtype, is g: inexact where it can be, and g times 1 elsewhere."""
    share = np.asarray(0.7, g.dtype)
    with np.errstate(all="ignore"):
        x = np.asarray(g / share, g.dtype)
        is_product = as_integers(x * share).reshape(g.shape) == as_integers(g).reshape(g.shape)
        is_product &= abs(g) > ml_dtypes.finfo(g.dtype).smallest_normal  # XLA flushes what would round up to it
    return np.where(is_product, x, g), np.where(is_product, share, np.ones((), g.dtype))


def _of_jax(rule: tf.Rule, params: Mapping[str, Any], state: Any) -> dict[str, Any]:
    from trainfn_jax.state import field_name

    count = np.int64(state.count)
    flat: dict[str, Any] = {"count": count}
    for f in rule.fields:
        if f.is_of_model:
            flat |= _parts(f, np.array(getattr(state, field_name(rule, f))))
    for leaf, p in params.items():
        flat[f"{leaf}/p"] = np.array(p)
        flat[f"{leaf}/step"] = count
        for f in rule.fields_of(tf.Leaf(leaf, p.shape)):
            if not f.is_of_model:
                value = np.array(getattr(state, field_name(rule, f))[leaf])
                flat |= {f"{leaf}/{k}": v for k, v in _parts(f, value).items()}
    return flat


EXECUTIONS: dict[str, Execution] = {
    "reference": run_reference,
    "torch_single": partial(run_torch, "single"),
    "torch_foreach": partial(run_torch, "foreach"),
    "torch_fused": partial(run_torch, "fused"),
    "jax_eager": partial(run_jax, "eager"),
    "jax_jit": partial(run_jax, "jit"),
    "jax_jit_with_gradient": partial(run_jax, "jit_with_gradient"),
}
