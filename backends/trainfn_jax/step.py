"""The jitted step: all leaves' programs run side by side on arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from trainfn import random
from trainfn.interpret import Call, run
from trainfn.lowering import lower
from trainfn.program import Program
from trainfn.rule import Field, Rule
from trainfn.trace import Leaf
from trainfn_jax import arrays
from trainfn_jax.hyperparameters import Setting, Settings
from trainfn_jax.pins import with_pins
from trainfn_jax.primitives import held
from trainfn_jax.scalars import TABLE, in_float64, is_known, widen


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LeafArrays:
    """One leaf's arrays: gradient, parameter (None if not given), and state by trainfn's field names."""

    g: Any
    p: Any
    state: dict[str, Any]


@dataclass(frozen=True)
class LeafSpec:
    """What is known of one leaf: what its program sees, the number of its hyperparameter setting, and its shards.

    axes: the mesh axes along which other devices have other shards of it, which matters for reductions alone.
    """

    leaf: Leaf
    setting: int
    axes: tuple[str, ...] = ()

    @property
    def count(self) -> float:
        """Elements, on all devices."""
        return float(self.leaf.size * math.prod(map(lax.axis_size, self.axes)))


@dataclass(frozen=True)
class Recipe:
    """All that is known while tracing.  Equal recipes share compiled code, though their rules may be other objects."""

    structure: object
    leaves: tuple[LeafSpec, ...]
    settings: tuple[Setting, ...]
    rule: Rule = field(compare=False)


def update_program(rule: Rule, leaf: Leaf) -> Program:
    """The update in primitives, without the parameter after it, which is `optax.apply_updates`' part."""
    return _without_parameter(rule.program(leaf))


@functools.lru_cache(maxsize=4096)
def _without_parameter(program: Program) -> Program:
    return with_pins(lower(program.keep(name for name in program.output if name != "p")))


@functools.partial(jax.jit, static_argnums=0, inline=True)
@in_float64
def step(
    recipe: Recipe,
    leaves: list[LeafArrays],
    of_model: dict[str, Array],
    count: Array,
    hyper: list[Array],
    extras: dict[str, Array],
) -> tuple[list[Any], list[dict[str, Any]], dict[str, Any], Array]:
    """Updates, leaf states, model state and count after one update."""
    leaves, of_model, count, hyper, extras = jax.tree.map(held, (leaves, of_model, count, hyper, extras))
    at = widen(count)
    settings = Settings(hyper, at)
    total = settings.number(math.fsum(spec.count for spec in recipe.leaves))
    shared = {
        "step": at,
        "count.global": total,
        **{name: widen(x) for name, x in extras.items()},
        **loaded_scalars({f.name: of_model[f.name] for f in recipe.rule.fields if f.is_of_model}, recipe.rule),
    }
    meetings = arrays.Meetings()
    calls = [
        _call(recipe, spec, x, {**shared, "count.leaf": settings.number(spec.count)}, settings, meetings)
        for spec, x in zip(recipe.leaves, leaves, strict=True)
    ]
    results = run(calls, TABLE)
    select, select_count = (_selector([r[name] for r in results if name in r]) for name in ("applied", "counted"))
    updates, states, model = [], [], dict(of_model)
    for spec, x, result in zip(recipe.leaves, leaves, results, strict=True):
        is_rounded_once = recipe.rule.program(spec.leaf).is_rounded_once
        u = arrays.stored_as(result["update"], arrays.widened(x.g) if is_rounded_once else x.g)
        updates.append(select(u, jnp.full_like(u, -0.0)))
        fields = recipe.rule.fields_of(spec.leaf)
        states.append(
            {f.name: select(_stored(f, result, x.state), x.state[f.name]) for f in fields if not f.is_of_model}
        )
        model.update({f.name: select(_stored(f, result, of_model), of_model[f.name]) for f in fields if f.is_of_model})
    return updates, states, model, select(select_count(_saturating_increment(count), count), count)


def _call(
    recipe: Recipe,
    spec: LeafSpec,
    x: LeafArrays,
    shared: Mapping[str, Any],
    settings: Settings,
    meetings: arrays.Meetings,
) -> Call:
    compute = arrays.compute_dtype(x.g.dtype, *([] if x.p is None else [x.p.dtype]))
    fields = {f.name: f for f in recipe.rule.fields}
    g = arrays.load(x.g, compute)
    inputs = {
        **shared,
        **settings.inputs(recipe.settings[spec.setting]),
        "stream.leaf": settings.number(float(random.stream(spec.leaf.name))),
        "g": g,
        **({} if x.p is None else {"p": arrays.load(x.p, compute)}),
        **{f"state.{k}": arrays.load(s, compute) for k, s in x.state.items() if fields[k].is_array},
        **loaded_scalars({k: s for k, s in x.state.items() if not fields[k].is_array}, recipe.rule),
    }
    program = update_program(recipe.rule, spec.leaf)
    whole = None if program.is_elementwise else spec.leaf.shape
    of_g, of_p = (arrays.real_dtype(a.dtype) for a in (x.g, x.g if x.p is None else x.p))
    table = arrays.table(of_g, of_p, compute, meetings, whole)
    table.update(arrays.draws(g))
    return arrays.LeafCall(program, inputs, table, like=g, meetings=meetings, axes=spec.axes)


def loaded_scalars(stored: Mapping[str, Any], rule: Rule) -> dict[str, Any]:
    fields = {f.name: f for f in rule.fields}
    loaded = {}
    for name, x in stored.items():
        parts = [lax.index_in_dim(x, i, keepdims=False) for i in range(2)] if fields[name].is_pair else [x]
        loaded.update({part: widen(value) for part, value in zip(fields[name].inputs, parts, strict=True)})
    return loaded


def _stored(f: Field, result: Mapping[str, Any], old: Mapping[str, Any]) -> Any:
    values = [result[name] for name in f.inputs]
    return arrays.stored_as(values[0], old[f.name]) if f.is_array else stored_scalar(values)


def stored_scalar(values: list[Any]) -> Any:
    """A Scalar, or the two of a pair, which already have float32's precision."""
    single = [jnp.asarray(x if not is_known(x) else np.float32(x)).astype(np.float32) for x in values]
    return single[0] if len(single) == 1 else jnp.stack(single)


def _saturating_increment(count: Array) -> Array:
    most = np.asarray(np.iinfo(count.dtype).max, count.dtype)
    return lax.select(lax.lt(count, most), lax.add(count, np.ones((), count.dtype)), count)


def _selector(flags: list[Any]) -> Callable[[Any, Any], Any]:
    """A function that gives the new value if all flags hold, else the old one."""
    if not flags:
        return lambda new, old: new
    condition = functools.reduce(lax.bitwise_and, flags)
    return lambda new, old: lax.select(condition, new, old)
