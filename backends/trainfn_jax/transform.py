"""A rule as an `optax.GradientTransformationExtraArgs`.

`update` takes trees apart, checks that they fit, and calls one jitted function, `trainfn_jax.step.step`: eager calls
therefore have the bits of jitted ones, and inside a user's jit the function is inlined.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from jax import Array

from trainfn import hyperparameters
from trainfn.interpret import Call, run
from trainfn.lowering import lower
from trainfn.program import Program, Sort
from trainfn.rule import EXTRAS, Definition, Field, Rule, check_agreement
from trainfn.trace import Leaf
from trainfn_jax import arrays, trees
from trainfn_jax.hyperparameters import Arguments, Setting, Settings
from trainfn_jax.layout import Contents, Flat, Layout
from trainfn_jax.pins import with_pins
from trainfn_jax.primitives import held
from trainfn_jax.scalars import TABLE, in_float64, widen
from trainfn_jax.state import field_name
from trainfn_jax.step import LeafArrays, LeafSpec, Recipe, loaded_scalars, step, stored_scalar, update_program

AxisName = str | tuple[str, ...] | Callable[[Leaf], str | tuple[str, ...]]
Rename = Callable[[str], str]
_SMALL = tuple(map(np.dtype, (np.float32, jnp.bfloat16, np.float16)))  # whose state may have another dtype


def transform(
    rule: Rule, axis_name: AxisName | None = None, rename: Rename = str, state_dtype: Any = None
) -> optax.GradientTransformationExtraArgs:
    """The rule as a gradient transformation of optax, for flax, `optax.chain` and all that takes one.

    Hyperparameters may be numbers, schedules, leaf functions (a leaf's name is its path, as in `layers/0/kernel`), or
    0-d arrays, traced or not; float32 arrays are widened as they are.  The state is described in `trainfn_jax.state`.
    Gradients and parameters are float32, bfloat16, float16 or, with jax_enable_x64, float64; complex ones are taken
    as pairs of real numbers, as by torch - where optax uses |g|^2 for both.  Updates have the gradient's dtype.  The
    state's arrays have the parameter's, or `state_dtype`, such as jnp.float32 for parameters in bfloat16, which is for
    real parameters of at most 32 bits.

    Leaves may be sharded, and reductions see them whole, wherever the compiler knows of it.  Inside `jax.shard_map` and
    `pmap` it does not: there `axis_name` says along which mesh axes leaves are shards, for all (`"x"`, `("x", "y")`)
    or as a function of the leaf, whose shape is the shard's.  Sums, maxima and counts of elements then go over them,
    and the bits do not depend on shards.  A leaf that is the same on all devices has no such axis: (), which also
    says that each device has a model of its own.  Without `axis_name` a rule with reductions refuses gradients that
    `shard_map` knows to vary; with check_vma=False, and in pmap, nobody can know, and it takes each device's alone.
    Rules that draw random numbers, or work along axes, want leaves whole, or sharded by the compiler.

    `rename` gives leaves other names than their paths: those by which functions of the leaf know them, and by which
    random numbers are drawn.  With the names that a model has in another framework, it draws the same numbers.

    A skipped update (`skip_if_not_finite`) is -0.0 everywhere, which changes no number it is added to, and leaves the
    state and its count as they were.
    """
    if isinstance(rule, Definition):
        raise TypeError(f"transform takes a rule with its hyperparameters: write {rule.name}() for its defaults.")
    if not isinstance(rule, Rule):
        raise TypeError(f"transform takes a trainfn rule, such as adamw(lr=1e-3), not {rule!r}.")
    return transformed(rule, Flat, Options(axis_name, rename, kept_as(state_dtype))).for_optax


def kept_as(state_dtype: Any) -> np.dtype[Any] | None:
    """The dtype that the state's arrays are asked to have."""
    if state_dtype is not None and np.dtype(state_dtype) not in _SMALL:
        raise TypeError(f"state_dtype = {state_dtype!r} must be float32, bfloat16, float16, or None.")
    return None if state_dtype is None else np.dtype(state_dtype)


@dataclass(frozen=True)
class Options:
    """What `transform` takes beside the rule."""

    axis_name: AxisName | None = None
    rename: Rename = str
    state_dtype: Any = None


@dataclass(frozen=True, eq=False)
class Transformation:
    """What stands behind a transformation of ours: `init` and `update` are its methods, so that they lead back to it.

    rule: says what is in the state, of which `layout` says what shape it has.
    rule_of: the rule for given gradients, where a mask or labels have to be compared with them first.
    start_of: the rule for given parameters, where labels say which state a leaf has.
    """

    rule: Rule
    layout: Layout
    options: Options = Options()
    rule_of: Callable[[Any], Rule] | None = None
    start_of: Callable[[Any], Rule] | None = None

    @property
    def for_optax(self) -> optax.GradientTransformationExtraArgs:
        return optax.GradientTransformationExtraArgs(self.init, self.update)

    def at_start(self, params: Any) -> Rule:
        return self.rule if self.start_of is None else self.start_of(params)

    def at(self, updates: Any) -> Rule:
        return self.rule if self.rule_of is None else self.rule_of(updates)

    def init(self, params: Any) -> Any:
        return self.layout.made(_init(self.at_start(params), self.options, params))

    def update(self, updates: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        before = self.layout.contents(state)
        updates, after = _update(self.at(updates), self.options, updates, before, params, extra_args)
        return updates, self.layout.made(after)


def transformed(rule: Rule, layout: Callable[[Rule], Layout], options: Options = Options()) -> Transformation:
    """The transformation of a rule whose hyperparameters are checked as far as they are known."""
    for name, value in rule.hyper.items():
        if isinstance(value, Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise TypeError(f"{rule.name}: {name} is a key of jax.random's; a seed here is a whole number below 2**32.")
        if isinstance(value, Array) and not isinstance(value, jax.core.Tracer):
            hyperparameters.check(rule.name, name, np.asarray(value))  # what is traced nobody knows yet
    return Transformation(rule, layout(rule), options)


def combined(
    make: Callable[..., Rule], parts: Sequence[Transformation], layout: Callable[[Rule], Layout], options: Options
) -> Transformation:
    """The transformation of the rule that `make` makes of those of several."""
    rule = make(*(part.rule for part in parts))

    def rule_of(updates: Any) -> Rule:
        return make(*(part.at(updates) for part in parts))

    def start_of(params: Any) -> Rule:
        return make(*(part.at_start(params) for part in parts))

    return Transformation(
        rule,
        layout(rule),
        options,
        rule_of if any(part.rule_of for part in parts) else None,
        start_of if any(part.start_of for part in parts) else None,
    )


def found(tx: Any) -> Transformation | None:
    """What stands behind a transformation if it is one of ours."""
    behind = getattr(getattr(tx, "update", None), "__self__", None)
    return behind if isinstance(behind, Transformation) else None


# -- init --------------------------------------------------------------------------------------------------------------


def _init(rule: Rule, options: Options, params: Any) -> Contents:
    """Reads shapes and dtypes only, unless the rule's initial state copies the parameter."""
    values, treedef = jax.tree.flatten(params, is_leaf=trees.is_none)
    named = list(zip(map(options.rename, trees.names(params)), values, strict=True))
    rule.check_policies(Leaf(name, np.shape(p)) for name, p in named if p is not None)
    kept = options.state_dtype
    leaves = [{} if p is None else _initial_leaf(rule, name, p, arrays.dtype_of(p), kept) for name, p in named]

    def whole(f: Field) -> Any:
        if not f.is_of_model:
            return jax.tree.unflatten(treedef, [leaf.get(f.name) for leaf in leaves])
        zero = jnp.zeros((2,) if f.is_pair else (), jnp.float32)
        return next((leaf[f.name] for leaf in leaves if f.name in leaf), zero)

    return Contents(jnp.zeros((), jnp.int32), {f.name: whole(f) for f in rule.fields})


@in_float64
def _initial_leaf(rule: Rule, name: str, p: Any, dtype: np.dtype[Any], state_dtype: Any) -> dict[str, Any]:
    """One leaf's state before the first update, by trainfn's field names."""
    trees.check_floating(name, "a parameter", dtype)
    leaf = arrays.leaf(name, np.shape(p), dtype)
    compute = arrays.compute_dtype(dtype)
    _check_axes(rule, leaf, dtype)
    program = rule.init_program(leaf)
    arguments = Arguments(count=jnp.zeros((), jnp.int32))
    setting = arguments.setting(rule, Leaf(name, np.shape(p)))
    inputs = dict(Settings(arguments.arrays, 0.0).inputs(setting))
    if "p" in program.inputs(Sort.ARRAY):
        if isinstance(p, jax.ShapeDtypeStruct):
            raise TypeError(f"{rule.name} starts its state from the parameters: use jax.eval_shape(init, params).")
        inputs["p"] = arrays.load(held(jnp.asarray(p, dtype)), compute)
    outputs = _outputs(program, inputs, leaf, dtype)
    kept = dtype if state_dtype is None or dtype not in _SMALL else np.dtype(state_dtype)
    like = _like(p, kept)
    others = {
        name: jax.ShapeDtypeStruct(shape, kept)  # type: ignore[no-untyped-call]
        for name, shape in rule.state_shapes(leaf).items()
    }
    state: dict[str, Any] = {}
    for f in rule.fields_of(leaf):
        values = [outputs[part] for part in f.inputs]
        x = arrays.stored_as(values[0], others.get(f.name, like)) if f.is_array else stored_scalar(values)
        # Memory of its own, which can be donated, also where two wrappers begin with the parameter.
        state[f.name] = jnp.copy(x) if any(x is y for y in state.values()) else x
    return state


def _like(p: Any, dtype: np.dtype[Any]) -> Any:
    """Something of the shape and sharding of p."""
    if isinstance(p, Array):
        return p if p.dtype == dtype else p.astype(dtype)
    return jax.ShapeDtypeStruct(np.shape(p), dtype)  # type: ignore[no-untyped-call]


# -- evaluation --------------------------------------------------------------------------------------------------------


def eval_params(tx: Any, state: Any, params: Any, rename: Rename = str) -> Any:
    """The parameters to evaluate: an average that the rule keeps, or those that are trained.

    tx: a transformation of trainfn_jax, or a rule, for `transform(rule, rename=rename)`.
    state: its own, alone or inside of others: of `optax.chain`, `MultiSteps`, `inject_hyperparams`, `nnx.Optimizer`.
    """
    own = found(tx)
    if own is None and not isinstance(tx, Rule):
        raise TypeError(
            f"eval_params takes the transformation of trainfn_jax whose state is to be evaluated, or its rule, not "
            f"{tx!r}: of what stands inside of a transformation of optax, give that."
        )
    own = own or Transformation(tx, Flat(tx), Options(rename=rename))
    return _evaluated(own, _state_inside(own, trees.unboxed(state)), params)


def _state_inside(own: Transformation, state: Any) -> Contents:
    """What the one state in a tree of states holds that is a transformation's own."""
    fitting = list(_fitting(own.layout, state))
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        own.layout.contents(state)  # says what is due
    raise ValueError(
        f"the state holds {len(fitting)} states of {own.rule.name}: give the one that belongs to these parameters."
    )


def _fitting(layout: Layout, state: Any) -> Iterator[Contents]:
    try:
        yield layout.contents(state)
    except TypeError:
        for x in trees.inside(state):
            yield from _fitting(layout, x)


def _evaluated(own: Transformation, contents: Contents, params: Any) -> Any:
    rule, given = own.at_start(params), contents.fields
    count = jnp.zeros((), jnp.int32) if contents.count is None else contents.count
    values, treedef = jax.tree.flatten(params, is_leaf=trees.is_none)
    plain = trees.unboxed(params)
    at = functools.partial(trees.aligned, like=plain, treedef=trees.structure(plain))
    of_model = {f.name: given[f.name] for f in rule.fields if f.is_of_model}
    by_leaf = {f.name: at(f"state.{f.name}", given[f.name]) for f in rule.fields if not f.is_of_model}
    for i, (name, p) in enumerate(zip(map(own.options.rename, trees.names(params)), values, strict=True)):
        if p is not None:
            mine = of_model | {k: xs[i] for k, xs in by_leaf.items()}
            values[i] = _evaluated_leaf(rule, name, jnp.asarray(p), mine, count)
    return jax.tree.unflatten(treedef, values)


@in_float64
def _evaluated_leaf(rule: Rule, name: str, p: Any, state: Mapping[str, Any], count: Any) -> Any:
    leaf = arrays.leaf(name, p.shape, p.dtype)
    compute = arrays.compute_dtype(p.dtype)
    arguments = Arguments(count)
    setting = arguments.setting(rule, Leaf(name, p.shape))
    mine = {f.name: f for f in rule.fields_of(leaf)}
    for k in mine:
        if not hasattr(state[k], "dtype"):
            raise ValueError(f"leaf {name!r}: the state has no {k}; give the parameters that init was given.")
    at = widen(count)
    inputs = {
        **Settings(arguments.arrays, at).inputs(setting),
        **{f"state.{k}": arrays.load(held(state[k]), compute) for k, f in mine.items() if f.is_array},
        **loaded_scalars({k: state[k] for k, f in mine.items() if not f.is_array}, rule),
        "p": arrays.load(held(p), compute),
        "step": at,
    }
    return arrays.stored_as(_outputs(rule.eval_program(leaf), inputs, leaf, p.dtype)["p"], p)


def _outputs(program: Program, inputs: Mapping[str, Any], leaf: Leaf, dtype: Any) -> dict[str, Any]:
    """What a program without reductions makes of one leaf of this dtype."""
    if program.is_elementwise:
        return _computed(program, inputs, None, dtype)
    return _compiled(program, inputs, leaf.shape, dtype)  # type: ignore[no-any-return]


def _computed(program: Program, inputs: Mapping[str, Any], whole: Any, dtype: Any) -> dict[str, Any]:
    """whole: the leaf's shape, where it is worked on as a whole."""
    storage = arrays.real_dtype(dtype)
    table = arrays.table(storage, storage, arrays.compute_dtype(dtype), arrays.Meetings(), whole)
    return run([Call(with_pins(lower(program)), inputs, table)], TABLE)[0]


# Sums along axes are some hundred operations each, which JAX would compile one by one.
_compiled = jax.jit(_computed, static_argnums=(0, 2, 3))


# -- update ------------------------------------------------------------------------------------------------------------


def _update(
    rule: Rule, options: Options, updates: Any, before: Contents, params: Any, extra_args: dict[str, Any]
) -> tuple[Any, Contents]:
    count = jnp.zeros((), jnp.int32) if before.count is None else before.count
    gradients, treedef = jax.tree.flatten(updates, is_leaf=trees.is_none)
    names = list(map(options.rename, trees.names(updates)))
    at = functools.partial(trees.aligned, like=updates, treedef=treedef)
    p = None if params is None else at("the parameters", params)
    by_leaf, of_model = {}, {}
    for f in rule.fields:
        if f.is_of_model:
            of_model[f.name] = before.fields[f.name]
        else:
            by_leaf[f.name] = at(f"state.{field_name(rule, f)}", before.fields[f.name])

    taking_part = [i for i, g in enumerate(gradients) if g is not None]
    leaves = []
    for i in taking_part:
        mine = {k: xs[i] for k, xs in by_leaf.items() if xs[i] is not None}
        leaves.append(jax.tree.map(arrays.as_array, LeafArrays(gradients[i], None if p is None else p[i], mine)))
    recipe, hyper = _recipe(rule, options.axis_name, [names[i] for i in taking_part], leaves, count)
    extras = _extras(rule, extra_args)
    new_updates, new_states, of_model, count = step(recipe, leaves, of_model, count, hyper, extras)

    for i, u, new in zip(taking_part, new_updates, new_states, strict=True):
        gradients[i] = u
        for k, x in new.items():
            by_leaf[k][i] = x
    after = {k: jax.tree.unflatten(treedef, xs) for k, xs in by_leaf.items()}
    return jax.tree.unflatten(treedef, gradients), Contents(count, {**of_model, **after})


def _recipe(
    rule: Rule, axis_name: AxisName | None, names: list[str], leaves: list[LeafArrays], count: Any
) -> tuple[Recipe, list[Any]]:
    """What is known while tracing, checked, and the hyperparameters that are arrays."""
    arguments = Arguments(count)
    numbers: dict[Setting, int] = {}
    specs: list[LeafSpec] = []
    settings: list[Setting] = []
    for name, x in zip(names, leaves, strict=True):
        leaf = arrays.leaf(name, np.shape(x.g), jnp.result_type(x.g))
        _check_leaf(rule, leaf, x)
        setting = arguments.setting(rule, Leaf(name, np.shape(x.g)))  # the user's shape, also if numbers are complex
        axes = _axes(rule, axis_name, leaf, x.g)
        specs.append(LeafSpec(leaf, numbers.setdefault(setting, len(numbers)), axes))
        settings.append(setting)
    if len(numbers) > 1:
        check_agreement(rule, ((spec.leaf, dict(own)) for spec, own in zip(specs, settings, strict=True)))
    return Recipe(rule.structure, tuple(specs), tuple(numbers), rule), arguments.arrays


def _axes(rule: Rule, axis_name: AxisName | None, leaf: Leaf, g: Any) -> tuple[str, ...]:
    """The mesh axes that the leaf's reductions go over; none if it has no reductions."""
    program = update_program(rule, leaf)
    if (program.is_random or not program.is_elementwise) and (axis_name or _varying_axes(g)):
        what = "draws random numbers for" if program.is_random else "works along the axes of"
        raise ValueError(
            f"leaf {leaf.name!r} is a shard, and {rule.name} {what} whole arrays: call the update outside of "
            "shard_map, where the compiler shards it."
        )
    if not program.has_reductions:
        return ()
    if axis_name is None:
        _check_whole(rule, leaf, g)
        return ()
    axes = axis_name(Leaf(leaf.name, np.shape(g))) if callable(axis_name) else axis_name
    return (axes,) if isinstance(axes, str) else tuple(axes)


def _check_whole(rule: Rule, leaf: Leaf, g: Any) -> None:
    varying = _varying_axes(g)
    if varying:
        axes = repr(varying[0]) if len(varying) == 1 else repr(tuple(varying))
        raise ValueError(
            f"{rule.name} reduces over leaves, and leaf {leaf.name!r} is another one on each device along the mesh "
            f"axis {', '.join(varying)}: write transform(rule, axis_name={axes}) if devices have shards of it, or "
            "axis_name=() if each has a model of its own."
        )


def _varying_axes(x: Any) -> list[str]:
    """The mesh axes along which devices have another x each, as far as JAX tells: in shard_map with check_vma."""
    kind: Any = jax.typeof(x)
    axes = kind.mat.varying if hasattr(kind, "mat") else getattr(kind, "vma", ())  # its name before JAX 0.10
    return sorted(map(str, axes))


def _extras(rule: Rule, given: dict[str, Any]) -> dict[str, Array]:
    """What the rule asks of the training loop; what else a chain passes around is not for it."""
    supplied = {name: EXTRAS[name] if given.get(name) is None else given[name] for name in rule.extras}
    missing = [name for name, x in supplied.items() if x is None]
    if missing:
        call = ", ".join(f"{name}=..." for name in missing)
        raise TypeError(f"{rule.name} needs more than gradients: call update(gradients, state, params, {call}).")
    return {name: _one_number(name, x) for name, x in supplied.items()}


def _one_number(name: str, x: Any) -> Array:
    if np.size(x) != 1:
        raise ValueError(f"{name} must be one number, not an array of shape {np.shape(x)}.")
    with jax.enable_x64(True):  # a number of Python or numpy keeps all its bits
        return jnp.reshape(jnp.asarray(x), ())


# -- what has to fit ---------------------------------------------------------------------------------------------------


def _check_axes(rule: Rule, leaf: Leaf, dtype: Any) -> None:
    if np.issubdtype(dtype, np.complexfloating) and not rule.program(leaf).is_elementwise:
        raise TypeError(f"leaf {leaf.name!r} is complex, and {rule.name} works along the axes of real arrays.")


def _check_leaf(rule: Rule, leaf: Leaf, x: LeafArrays) -> None:
    trees.check_floating(leaf.name, "a gradient", jnp.result_type(x.g))
    if x.p is not None:
        trees.check_floating(leaf.name, "a parameter", jnp.result_type(x.p))
        trees.check_shape(leaf.name, "the parameter", np.shape(x.p), np.shape(x.g))
    elif "p" in update_program(rule, leaf).inputs(Sort.ARRAY):
        raise ValueError(f"{rule.name} reads the parameters: call update(gradients, state, params).")
    others = rule.state_shapes(leaf)
    _check_axes(rule, leaf, jnp.result_type(x.g))
    for f in rule.fields_of(leaf):
        if f.is_of_model:
            continue
        if f.name not in x.state:
            raise ValueError(
                f"leaf {leaf.name!r}: the state has no {f.name}; call init again with this leaf in params."
            )
        shape = others.get(f.name, np.shape(x.g)) if f.is_array else (2,) if f.is_pair else ()
        trees.check_shape(leaf.name, f"the state's {f.name}", np.shape(x.state[f.name]), shape)
