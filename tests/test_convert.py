"""State crosses between torch.optim, optax and trainfn, and training goes on as if nothing had happened."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
from tests.bits import assert_same_bits
from tests.catalogue import ROWS, Row
from tests.catalogue.upstream import optax_transformation, torch_optimizer
from tests.executions import extras
from tests.inputs import loss, numbers
from trainfn import convert, reference
from trainfn.convert import BFLOAT16, LeafState, Snapshot
from trainfn.verbs import axis_sum, sqrt, zeros_like

Model = Mapping[str, Any]
SHAPES = {"0.weight": (6, 4), "0.bias": (6,), "2.weight": (3, 6), "w": (4, 3), "b": (3,)}
MODEL, SMALL = ("0.weight", "0.bias", "2.weight"), ("w", "b")
LAYOUT: Mapping[str, convert.Place] = {
    "0.weight": ("layers_0/kernel", (1, 0)),
    "0.bias": "layers_0/bias",
    "2.weight": ("layers_2/kernel", (1, 0)),
}


@cache
def _params(dtype: Any, names: tuple[str, ...] = MODEL) -> Model:
    return {k: numbers(i, SHAPES[k], decades=2).astype(dtype) for i, k in enumerate(names)}


@cache
def _grads(n: int, dtype: Any, names: tuple[str, ...] = MODEL) -> Model:
    return {k: numbers(100 * n + i + 50, SHAPES[k], decades=4).astype(dtype) for i, k in enumerate(names)}


def _nested(flat: Model) -> dict[str, Any]:
    """`a/b: x` as a tree of JAX, `{"a": {"b": x}}`."""
    tree: dict[str, Any] = {}
    for name, x in flat.items():
        *above, last = name.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[last] = x
    return tree


class Torch:
    """A run in torch: of torch.optim or of trainfn_torch."""

    def __init__(
        self,
        params: Model,
        make: Callable[[Any], Any],
        named: bool = True,
        gradient: Callable[[Any], Any] | None = None,  # makes a tensor of one
    ) -> None:
        import torch

        self._gradient = gradient or torch.tensor
        self.params = {k: torch.tensor(p, requires_grad=True) for k, p in params.items()}
        self.optimizer = make(list(self.params.items() if named else self.params.values()))

    def step(self, grads: Model, **given: Any) -> None:
        for k, g in grads.items():
            self.params[k].grad = self._gradient(g)
        self.optimizer.step(**given)

    def arrays(self) -> dict[str, Any]:
        from trainfn_torch.convert import arrays

        return arrays(self.params.items())

    def snapshot(self, **given: Any) -> Snapshot:
        from trainfn_torch.convert import snapshot

        return snapshot(self.optimizer, self.params.items(), **given)

    def load(self, snapshot: Snapshot) -> Torch:
        from trainfn_torch.convert import load

        load(self.optimizer, snapshot, self.params.items())
        return self


class Jax:
    """A run in JAX: of optax or of trainfn_jax."""

    def __init__(self, params: Model, tx: Any, jit: bool = True) -> None:
        import jax
        import jax.numpy as jnp
        import optax

        def step(params: Any, state: Any, grads: Any, value: float) -> Any:
            updates, state = tx.update(grads, state, params, value=value)
            return optax.apply_updates(params, updates), state

        self.params = jax.tree.map(jnp.asarray, _nested(params))
        self.state = tx.init(self.params)
        self._step = jax.jit(step) if jit else step

    def step(self, grads: Model, value: float = 1.0) -> None:
        self.params, self.state = self._step(self.params, self.state, _nested(grads), value)

    def arrays(self) -> dict[str, Any]:
        from trainfn_jax.convert import arrays

        return arrays(self.params)

    def snapshot(self, rule: tf.Rule) -> Snapshot:
        from trainfn_jax.convert import snapshot

        return snapshot(self.state, rule, self.params)

    def load(self, snapshot: Snapshot) -> Jax:
        from trainfn_jax.convert import filled

        self.state = filled(self.state, snapshot, self.params)
        return self


def _assert_same(ours: Snapshot, theirs: Snapshot, within: float | None = None) -> None:
    """Equal bit for bit, or numbers equal within a relative error."""

    def same(a: Any, b: Any) -> None:
        assert a.dtype == b.dtype
        if within is None:
            assert a.tobytes() == b.tobytes()
        else:
            np.testing.assert_allclose(a, b, rtol=within, atol=0)

    assert ours.updates == theirs.updates
    assert ours.leaves.keys() == theirs.leaves.keys()
    assert ours.model.keys() == theirs.model.keys()
    for name, leaf in ours.leaves.items():
        other = theirs.leaves[name]
        assert (leaf.step, leaf.shape, leaf.values.keys()) == (other.step, other.shape, other.values.keys())
        for k, x in leaf.values.items():
            same(x, other.values[k])
    for k, x in ours.model.items():
        same(x, theirs.model[k])


# -- a run of 200 steps, half of it elsewhere --------------------------------------------------------------------------

HALF = 100
LR = 1e-2
RECIPE = tf.adamw(lr=LR, weight_decay=0.1)
CLIPPED = tf.chain(tf.clip_by_global_norm(0.5), tf.adamw(lr=tf.warmup_cosine(LR, 20, 200), weight_decay=0.1))


def _torch_adamw(params: Any) -> Any:
    import torch

    return torch.optim.AdamW(params, lr=LR, weight_decay=0.1, foreach=False)


def _ours_in_torch(rule: tf.Rule) -> Callable[[Any], Any]:
    import trainfn_torch

    return lambda params: trainfn_torch.Optimizer(params, rule)


def _jax(which: Any, params: Model, **given: Any) -> Jax:
    import optax

    import trainfn_jax

    return Jax(params, optax.adamw(LR, weight_decay=0.1) if which == "optax" else trainfn_jax.transform(which), **given)


def _train(run: Any, steps: range, dtype: Any, layout: Any = None) -> Any:
    for n in steps:
        grads = _grads(n, dtype)
        run.step(grads if layout is None else convert.rearranged(grads, layout))
    return run


FIRST, SECOND = range(HALF), range(HALF, 2 * HALF)


@cache
def _uninterrupted(library: str, dtype: Any) -> Model:
    run = Torch(_params(dtype), _torch_adamw) if library == "torch" else _jax("optax", _params(dtype))
    return dict(_train(run, range(2 * HALF), dtype).arrays())


def _torch_then_torch(dtype: Any) -> Model:
    first = _train(Torch(_params(dtype), _torch_adamw), FIRST, dtype)
    second = Torch(first.arrays(), _ours_in_torch(RECIPE)).load(first.snapshot())
    return dict(_train(second, SECOND, dtype).arrays())


def _optax_then_jax(dtype: Any) -> Model:
    first = _train(_jax("optax", _params(dtype)), FIRST, dtype)
    second = _jax(RECIPE, first.arrays()).load(first.snapshot(RECIPE))
    return dict(_train(second, SECOND, dtype).arrays())


def _torch_then_jax(dtype: Any) -> Model:
    first = _train(Torch(_params(dtype), _torch_adamw), FIRST, dtype)
    second = _jax(RECIPE, convert.rearranged(first.arrays(), LAYOUT)).load(first.snapshot().renamed(LAYOUT))
    return convert.rearranged(_train(second, SECOND, dtype, LAYOUT).arrays(), convert.inverse(LAYOUT))


def _optax_then_torch_optim(dtype: Any) -> Model:
    first = _train(_jax("optax", _params(dtype)), FIRST, dtype)
    second = Torch(first.arrays(), _torch_adamw).load(first.snapshot(RECIPE))
    return dict(_train(second, SECOND, dtype).arrays())


CROSSINGS = [
    ("torch", _torch_then_torch),
    ("optax", _optax_then_jax),
    ("torch", _torch_then_jax),
    ("torch", _optax_then_torch_optim),
]


@pytest.mark.parametrize(("upstream", "crossing"), CROSSINGS, ids=lambda x: getattr(x, "__name__", x))
def test_a_run_goes_on_in_the_other_library(upstream: str, crossing: Any) -> None:
    """float64: 1e-12 of what was moved; float32: as near to that as upstream's own uninterrupted run."""
    import jax

    with jax.enable_x64(True):
        exact = _uninterrupted(upstream, np.float64)
        crossed = crossing(np.float64)
    moved = max(np.max(np.abs(exact[k] - p)) for k, p in _params(np.float64).items())
    assert moved > 0.1
    assert max(np.max(np.abs(exact[k] - x)) for k, x in crossed.items()) <= 1e-12 * moved

    def error(model: Model) -> float:
        return float(np.max([np.max(np.abs(model[k] - x)) for k, x in exact.items()]))

    assert error(crossing(np.float32)) <= error(_uninterrupted(upstream, np.float32))


@pytest.mark.parametrize("rule", [RECIPE, CLIPPED], ids=["adamw", "clipped_and_scheduled"])
def test_a_run_goes_on_with_the_same_bits(rule: tf.Rule) -> None:
    """100 steps in torch and 100 in JAX, and the other way: what 200 in either give."""
    params = _params(np.float32)
    whole = {
        "torch": _train(Torch(params, _ours_in_torch(rule)), range(2 * HALF), np.float32).snapshot().renamed(LAYOUT),
        "jax": _train(_jax(rule, convert.rearranged(params, LAYOUT)), range(2 * HALF), np.float32, LAYOUT).snapshot(
            rule
        ),
    }
    first = _train(Torch(params, _ours_in_torch(rule)), FIRST, np.float32)
    second = _jax(rule, convert.rearranged(first.arrays(), LAYOUT)).load(first.snapshot().renamed(LAYOUT))
    there = _train(second, SECOND, np.float32, LAYOUT)
    first = _train(_jax(rule, convert.rearranged(params, LAYOUT)), FIRST, np.float32, LAYOUT)
    back = convert.inverse(LAYOUT)
    third = Torch(convert.rearranged(first.arrays(), back), _ours_in_torch(rule)).load(
        first.snapshot(rule).renamed(back)
    )
    here = _train(third, SECOND, np.float32)
    for crossed in (there.snapshot(rule), here.snapshot().renamed(LAYOUT)):
        for uninterrupted in whole.values():
            _assert_same(crossed, uninterrupted)
    assert_same_bits(there.arrays(), convert.rearranged(here.arrays(), LAYOUT))


# -- every row of the catalogue ----------------------------------------------------------------------------------------

STEPS = 2


def _rows(library: str) -> list[Any]:
    return [pytest.param(row, id=row.name) for row in ROWS if getattr(row, library)]


@pytest.mark.parametrize("row", _rows("torch"))
def test_torch_optim_and_back(row: Row) -> None:
    assert row.torch is not None
    rule, namesake = row.rule(), row.torch

    def made(params: Any) -> Any:
        return torch_optimizer("torch", namesake, params, foreach=False)

    for dtype in (np.float32, np.float64):
        params = namesake.model(_params(dtype, SMALL))
        theirs = Torch(params, made, named=False, gradient=namesake.gradient)
        for n in range(STEPS):
            theirs.step(namesake.model(_grads(n, dtype, SMALL)))
        known = theirs.snapshot()
        ours = Torch(theirs.arrays(), _ours_in_torch(rule)).load(known.at(STEPS))
        _assert_same(ours.snapshot(), known.at(STEPS))
        back = Torch(theirs.arrays(), made, gradient=namesake.gradient).load(ours.snapshot())
        _assert_same(back.snapshot().at(STEPS), known.at(STEPS))
        assert (known.leaves["w"].step is None) == (namesake.name in ("SGD", "Muon"))
    for run in (theirs, ours, back):
        run.step(namesake.model(_grads(STEPS, np.float64, SMALL)))
    for name, p in theirs.arrays().items():
        np.testing.assert_allclose(ours.arrays()[name], p, rtol=0, atol=1e-12)
    assert_same_bits(back.arrays(), theirs.arrays())


@pytest.mark.parametrize("row", _rows("optax"))
def test_optax_and_back(row: Row) -> None:
    """float64: 2e-15 is what two float32 numbers, or a division by lr, keep of one of float64."""
    import jax

    import trainfn_jax

    assert row.optax is not None
    rule, namesake, tx = row.rule(), row.optax, optax_transformation(row.optax)
    with jax.enable_x64(True):
        theirs = Jax(namesake.model(_params(np.float64, SMALL)), tx, jit=False)
        for n in range(STEPS):
            theirs.step(namesake.model(_grads(n, np.float64, SMALL)), loss(n))
        known = theirs.snapshot(rule)
        is_counted = any(np.issubdtype(x.dtype, np.integer) for x in jax.tree.leaves(theirs.state))
        assert known.updates == (STEPS if is_counted else None)
        known = known.at(STEPS).cast("float64", namesake.in_float32)
        ours = Jax(theirs.arrays(), trainfn_jax.transform(rule)).load(known).snapshot(rule)
        _assert_same(ours, known)
        back = Jax(theirs.arrays(), tx, jit=False).load(ours.cast("float32", namesake.in_float32))
        before, after = (jax.tree.flatten(run.state) for run in (theirs, back))
        assert before[1] == after[1]
        for a, b in zip(before[0], after[0], strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(b, a, rtol=2e-15, atol=0)
        params, grads = theirs.arrays(), namesake.model(_grads(STEPS, np.float64, SMALL))
        theirs.step(grads, loss(STEPS))
    updates, _ = reference.update(rule, _state(ours), grads, params, **extras(rule, STEPS))
    for name, p in theirs.arrays().items():
        np.testing.assert_allclose(params[name] + updates[name], p, rtol=0, atol=namesake.precision)


def _state(snapshot: Snapshot) -> reference.State:
    """A snapshot as a state of the reference's, which is what trainfn_jax computes with, too (`test_same_bits`)."""
    fields = {f.name: f for f in snapshot.rule.fields}

    def parts(values: Model) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, x in values.items():
            names = [part.removeprefix("state.") for part in fields[name].inputs]
            numbers = [x] if fields[name].is_array else [float(number) for number in np.ravel(x)]
            found |= zip(names, numbers, strict=True)
        return found

    return reference.State(
        snapshot.count(),
        parts(snapshot.model),
        {name: leaf.step or 0 for name, leaf in snapshot.leaves.items()},
        {name: parts(leaf.values) for name, leaf in snapshot.leaves.items()},
    )


# -- where states stand ------------------------------------------------------------------------------------------------


@cache
def _trained() -> tuple[Snapshot, Any]:
    """A torch run of 5 steps by JAX's names, and its parameters as a tree."""
    run = _train(Torch(_params(np.float32), _torch_adamw), range(5), np.float32)
    return run.snapshot().renamed(LAYOUT), _nested(convert.rearranged(run.arrays(), LAYOUT))


def _is_matrix(tree: Any) -> Any:
    import jax

    return jax.tree.map(lambda x: np.ndim(x) > 1, tree)


def _around(name: str, params: Any) -> Any:
    import optax

    import trainfn_jax

    chosen = {True: optax.adamw(LR), False: trainfn_jax.adamw(LR, weight_decay=0.0)}
    return {
        "chain": optax.chain(optax.zero_nans(), trainfn_jax.adamw(LR)),
        "inject_hyperparams": optax.inject_hyperparams(optax.adamw)(optax.cosine_decay_schedule(LR, 100)),
        "inject_ours": optax.inject_hyperparams(trainfn_jax.adamw)(LR),
        "partition": optax.partition({k: optax.adamw(LR) for k in chosen}, _is_matrix(params)),
        "partition_ours": optax.partition({k: trainfn_jax.adamw(LR) for k in chosen}, _is_matrix(params)),
        "multi_steps": optax.MultiSteps(optax.adamw(optax.constant_schedule(LR)), 2),
        "plateau": optax.chain(optax.adamw(LR), optax.contrib.reduce_on_plateau()),
        "rule": trainfn_jax.transform(tf.skip_if_not_finite(CLIPPED)),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["chain", "inject_hyperparams", "inject_ours", "partition", "partition_ours", "multi_steps", "plateau", "rule"],
)
def test_a_state_is_found_in_what_stands_around_it(name: str) -> None:
    import jax

    from trainfn_jax.convert import filled, snapshot

    known, params = _trained()
    template = _around(name, params).init(params)
    state = filled(template, known, params)
    assert jax.tree.structure(state) == jax.tree.structure(template)
    _assert_same(snapshot(state, tf.adamw(), params), known)
    paths = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(state)}
    for path, x in jax.tree_util.tree_leaves_with_path(template):
        where = jax.tree_util.keystr(path)
        if np.issubdtype(x.dtype, np.integer):
            counted = where.endswith(("count", "gradient_step")) and not where.startswith("[1].")
            assert int(paths[where]) == (5 if counted or name == "chain" else 0), where
        elif "mu" not in where and "nu" not in where:  # learning rates, accumulated gradients
            np.testing.assert_array_equal(paths[where], x, err_msg=where)


def test_a_state_of_some_leaves() -> None:
    import jax
    import optax

    from trainfn_jax.convert import filled, snapshot

    known, params = _trained()
    template = optax.masked(optax.adamw(LR), _is_matrix(params)).init(params)
    with pytest.raises(ValueError, match="leaf 'layers_0/bias': adamw has 1 mu and the state 0"):
        filled(template, known, params)
    some = Snapshot(known.rule, 5, {n: leaf for n, leaf in known.leaves.items() if len(leaf.shape) > 1}, {})
    _assert_same(snapshot(filled(template, some, params), tf.adamw(), params), some)
    with pytest.raises(ValueError, match="it lacks 'layers_0/bias'"):
        filled(optax.adamw(LR).init(params), some, params)
    shapes = jax.eval_shape(optax.adamw(LR).init, params)
    _assert_same(snapshot(filled(shapes, known, shapes[0].mu), tf.adamw(), shapes[0].mu), known)


def test_a_parameter_that_is_no_tree() -> None:
    import jax.numpy as jnp
    import optax

    import trainfn_jax
    from trainfn_jax.convert import filled, snapshot

    p, rule = jnp.ones(3), tf.dadapt_adamw()
    for tx in (trainfn_jax.transform(rule), optax.contrib.dadapt_adamw()):
        state = tx.init(p)
        _, state = tx.update(2 * p, state, p)
        known = snapshot(state, rule, p)
        assert (known.updates, list(known.leaves)) == (1, [""])
        _assert_same(snapshot(filled(tx.init(p), known, p), rule, p), known)


def test_a_list_in_place_of_each_parameter() -> None:
    import jax.numpy as jnp
    import optax

    from trainfn_jax.convert import filled, snapshot

    tx, rule = optax.sm3(0.1), tf.sm3()
    for params in (jnp.ones((2, 3)), [jnp.ones((2, 3)), jnp.ones(2)]):
        template = tx.init(params)
        _, state = tx.update(params, template, params)
        known = snapshot(state, rule, params)
        assert {leaf.values["mu0"].shape for leaf in known.leaves.values()} <= {(2, 1), (2,)}
        _assert_same(snapshot(filled(template, known, params), rule, params), known)


def test_a_state_of_flax() -> None:
    import jax
    from flax import nnx

    import trainfn_jax
    from trainfn_jax.convert import filled, snapshot

    class Model(nnx.Module):  # type: ignore[misc]
        def __init__(self, rngs: Any) -> None:
            self.layers = nnx.List([nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 3, use_bias=False, rngs=rngs)])

    model = Model(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, trainfn_jax.transform(RECIPE), wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    names = {
        "layers_0/kernel": "layers/0/kernel",
        "layers_0/bias": "layers/0/bias",
        "layers_2/kernel": "layers/1/kernel",
    }
    known = _trained()[0].renamed(names)
    state = filled(optimizer.opt_state, known, params)
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.opt_state)
    _assert_same(snapshot(state, RECIPE, params), known)


def test_a_partition_goes_on_by_other_names() -> None:
    import jax
    import optax

    from trainfn_jax.convert import filled, snapshot

    here, there = (
        tf.partition({f"*{end}": tf.sgd(lr=LR, momentum=0.9)}, tf.adamw(lr=LR)) for end in (".bias", "/bias")
    )
    params = _params(np.float32)
    whole = _train(Torch(params, _ours_in_torch(here)), range(2), np.float32)
    first = _train(Torch(params, _ours_in_torch(here)), range(1), np.float32)
    known = first.snapshot().renamed(LAYOUT, there)
    second = _jax(there, convert.rearranged(first.arrays(), LAYOUT)).load(known)
    _assert_same(
        _train(second, range(1, 2), np.float32, LAYOUT).snapshot(there), whole.snapshot().renamed(LAYOUT, there)
    )
    labels = jax.tree.map(lambda x: "matrix" if np.ndim(x) > 1 else "bias", second.params)
    tx = optax.partition({"matrix": optax.adamw(LR), "bias": optax.sgd(LR, momentum=0.9)}, labels)
    state = filled(tx.init(second.params), known, second.params)
    _assert_same(snapshot(state, there, second.params), known)


def test_a_partition_is_given_again_for_other_names() -> None:
    rule = tf.partition({"*.bias": tf.sgd(momentum=0.9), "*.weight": tf.adamw()})
    known = _train(Torch(_params(np.float32), _ours_in_torch(rule)), range(1), np.float32).snapshot()
    remedy = r" Give the rule as it is for the new ones: renamed\(layout, rule\)\."
    with pytest.raises(ValueError, match=rf"leaf 'layers_0/kernel' .* is none of '\*\.bias', .*{remedy}"):
        known.renamed(LAYOUT)
    message = "leaf '0.weight' has a state of adamw, and 'b.bias' is updated by sgd"
    with pytest.raises(ValueError, match=message + r"\." + remedy):
        known.renamed({"0.weight": "b.bias", "2.weight": "2.weight", "0.bias": "0.bias"})
    with pytest.raises(ValueError, match=r"a state of sgd, and '2\.weight' is updated by adamw"):
        known.renamed({"0.weight": "0.weight", "2.weight": "x.weight", "0.bias": "2.weight"}, rule)
    there = tf.partition({"*/bias": tf.sgd(momentum=0.9), "*/kernel": tf.adamw()})
    assert known.renamed(LAYOUT, there).leaves.keys() == {"layers_0/kernel", "layers_0/bias", "layers_2/kernel"}


# -- layouts -----------------------------------------------------------------------------------------------------------


@st.composite
def _layouts(draw: Any) -> tuple[Snapshot, dict[str, convert.Place]]:
    """A state of SGD with momentum, of leaves of some ranks and dtypes, and a layout of it."""
    names = draw(st.lists(st.text("ab./:", min_size=1, max_size=4), max_size=4, unique=True))
    new = draw(st.lists(st.text("cd/", min_size=1, max_size=4), min_size=len(names), max_size=len(names), unique=True))
    leaves, layout = {}, {}
    for name, other in zip(names, new, strict=True):
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=4)))
        dtype = draw(st.sampled_from([np.float32, np.float16, np.float64, BFLOAT16]))
        size = int(np.prod(shape, dtype=int))
        x = (
            np.arange(1, size + 1, dtype=np.uint16).view(BFLOAT16)
            if dtype is BFLOAT16
            else np.arange(size, dtype=dtype)
        )
        leaves[name] = LeafState(draw(st.none() | st.integers(0, 9)), shape, {"buf": x.reshape(shape)})
        axes = tuple(draw(st.permutations(range(len(shape)))))
        layout[name] = draw(st.sampled_from([(other, axes), other]))
    return Snapshot(tf.sgd(momentum=0.9), draw(st.none() | st.integers(0, 9)), leaves, {}), layout


@given(_layouts())
def test_a_layout_and_its_inverse(drawn: tuple[Snapshot, dict[str, convert.Place]]) -> None:
    snapshot, layout = drawn
    back = convert.inverse(layout)
    there = snapshot.renamed(layout)
    _assert_same(there.renamed(back), snapshot)
    assert convert.inverse(back).keys() == layout.keys()
    for name, place in layout.items():
        new, axes = place if isinstance(place, tuple) else (place, None)
        x, y = snapshot.leaves[name].values["buf"], there.leaves[new].values["buf"]
        assert y.tobytes() == x.transpose(axes if axes is not None else range(x.ndim)).tobytes()
        assert there.leaves[new].shape == y.shape


@given(_layouts())
def test_a_file_holds_a_snapshot(tmp_path_factory: Any, drawn: tuple[Snapshot, Any]) -> None:
    path = tmp_path_factory.mktemp("saved") / "state.npz"
    drawn[0].save(path)
    _assert_same(Snapshot.load(path, drawn[0].rule), drawn[0])
    with pytest.raises(ValueError, match="holds a state of sgd, and this is adam"):
        Snapshot.load(path, tf.adam())


def _small() -> Snapshot:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    names = ("a", "a.npy", "snapshot.json", "0")
    return Snapshot(tf.lion(), 3, {k: LeafState(3, (2, 3), {"m": x + i}) for i, k in enumerate(names)}, {})


def test_names_in_a_file_do_not_collide(tmp_path: Path) -> None:
    _small().save(tmp_path / "state")
    _assert_same(Snapshot.load(tmp_path / "state", tf.lion()), _small())


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, writes = tmp_path / "state.npz", []
    _small().at(7).save(path)

    def run_out_of_space(file: Any, x: Any, **options: Any) -> None:
        writes.append(file.write(x.tobytes()))
        if len(writes) == 2:
            raise OSError("no space left")

    monkeypatch.setattr(convert, "write_array", run_out_of_space)
    with pytest.raises(OSError, match="no space"):
        _small().save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["state.npz"]
    _assert_same(Snapshot.load(path, tf.lion()), _small().at(7))


def test_a_file_behind_a_link_is_replaced_and_stays_as_private_as_it_was(tmp_path: Path) -> None:
    path, link = tmp_path / "state.npz", tmp_path / "latest.npz"
    path.touch()
    path.chmod(0o600)
    link.symlink_to(path.name)
    _small().save(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o600
    _assert_same(Snapshot.load(path, tf.lion()), _small())


def test_a_file_may_have_the_longest_name(tmp_path: Path) -> None:
    known, _ = _trained()
    for letter in ("a", "\u00e4"):
        path = tmp_path / (letter * (255 // len(letter.encode()) - 1))
        known.save(path)
        _assert_same(Snapshot.load(path, known.rule), known)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_snapshot_prints_on_a_line() -> None:
    known, params = _trained()
    size = 2 * sum(x.nbytes for layer in params.values() for x in layer.values())
    assert repr(known) == f"<Snapshot of adamw: updates=5, {len(known.leaves)} leaves, {size:,} bytes>"


def test_counts_may_be_numpys(tmp_path: Path) -> None:
    count, leaf = np.int64(3), LeafState(np.int64(3), (2,), {"m": np.zeros(2, np.float32)})
    snapshot = Snapshot(tf.lion(), count, {"w": leaf}, {})
    snapshot.save(tmp_path / "state")
    assert Snapshot.load(tmp_path / "state", tf.lion()).leaves["w"].step == 3


def test_what_is_no_file_of_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    _small().save(path)
    whole = path.read_bytes()
    at = whole.index(np.float32(4).tobytes())
    damaged = whole[:at] + b"?" + whole[at + 1 :]
    for content in (b"", b"text", whole[:-30], whole[: len(whole) // 2], damaged):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"state.npz is no whole file that Snapshot.save wrote: \S+"):
            Snapshot.load(path, tf.lion())
    np.savez(path, a=np.ones(2))
    with pytest.raises(ValueError, match=r"no whole file that Snapshot.save wrote: .*no item named 'snapshot.json'"):
        Snapshot.load(path, tf.lion())
    rest = {"arrays": 0, "rule": "lion", "updates": 1, "model": {}}
    leaf = {"step": 1, "shape": [2], "values": {"m": 0}}
    for leaves in ({}, {"leaves": []}, {"leaves": {"w": 3}}, {"leaves": {"w": leaf}}):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("snapshot.json", json.dumps({"version": 1, **rest, **leaves}))
        with pytest.raises(ValueError, match=r"no whole file that Snapshot.save wrote: .*Error"):
            Snapshot.load(path, tf.lion())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("snapshot.json", '{"version": 2, "tensors": {}, "arrays": 3}')
    with pytest.raises(ValueError, match=r"saved in version 2 of the format, and this trainfn reads version 1"):
        Snapshot.load(path, tf.lion())
    with pytest.raises(FileNotFoundError):
        Snapshot.load(tmp_path / "missing", tf.lion())


class Factored(NamedTuple):
    rows: tf.Array
    columns: tf.Array

    @staticmethod
    def init(p: Any) -> Factored:
        return Factored(axis_sum(zeros_like(p), -1), axis_sum(zeros_like(p), -2))


class Following(NamedTuple):
    rows: tf.Array
    columns: tf.Array

    @staticmethod
    def init(p: Any) -> Following:
        return Following(*Factored.init(p))

    def permuted(self, axes: tuple[int, ...], due: Following) -> Following:
        return Following(self.columns.transpose(axes), self.rows.transpose(axes))


def _scaled(state: Any, g: Any) -> Any:
    after = type(state)(state.rows + axis_sum(g * g, -1), state.columns + axis_sum(g * g, -2))
    return -g / sqrt(after.rows * after.columns + 1e-6), after


@tf.rule
def following(state: Following, g: Any) -> Any:
    return _scaled(state, g)


@tf.rule
def factored(state: Factored, g: Any) -> Any:
    return _scaled(state, g)


def test_a_state_of_another_shape_follows_as_it_says() -> None:
    rule, layout = tf.chain(following(), tf.sgd(momentum=0.9)), {"p": ("q", (1, 0))}
    params, grads = {"p": numbers(1, (4, 4))}, [{"p": numbers(n, (4, 4))} for n in (2, 3)]
    here = Torch(params, _ours_in_torch(rule))
    there = Torch(convert.rearranged(params, layout), _ours_in_torch(rule))
    for g in grads:
        here.step(g)
        there.step(convert.rearranged(g, layout))
    _assert_same(here.snapshot().renamed(layout), there.snapshot())
    mute = Torch(params, _ours_in_torch(factored()))
    mute.step(grads[0])
    assert mute.snapshot().renamed({"p": "q"}).leaves.keys() == {"q"}
    with pytest.raises(ValueError, match=r"leaf 'p': factored does not say how.* Give Factored a method permuted"):
        mute.snapshot().renamed(layout)


FACTORED = tf.adafactor(momentum=0.9)
# A leaf's shape, and the order in which its axes are put.
TRANSPOSITIONS = [((4, 3), (1, 0)), ((4, 4), (1, 0)), ((1, 4), (1, 0)), ((4,), (0,)), ((3, 4, 5), (0, 2, 1))]


@pytest.mark.parametrize(
    "rule",
    [FACTORED, tf.adafactor(largest_axes=True, min_size=2), tf.came(), tf.sm3()],
    ids=["last", "largest", "came", "sm3"],
)
def test_reductions_along_axes_follow_a_transposition(rule: tf.Rule) -> None:
    params = {str(i): numbers(i, shape).astype(float) for i, (shape, _) in enumerate(TRANSPOSITIONS)}
    layout = {str(i): (f"q{i}", axes) for i, (_, axes) in enumerate(TRANSPOSITIONS)}
    here = Torch(params, _ours_in_torch(rule))
    there = Torch(convert.rearranged(params, layout), _ours_in_torch(rule))
    for n in (1, 2):
        grads = {k: numbers(10 * n + int(k), p.shape).astype(float) for k, p in params.items()}
        here.step(grads)
        there.step(convert.rearranged(grads, layout))
    _assert_same(here.snapshot().renamed(layout), there.snapshot(), within=1e-12)
    _assert_same(here.snapshot().renamed(layout).renamed(convert.inverse(layout)), here.snapshot())


def test_what_is_factored_along_other_axes_does_not_follow() -> None:
    params = {"kernel": numbers(1, (3, 5, 2, 4))}
    run = Torch(params, _ours_in_torch(FACTORED))
    run.step(params)
    message = (
        r"leaf 'kernel', whose axes are put in the order \(2, 3, 1, 0\): its state would have shapes "
        r"\[\(1, 4, 5, 3\), \(2, 1, 5, 3\)\] where \[\(2, 4, 1, 3\), \(2, 4, 5, 1\)\] are due"
    )
    with pytest.raises(ValueError, match=message):
        run.snapshot().renamed({"kernel": ("kernel", (2, 3, 1, 0))})


def test_muon_counts_outputs_along_another_axis_of_a_transposed_leaf() -> None:
    params = {"w": numbers(1, (4, 3)), "b": numbers(2, (3,))}
    layout: Mapping[str, convert.Place] = {"w": ("kernel", (1, 0)), "b": "bias"}
    run = Torch(params, _ours_in_torch(tf.muon()))
    run.step(params)
    known = run.snapshot()
    message = (
        r"leaf 'w': muon\(out_axis = {}\) sets axis {} apart, which is axis {} of '{}', where "
        r"muon\(out_axis = {}\) sets axis {} apart\."
    )
    with pytest.raises(ValueError, match=message.format(0, 0, 1, "kernel", 0, 0) + r" Give .*renamed\(layout, rule\)"):
        known.renamed(layout)
    with pytest.raises(ValueError, match=message.format(0, 0, 0, "v", -1, 1)):
        known.renamed({"w": "v", "b": "b"}, tf.muon(out_axis=-1))
    with pytest.raises(ValueError, match=message.format(0, 0, 0, "w", -1, 1)):
        Torch(params, _ours_in_torch(tf.muon(out_axis=-1))).load(known)
    there = known.renamed(layout, tf.muon(out_axis=-1))
    ours = Torch(convert.rearranged(run.arrays(), layout), _ours_in_torch(tf.muon(out_axis=-1))).load(there)
    for one, grads in ((run, params), (ours, convert.rearranged(params, layout))):
        one.step(grads)
    for name, x in convert.rearranged(run.arrays(), layout).items():
        np.testing.assert_allclose(ours.arrays()[name], x, rtol=1e-5)
    with pytest.raises(ValueError, match="where"):
        there.renamed(convert.inverse(layout))
    _assert_same(there.renamed(convert.inverse(layout), tf.muon()), known)


def test_a_factored_state_goes_on_under_options_for_the_other_order() -> None:
    """Along the longest axes, wherever a layout puts them."""
    longest, layout = tf.adafactor(largest_axes=True), {"w": ("w", (2, 3, 0, 1))}
    params = {"w": numbers(1, (2, 2, 6, 5)).astype(float)}
    here = Torch(params, _ours_in_torch(tf.adafactor()))
    there = Torch(convert.rearranged(params, layout), _ours_in_torch(longest))
    for run in (here, there):
        run.step(run.arrays())
    _assert_same(here.snapshot().renamed(layout, longest), there.snapshot(), within=1e-12)
    with pytest.raises(ValueError, match="the rule works along other axes then"):
        here.snapshot().renamed(layout)


def test_patterns() -> None:
    layout = convert.patterns((r"(\d+)\.weight", r"layers_\1/kernel", (1, 0)), (r"(\d+)\.bias", r"layers_\1/bias"))
    assert {name: layout(name) for name in LAYOUT} == LAYOUT
    with pytest.raises(ValueError, match="the layout does not fit: it lacks 'norm', 'embed'"):
        convert.rearranged({"0.bias": np.ones(2), "norm": np.ones(2), "embed": np.ones(2)}, layout)


def test_torchs_modules_in_flax() -> None:
    """Their outputs are equal once parameters are rearranged, which shows names and axes."""
    import jax
    import torch
    from flax import linen as nn

    from trainfn_jax.convert import tree
    from trainfn_torch.convert import arrays, flax_layout

    class Flax(nn.Module):  # type: ignore[misc]
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.Embed(5, 4, name="0")(x)
            x = nn.LayerNorm(name="1", epsilon=1e-5)(x)
            x = nn.Conv(6, (3,), padding="VALID", name="2")(x)
            x = nn.Conv(3, (1, 2), padding="VALID", name="3")(x[..., None])
            return nn.Dense(2, name="4")(x)

    torch.manual_seed(0)
    layers = torch.nn.ModuleList(
        [
            torch.nn.Embedding(5, 4),
            torch.nn.LayerNorm(4),
            torch.nn.Conv1d(4, 6, 3),
            torch.nn.Conv2d(1, 3, (1, 2)),
            torch.nn.Linear(3, 2),
        ]
    )
    tokens = np.array([[0, 1, 2, 3, 4, 0], [3, 2, 1, 4, 0, 1]])
    x = layers[1](layers[0](torch.tensor(tokens)))
    x = layers[3](layers[2](x.mT).mT[:, None])
    expected = layers[4](x.movedim(1, -1)).detach().numpy()
    layout = flax_layout(layers)
    like = jax.eval_shape(Flax().init, jax.random.key(0), tokens)["params"]
    params = tree(convert.rearranged(arrays(layers.named_parameters()), layout), like)
    np.testing.assert_allclose(Flax().apply({"params": params}, tokens), expected, atol=1e-6)
    assert flax_layout(layers[4], path=lambda module: "out")["weight"] == ("out/kernel", (1, 0))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_transposed_convolutions_in_flax(n: int) -> None:
    import torch
    from flax import linen as nn

    from trainfn_torch.convert import arrays, flax_layout

    kernel = (3, 2, 1)[:n]
    layer = getattr(torch.nn, f"ConvTranspose{n}d")(4, 6, kernel, stride=2)
    x = numbers(1, (2, 4, 5, 3, 2)[: n + 2])
    expected = layer(torch.tensor(x)).movedim(1, -1).detach().numpy()
    params = convert.rearranged(arrays(layer.named_parameters()), flax_layout(layer))
    flax = nn.ConvTranspose(6, kernel, strides=(2,) * n, padding="VALID", transpose_kernel=True)
    ours = flax.apply({"params": params}, np.moveaxis(x, 1, -1))[tuple(map(slice, (None, *expected.shape[1:])))]
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=1e-5)


def test_transposed_convolutions_in_groups_have_no_layout_in_flax() -> None:
    import torch

    from trainfn_torch.convert import arrays, flax_layout

    model = torch.nn.Sequential(torch.nn.ConvTranspose1d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match=r"no place for '0.weight': the layer '0' is a .* in 2 groups"):
        convert.rearranged(arrays(model.named_parameters()), flax_layout(model))


def test_attention_has_no_layout_in_flax() -> None:
    import torch

    from trainfn_torch.convert import arrays, flax_layout

    layer = torch.nn.TransformerEncoderLayer(4, 2, 8)
    layout = flax_layout(layer)
    assert layout["linear1.weight"] == ("linear1/kernel", (1, 0))
    with pytest.raises(ValueError, match=r"no place for 'self_attn.in_proj_weight': the layer 'self_attn' is torch's"):
        convert.rearranged(arrays(layer.named_parameters()), layout)
    with pytest.raises(ValueError, match=r"no place for 'self_attn.in_proj_weight'"):
        convert.inverse(layout)
    own = {name: name for name in layout if name.startswith("self_attn.")}
    assert convert.rearranged(arrays(layer.named_parameters()), layout | own).keys() >= own.keys()
    assert "the layer 'model' is" in str(flax_layout(torch.nn.MultiheadAttention(4, 2))["in_proj_weight"])


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_bfloat16_crosses_bit_by_bit() -> None:
    import jax.numpy as jnp
    import torch

    import trainfn_jax
    import trainfn_torch
    from trainfn_jax.convert import filled, snapshot, tree

    p = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    optimizer = trainfn_torch.Optimizer([("w", p)], RECIPE)
    p.grad = torch.full_like(p, 0.3)
    optimizer.step()
    known = trainfn_torch.convert.snapshot(optimizer).renamed({"w": ("w", (1, 0))})
    assert known.leaves["w"].values["v"].dtype == BFLOAT16
    params = tree(convert.rearranged(trainfn_torch.convert.arrays([("w", p)]), {"w": ("w", (1, 0))}), _bfloat16s())
    assert params["w"].dtype == jnp.bfloat16
    state = filled(trainfn_jax.transform(RECIPE).init(params), known, params)
    again = snapshot(state, RECIPE, params)
    _assert_same(again, known)
    q = torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True)
    other = trainfn_torch.Optimizer([("w", q)], RECIPE)
    trainfn_torch.convert.load(other, again.renamed({"w": ("w", (1, 0))}))
    for key, x in optimizer.state[p].items():
        assert torch.equal(other.state[q][key], x), key
        assert other.state[q][key].dtype == x.dtype
    with pytest.raises(TypeError, match=r"leaf 'w': the state m is float32 where bfloat16 is due: .*cast"):
        filled(state, known.cast("float32"), params)
    _assert_same(known.cast("float32").cast("bfloat16"), known)
    mixed = known.cast("float32", ["m"]).leaves["w"].values
    assert (mixed["m"].dtype, mixed["v"].dtype) == (np.float32, BFLOAT16)
    with pytest.raises(ValueError, match="adamw keeps no arrays mu, but m, v"):
        known.cast("float32", ["mu"])


def _bfloat16s() -> Any:
    import jax.numpy as jnp

    return {"w": jnp.ones((2, 3), jnp.bfloat16)}


def test_casting_to_bfloat16_rounds_as_ml_dtypes_does() -> None:
    bits = np.concatenate([np.arange(2**16, dtype=np.uint32) << 16, numbers(1, (4000,)).view(np.uint32)])
    bits = np.concatenate([bits, bits + 0x7FFF, bits + 0x8000, bits + 0x8001])
    x = bits.view(np.float32)
    ours = convert.cast(x, "bfloat16").view(ml_dtypes.bfloat16)
    with np.errstate(invalid="ignore"):
        theirs = x.astype(ml_dtypes.bfloat16)
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    assert_same_bits({"": ours}, {"": theirs})
    assert_same_bits({"": convert.cast(ours.view(BFLOAT16), "float32")}, {"": ours.astype(np.float32)})


def test_counts_are_exact_or_refused() -> None:
    import torch

    import trainfn_jax

    run = _train(Torch(_params(np.float32), _torch_adamw), range(1), np.float32)
    known = run.snapshot()
    assert run.load(known.at(2**24)).snapshot().updates == 2**24
    assert isinstance(known.updates, int)
    with pytest.raises(ValueError, match=r"torch counts updates in torch.float32, which does not hold 16777217"):
        run.load(known.at(2**24 + 1))
    params = _params(np.float32)
    state = trainfn_jax.transform(RECIPE).init(params)
    assert trainfn_jax.convert.filled(state, known.at(2**31 - 1), params).count == 2**31 - 1
    with pytest.raises(ValueError, match="counts updates in int32, which does not hold 2147483648"):
        trainfn_jax.convert.filled(state, known.at(2**31), params)
    run.optimizer.state[run.params["0.bias"]]["step"] = torch.tensor(1.5)
    with pytest.raises(ValueError, match=r"updates of 0.bias is 1.5, which is no whole number"):
        run.snapshot()


@pytest.mark.parametrize("step", [-5, 2.5, float("nan"), True, "3", None])
def test_what_is_no_count_of_updates(step: Any) -> None:
    with pytest.raises(ValueError, match=f"snapshot.at takes a count of updates, .* not {step!r}"):
        _small().at(step)
    with pytest.raises(ValueError, match="leaf 'a': -1 is no count of updates"):
        Snapshot(tf.lion(), 3, {"a": LeafState(-1, (), {})}, {})
    assert type(_small().at(np.int64(5)).updates) is int  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["int32", "complex64", "float", np.int32])
def test_what_state_is_not_cast_to(dtype: Any) -> None:
    with pytest.raises(ValueError, match="cast to float64, float32, float16, bfloat16, not to "):
        _small().cast(dtype)


# -- what does not fit -------------------------------------------------------------------------------------------------


def _sgd(**hyper: Any) -> Callable[[Any], Any]:
    import torch

    return lambda params: torch.optim.SGD(params, lr=0.1, **hyper)


def test_a_state_without_a_count() -> None:
    import optax

    params = _params(np.float32)
    run = _train(Torch(params, _sgd(momentum=0.9)), range(2), np.float32)
    known = run.snapshot()
    assert known.updates is None
    with pytest.raises(ValueError, match=r"nothing counts the updates in this state of .*sgd.*snapshot.at\(step\)"):
        Torch(params, _ours_in_torch(tf.sgd(momentum=0.9))).load(known)
    with pytest.raises(ValueError, match=r"nothing counts the updates"):
        _jax(tf.sgd(momentum=0.9), params).load(known.renamed({n: n for n in params}))
    assert Torch(params, _ours_in_torch(tf.sgd(momentum=0.9))).load(known.at(2)).snapshot().updates == 2
    assert Torch(params, _sgd(momentum=0.9)).load(known.at(2)).snapshot().updates is None
    plain = Jax(params, optax.sgd(0.1, momentum=0.9)).load(known)  # keeps no count either
    assert plain.snapshot(tf.sgd(momentum=0.9)).updates is None


def test_torchs_own_count_is_asked_for_before_anything_changes() -> None:
    import optax
    import torch

    params = _params(np.float32)
    here = _train(Jax(params, optax.rmsprop(0.1, decay=0.9, eps_in_sqrt=False)), range(2), np.float32)
    there = Torch(params, lambda params: torch.optim.RMSprop(params, alpha=0.9))
    known = here.snapshot(tf.rmsprop(decay=0.9))
    with pytest.raises(ValueError, match=r"nothing counts the updates in this state of rmsprop.*snapshot.at\(step\)"):
        there.load(known)
    assert not there.optimizer.state
    assert there.load(known.at(2)).snapshot().updates == 2


def test_leaves_updated_unequally_often() -> None:
    params = _params(np.float32)
    run = _train(Torch(params, _torch_adamw), range(1), np.float32)
    run.params["0.bias"].grad = None
    run.optimizer.step()
    known = run.snapshot()
    assert (known.updates, known.leaves["0.bias"].step) == (2, 1)
    assert Torch(params, _ours_in_torch(RECIPE)).load(known).snapshot().leaves["0.bias"].step == 1
    with pytest.raises(ValueError, match=r"has 2 for the model, but 0\.bias: 1\. .*snapshot.at\(step\)"):
        _jax(RECIPE, params).load(known)
    assert _jax(RECIPE, params).load(known.at(2)).snapshot(RECIPE).leaves["0.bias"].step == 2


def test_a_leaf_that_was_never_updated() -> None:
    """It has no state in torch, and that of its first step in JAX."""
    params = _params(np.float32)
    run = Torch(params, _torch_adamw)
    run.step({k: g for k, g in _grads(0, np.float32).items() if k != "0.bias"})
    known = run.snapshot()
    assert known.leaves["0.bias"].values == {}
    for target in (Torch(params, _ours_in_torch(RECIPE)), Torch(params, _torch_adamw)):
        assert target.load(known).params["0.bias"] not in target.optimizer.state
    ours = _train(Torch(params, _ours_in_torch(RECIPE)), range(1), np.float32).load(known)
    assert ours.params["0.bias"] not in ours.optimizer.state  # what it had there is gone
    looked_at = Torch(params, _torch_adamw)
    assert not looked_at.optimizer.state[looked_at.params["0.bias"]]  # looking there made an entry
    assert not looked_at.load(known).optimizer.state[looked_at.params["0.bias"]]
    with pytest.raises(
        ValueError, match=r"leaf '0\.bias' was never updated in the snapshot, and was by this optimizer"
    ):
        _train(Torch(params, _torch_adamw), range(1), np.float32).load(known)
    there = _jax(RECIPE, params).load(known.at(1)).snapshot(RECIPE)
    assert not there.leaves["0.bias"].values["m"].any()
    assert there.leaves["0.weight"].values["m"].any()


def test_names_and_shapes_that_differ() -> None:
    params = _params(np.float32)
    known = _train(Torch(params, _torch_adamw), range(1), np.float32).snapshot()
    for target in (Torch(params, _torch_adamw), Torch(params, _ours_in_torch(RECIPE)), _jax(RECIPE, params)):
        before = target.snapshot(RECIPE) if isinstance(target, Jax) else target.snapshot()
        with pytest.raises(ValueError, match=r"other parameters: it lacks '0\.weight'; the .* lacks 'x'.*renamed"):
            target.load(known.renamed({"0.weight": "x", "0.bias": "0.bias", "2.weight": "2.weight"}))
        with pytest.raises(ValueError, match=r"leaf '0\.weight' has shape \(4, 6\) in the snapshot and \(6, 4\) here"):
            target.load(known.renamed({"0.weight": ("0.weight", (1, 0)), "0.bias": "0.bias", "2.weight": "2.weight"}))
        _assert_same(target.snapshot(RECIPE) if isinstance(target, Jax) else target.snapshot(), before)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"0.weight": "a", "0.bias": "b"}, "it lacks '2.weight'"),
        ({**LAYOUT, "3.weight": "c"}, "there is no '3.weight'"),
        ({**LAYOUT, "0.bias": "layers_0/kernel"}, "calls both '0.weight' and '0.bias' 'layers_0/kernel'"),
        ({**LAYOUT, "0.bias": ("b", (1, 0))}, r"leaf '0.bias' has shape \(6,\), whose axes .* order \(1, 0\)"),
        ({**LAYOUT, "0.weight": ("a", (0, 0))}, r"leaf '0.weight' has shape \(6, 4\), whose axes"),
        (lambda name: None, "it lacks '0.weight', '0.bias', '2.weight'"),
    ],
)
def test_layouts_that_do_not_fit(layout: Any, message: str) -> None:
    known = _train(Torch(_params(np.float32), _torch_adamw), range(1), np.float32).snapshot()
    with pytest.raises(ValueError, match=message):
        known.renamed(layout)


def test_a_state_of_another_rule() -> None:
    import optax

    params = _params(np.float32)
    known = _train(Torch(params, _torch_adamw), range(1), np.float32).snapshot()
    with pytest.raises(ValueError, match=r"a state of adamw, and this is sgd\. .*snapshot.of"):
        Torch(params, _sgd(momentum=0.9)).load(known)
    with pytest.raises(ValueError, match=r"a state of adamw, and this is adam\."):
        Torch(params, _ours_in_torch(tf.adam())).load(known)
    adam = Torch(params, _ours_in_torch(tf.adam())).load(known.of(tf.adam()))
    _assert_same(adam.snapshot(), known)
    with pytest.raises(ValueError, match="adamw has 1 nu and the state 0"):
        Jax(params, optax.lion(0.1)).load(known)
    lion = Snapshot(tf.lion(), 1, {n: _only(leaf, "m") for n, leaf in known.leaves.items()}, {})
    with pytest.raises(ValueError, match="the state also has nu, which is nothing of lion"):
        Jax(params, optax.adam(0.1)).load(lion)
    with pytest.raises(ValueError, match=r"its state holds m, v, and adamw keeps m, v, v_max"):
        known.of(tf.adamw(amsgrad=True))
    with pytest.raises(ValueError, match="the state has nothing of what adagrad keeps"):
        Jax(params, optax.adam(0.1)).snapshot(tf.adagrad())
    with pytest.raises(ValueError, match=r"the state of '0\.weight' holds exp_avg, which is nothing of sgd"):
        Torch(params, _torch_adamw).load(known).snapshot(rule=tf.sgd(momentum=0.9))


class Shadow(NamedTuple):
    """The state of a transformation that nobody here knows."""

    shadow: Any


def test_optax_arrays_that_are_not_the_rules_are_not_dropped() -> None:
    import jax
    import optax

    import trainfn_jax
    from trainfn_jax.convert import filled, snapshot

    _, params = _trained()
    adam, ema = optax.adam(LR), optax.ema(0.9)
    for state, rule, message in (
        (adam.init(params), tf.lion(), "the state also has nu, which is nothing of lion: ScaleByAdamState is"),
        (trainfn_jax.adam(LR).init(params), tf.lion(), "has nu, which is nothing of lion"),
        (optax.amsgrad(LR).init(params), tf.adam(), "has nu_max, which is nothing of adam: ScaleByAmsgradState is"),
        (adam.init(params), tf.sgd(), "has mu, which is nothing of sgd: ScaleByAdamState is"),
        (optax.chain(ema, adam).init(params), tf.adam(), "has ema, which is nothing of adam: EmaState is"),
        (optax.MultiSteps(adam, 2).init(params), tf.lion(), "has nu, which is nothing of lion"),
    ):
        with pytest.raises(ValueError, match=message):
            snapshot(state, rule, params)
    with pytest.raises(ValueError, match="has mu, which is nothing of sgd"):
        filled(adam.init(params), snapshot(optax.sgd(LR).init(params), tf.sgd(), params).at(3), params)
    foreign = (Shadow(jax.tree.map(np.asarray, params)), adam.init(params))
    assert set(snapshot(foreign, tf.adam(), params).leaves["layers_0/bias"].values) == {"m", "v"}
    whole = tf.chain(tf.average_gradient(), tf.adam())
    assert set(snapshot(optax.chain(ema, adam).init(params), whole, params).leaves["layers_0/bias"].values) == {
        "mean",
        "m",
        "v",
    }


def _adamw(amsgrad: bool, ours: bool) -> Callable[[Any], Any]:
    import torch

    return _ours_in_torch(tf.adamw(amsgrad=amsgrad)) if ours else lambda p: torch.optim.AdamW(p, amsgrad=amsgrad)


@pytest.mark.parametrize("ours", [False, True], ids=["torch", "ours"])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_a_state_of_other_options(amsgrad: bool, ours: bool) -> None:
    params = _params(np.float32)
    known = _train(Torch(params, _adamw(amsgrad, ours)), range(1), np.float32).snapshot()
    target = _train(Torch(params, _adamw(not amsgrad, ours)), range(2), np.float32)
    before = target.snapshot()
    message = (
        f"state of adamw that keeps m, v.* here it keeps m, v.*: amsgrad is {amsgrad} there and {not amsgrad} here"
    )
    with pytest.raises(ValueError, match=message):
        target.load(known)
    _assert_same(target.snapshot(), before)


def test_groups_that_keep_unlike_things() -> None:
    import torch

    params = _params(np.float32)

    def made(named: Any, momenta: tuple[float, float] = (0.9, 0.0)) -> Any:
        groups = [{"params": some, "momentum": m} for some, m in zip((named[:1], named[1:]), momenta, strict=True)]
        return torch.optim.SGD(groups, lr=0.1)

    theirs = _train(Torch(params, made), range(2), np.float32)
    message = (
        r"leaf '0\.bias' has a state of sgd that keeps buf, and here it keeps nothing: momentum is a number there and "
        r"None here\. It is in parameter group 1, .* rule=partition"
    )
    with pytest.raises(ValueError, match=message):
        theirs.snapshot()
    with pytest.raises(ValueError, match=message):
        Torch(params, made).load(_train(Torch(params, _sgd(momentum=0.9)), range(2), np.float32).snapshot())
    rule = tf.partition({"0.weight": tf.sgd(lr=0.1, momentum=0.9)}, otherwise=tf.sgd(lr=0.1))
    known = theirs.snapshot(rule=rule)
    assert [list(leaf.values) for leaf in known.leaves.values()] == [["buf"], [], []]
    there = Torch(theirs.arrays(), made).load(known)
    ours = Torch(theirs.arrays(), _ours_in_torch(rule)).load(known.at(2))
    for run in (theirs, there, ours):
        _train(run, range(2, 3), np.float32)
    assert_same_bits(there.arrays(), theirs.arrays())
    for name, p in theirs.arrays().items():
        np.testing.assert_allclose(ours.arrays()[name], p, rtol=1e-5)
    unlike = _train(Torch(params, lambda named: made(named, (0.9, 0.5))), range(1), np.float32)
    assert {tuple(leaf.values) for leaf in unlike.snapshot().leaves.values()} == {("buf",)}


def test_a_state_in_jax_says_whose_it_is() -> None:
    """optax's says nothing: its adam and adamw have one."""
    import optax

    import trainfn_jax
    from trainfn_jax.convert import snapshot

    params = _params(np.float32)
    known = _train(Torch(params, _torch_adamw), range(1), np.float32).snapshot()
    with pytest.raises(ValueError, match=r"state is one of adam, and the rule is adamw\. .*snapshot.of\(rule\)"):
        _jax(tf.chain(tf.clip_by_global_norm(1.0), tf.adam()), params).load(known)
    with pytest.raises(ValueError, match="the state is one of adam, and the rule is adamw"):
        snapshot(trainfn_jax.transform(tf.adam()).init(params), tf.adamw(), params)
    for tx, rule in ((trainfn_jax.transform(tf.adam()), tf.adam()), (optax.adam(0.1), tf.adamw())):
        _assert_same(Jax(params, tx).load(known.of(rule)).snapshot(rule), known)


def test_numbers_of_the_model_that_do_not_fit() -> None:
    leaf = LeafState(1, (), dict.fromkeys(("m", "v", "s", "p0"), np.ones((), np.float32)))
    pair, number = np.zeros(2, np.float32), np.zeros((), np.float32)
    with pytest.raises(ValueError, match="the model's state holds d, t, and prodigy keeps d, r, t"):
        Snapshot(tf.prodigy(), 1, {"p": leaf}, {"d": pair, "t": number})
    with pytest.raises(ValueError, match=r"the state r of the model has shape \(\) where \(2,\) is due"):
        Snapshot(tf.prodigy(), 1, {"p": leaf}, {"d": pair, "r": number, "t": number})


def _only(leaf: LeafState, field: str) -> LeafState:
    return LeafState(leaf.step, leaf.shape, {field: leaf.values[field]})


def test_torchs_parameters_must_have_names() -> None:
    import torch

    from trainfn_torch.convert import snapshot

    params = _params(np.float32)
    run = _train(Torch(params, _torch_adamw, named=False), range(1), np.float32)
    with pytest.raises(ValueError, match=r"no names by which to convert: give names=model.named_parameters\(\)"):
        snapshot(run.optimizer)
    with pytest.raises(ValueError, match=r"not among the names.*some of shape \(6,\), \(3, 6\)"):
        snapshot(run.optimizer, [("0.weight", run.params["0.weight"])])
    saved = run.optimizer.state_dict()
    with pytest.raises(TypeError, match="does not say which rule saved it: give rule="):
        snapshot(saved, run.params.items())
    with pytest.raises(ValueError, match="of 3 parameters and 1 names were given"):
        snapshot(saved, [("0.weight", run.params["0.weight"])], rule=RECIPE)
    _assert_same(snapshot(saved, run.params.items(), rule=RECIPE), run.snapshot())
    named = Torch(params, _torch_adamw).optimizer.state_dict()
    backwards = dict(reversed(run.params.items()))  # the saved names decide, not the order
    named["state"] = saved["state"]
    _assert_same(snapshot(named, backwards.items(), rule=RECIPE), run.snapshot())
    lbfgs = torch.optim.LBFGS(list(run.params.values()))
    with pytest.raises(TypeError, match="no rule of trainfn is known to be LBFGS"):
        snapshot(lbfgs, run.params.items())


def test_names_are_pairs() -> None:
    import torch

    from trainfn_torch.convert import arrays, snapshot

    p = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p])
    wrong: Any
    for wrong, what in (
        ([p], r"a Parameter of shape \(2,\)"),
        (p, r"a Tensor of shape \(\)"),
        (["w"], "'w'"),
        ("w", "'w'"),
        ({"w": p}, r"\{'w': "),
        ([("w", 3.0)], r"\('w', 3.0\)"),
        ([(p, "w")], r"\(Parameter containing"),
        (3, "3"),
    ):
        for call in (
            lambda w: snapshot(optimizer, w),
            lambda w: snapshot(optimizer.state_dict(), w, rule=tf.sgd()),
            arrays,
        ):
            with pytest.raises(TypeError, match=f"pairs of a name and a tensor, .*not {what}"):
                call(wrong)


def test_what_wrappers_put_before_names_does_not_matter() -> None:
    params = _params(np.float32)
    known = _train(Torch(params, _torch_adamw), range(1), np.float32).snapshot()
    wrapped = Torch({f"_orig_mod.{name}": p for name, p in params.items()}, _torch_adamw).load(known)
    _assert_same(wrapped.snapshot(), known)


def test_rmsprops_buffer_needs_the_lr_in_optax() -> None:
    import optax

    params = _params(np.float32)
    made = tf.rmsprop(lr=tf.warmup(0.1, 10), momentum=0.9)
    known = _train(Torch(params, _ours_in_torch(made)), range(1), np.float32).snapshot()
    theirs = Jax(params, optax.rmsprop(0.1, momentum=0.9))
    with pytest.raises(ValueError, match=r"optax's rmsprop keeps its buffer times lr, which is .*lr_in_momentum=True"):
        theirs.load(known)
    there = theirs.load(known.at(1).of(tf.rmsprop(lr=0.25, momentum=0.9))).state[2].trace["0.weight"]
    np.testing.assert_array_equal(there, -0.25 * known.leaves["0.weight"].values["buf"])


def test_accumulated_gradients_do_not_cross() -> None:
    import optax

    params = _params(np.float32)
    run = Jax(params, optax.MultiSteps(optax.adam(0.1), 2))
    run.step(_grads(0, np.float32))
    with pytest.raises(ValueError, match="MultiSteps is accumulating gradients, which would be lost"):
        run.snapshot(tf.adam())
    run.step(_grads(1, np.float32))
    assert run.snapshot(tf.adam()).updates == 1
    outside = optax.chain(optax.scale_by_schedule(lambda n: 1.0), run_of_two())
    with pytest.raises(ValueError, match="ScaleByScheduleState stands outside of MultiSteps and counts gradients"):
        Jax(params, outside).snapshot(tf.adam())


def run_of_two() -> Any:
    import optax

    return optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation()


@pytest.mark.parametrize(
    ("name", "rule"), [("prodigy", tf.prodigy()), ("momo", tf.momo()), ("dadapt_adamw", tf.dadapt_adamw())]
)
def test_optax_in_bfloat16(name: str, rule: tf.Rule) -> None:
    """Numbers of the model have the parameters' dtype in optax, which numpy does not know."""
    import jax
    import jax.numpy as jnp
    from optax import contrib

    import trainfn_jax.convert

    optimizer = getattr(contrib, name)()
    params = {"w": jnp.ones((3, 2), jnp.bfloat16)}
    state = optimizer.init(params)
    _, state = optimizer.update({"w": jnp.full((3, 2), 0.25, jnp.bfloat16)}, state, params, value=jnp.bfloat16(1.0))
    again = trainfn_jax.convert.filled(
        optimizer.init(params), trainfn_jax.convert.snapshot(state, rule, params), params
    )
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert x.dtype == y.dtype
        assert np.array_equal(x, y)
    with pytest.raises(ValueError, match=r"nothing of sgd|has nothing of what sgd keeps|is a state of another rule"):
        trainfn_jax.convert.snapshot(state, tf.sgd(), params)


def test_wrappers_in_optax_words_are_refused() -> None:
    import jax.numpy as jnp

    import trainfn_jax.convert

    params = {"w": jnp.ones(2)}
    made = trainfn_jax.contrib.schedule_free(trainfn_jax.sgd(0.1), 0.1)
    with pytest.raises(ValueError, match=r"ScheduleFreeState of trainfn_jax is not converted: make .* of the rule"):
        trainfn_jax.convert.snapshot(made.init(params), tf.schedule_free(tf.sgd()), params)


def test_what_is_no_state_dict() -> None:
    import torch

    import trainfn_torch.convert

    with pytest.raises(ValueError, match="it is no state_dict of an optimizer"):
        trainfn_torch.convert.snapshot({}, rule=tf.adam())
    p = torch.nn.Parameter(torch.ones(2))
    saved = torch.optim.Adam([("w", p)]).state_dict()
    saved["state"][99] = {"step": torch.tensor(1.0)}
    with pytest.raises(ValueError, match="state of what is in none of its groups: 99"):
        trainfn_torch.convert.snapshot(saved, [("w", p)], rule=tf.adam())


def test_optax_rprop_is_refused() -> None:
    """Its state is the step to be taken next, so a run could not go on as if nothing had happened."""
    import jax.numpy as jnp
    import optax

    import trainfn_jax.convert

    params = {"w": jnp.ones(2)}
    state = optax.rprop(0.1).init(params)
    with pytest.raises(ValueError, match="states of rprop do not cross to or from optax: optax keeps the step"):
        trainfn_jax.convert.snapshot(state, tf.rprop(), params)
    known = trainfn_jax.convert.snapshot(trainfn_jax.rprop(0.1).init(params), tf.rprop(), params)
    with pytest.raises(ValueError, match="states of rprop do not cross"):
        trainfn_jax.convert.filled(state, known, params)


def test_links_of_ours_in_a_chain_of_optax_form() -> None:
    """A chain that is not one rule has a state for each link, with pairs where optax has numbers."""
    import jax
    import jax.numpy as jnp

    import trainfn_jax.convert

    params = {"w": jnp.ones(2)}
    made = trainfn_jax.chain(trainfn_jax.adam(0.1), trainfn_jax.contrib.reduce_on_plateau())
    state = made.init(params)
    for n in range(3):
        _, state = made.update(params, state, params, value=3.3 - 0.1 * n)
    known = trainfn_jax.convert.snapshot(state, tf.chain(tf.adam(), tf.scale_on_plateau()), params)
    again = trainfn_jax.convert.filled(made.init(params), known, params)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert np.array_equal(x, y)


def test_a_leaf_that_was_never_updated_where_nothing_counts() -> None:
    """torch's SGD keeps no count: that it has a momentum says that it was."""
    import torch

    params = _params(np.float32)

    def sgd(params: Any) -> Any:
        return torch.optim.SGD(params, 0.1, momentum=0.9)

    run = Torch(params, sgd)
    run.step({k: g for k, g in _grads(0, np.float32).items() if k != "0.bias"})
    known = run.snapshot()
    assert known.leaves["0.bias"].values == {}
    with pytest.raises(
        ValueError, match=r"leaf '0\.bias' was never updated in the snapshot, and was by this optimizer"
    ):
        _train(Torch(params, sgd), range(1), np.float32).load(known)


def test_counts_beside_a_plateau_come_along() -> None:
    import jax.numpy as jnp

    import trainfn_jax.convert

    params = {"w": jnp.ones(2)}
    rule = tf.chain(tf.adam(), tf.scale_on_plateau())
    made = trainfn_jax.transform(rule)
    state = made.init(params)
    for _ in range(3):
        _, state = made.update(params, state, params, value=1.0)
    known = trainfn_jax.convert.snapshot(state, rule, params)
    assert known.updates == 3
    assert trainfn_jax.convert.filled(made.init(params), known, params).count == 3


@pytest.mark.parametrize("number", [3, 8])
def test_a_mechanic_of_another_number_of_betas(number: int) -> None:
    import jax.numpy as jnp
    import optax
    from optax import contrib

    import trainfn_jax.convert

    params, rule = {"w": jnp.ones(2)}, tf.mechanic(tf.sgd())
    theirs, ours = (contrib.mechanize(optax.sgd(1.0), num_betas=n).init(params) for n in (number, 6))
    with pytest.raises(ValueError, match=rf"mechanic has 6 numbers m, and the state an array of shape \({number},\)"):
        trainfn_jax.convert.snapshot(theirs, rule, params)
    with pytest.raises(ValueError, match=r"has 6 numbers"):
        trainfn_jax.convert.filled(theirs, trainfn_jax.convert.snapshot(ours, rule, params), params)


@pytest.mark.parametrize(
    ("made", "rule"),
    [
        (lambda optax: optax.amsgrad(0.1), tf.adam()),
        (lambda optax: optax.adam(0.1), tf.lion()),
        (lambda optax: optax.adam(0.1), tf.sgd()),
        (lambda optax: optax.chain(optax.adam(0.1), optax.trace(0.9)), tf.adam()),
    ],
    ids=["amsgrad as adam", "adam as lion", "adam as sgd", "adam and a trace as adam"],
)
def test_arrays_in_bfloat16_that_the_rule_does_not_keep(made: Any, rule: tf.Rule) -> None:
    import jax.numpy as jnp
    import optax

    import trainfn_jax.convert

    for dtype in (jnp.float32, jnp.bfloat16):
        params = {"w": jnp.ones(2, dtype)}
        with pytest.raises(ValueError, match=r"is nothing of|is a state of another rule"):
            trainfn_jax.convert.snapshot(made(optax).init(params), rule, params)
