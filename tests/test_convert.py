"""State crosses between torch.optim, optax and trainfn, and training goes on as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
from tests.bits import assert_same_bits
from tests.catalogue import ROWS, Namesake, Row
from tests.executions import extras
from tests.inputs import loss, numbers
from trainfn import convert, reference
from trainfn.convert import BFLOAT16, LeafState, Snapshot
from trainfn.trace import Leaf

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

    def __init__(self, params: Model, make: Callable[[Any], Any], named: bool = True) -> None:
        import torch

        self.params = {k: torch.tensor(p, requires_grad=True) for k, p in params.items()}
        self.optimizer = make(list(self.params.items() if named else self.params.values()))

    def step(self, grads: Model, **given: Any) -> None:
        import torch

        for k, g in grads.items():
            self.params[k].grad = torch.tensor(g)
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
        "jax": _train(_jax(rule, convert.rearranged(params, LAYOUT)), range(2 * HALF), np.float32, LAYOUT).snapshot(rule),
    }
    first = _train(Torch(params, _ours_in_torch(rule)), FIRST, np.float32)
    second = _jax(rule, convert.rearranged(first.arrays(), LAYOUT)).load(first.snapshot().renamed(LAYOUT))
    there = _train(second, SECOND, np.float32, LAYOUT)
    first = _train(_jax(rule, convert.rearranged(params, LAYOUT)), FIRST, np.float32, LAYOUT)
    back = convert.inverse(LAYOUT)
    third = Torch(convert.rearranged(first.arrays(), back), _ours_in_torch(rule)).load(first.snapshot(rule).renamed(back))
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
    import torch

    assert row.torch is not None
    rule, namesake = row.rule(), row.torch

    def made(params: Any) -> Any:
        return getattr(torch.optim, namesake.name)(params, **namesake.hyper, foreach=False)

    for dtype in (np.float32, np.float64):
        theirs = Torch(_params(dtype, SMALL), made, named=False)
        for n in range(STEPS):
            theirs.step(_grads(n, dtype, SMALL))
        known = theirs.snapshot()
        ours = Torch(theirs.arrays(), _ours_in_torch(rule)).load(known.at(STEPS))
        _assert_same(ours.snapshot(), known.at(STEPS))
        back = Torch(theirs.arrays(), made).load(ours.snapshot())
        _assert_same(back.snapshot().at(STEPS), known.at(STEPS))
        assert (known.leaves["w"].step is None) == (namesake.name == "SGD")
    for run in (theirs, ours, back):
        run.step(_grads(STEPS, np.float64, SMALL))
    for name, p in theirs.arrays().items():
        np.testing.assert_allclose(ours.arrays()[name], p, rtol=0, atol=1e-12)
    assert_same_bits(back.arrays(), theirs.arrays())


def _optax_of(namesake: Namesake) -> Any:
    import optax

    links = [attrgetter(name)(optax)(**hyper) for name, hyper in namesake.before]
    tx = optax.chain(*links, attrgetter(namesake.name)(optax)(**namesake.hyper))
    return attrgetter(namesake.around[0])(optax)(tx, **namesake.around[1]) if namesake.around else tx


@pytest.mark.parametrize("row", _rows("optax"))
def test_optax_and_back(row: Row) -> None:
    """float64: 2e-15 is what two float32 numbers, or a division by lr, keep of one of float64."""
    import jax

    import trainfn_jax

    assert row.optax is not None
    rule, tx = row.rule(), _optax_of(row.optax)
    with jax.enable_x64(True):
        theirs = Jax(_params(np.float64, SMALL), tx, jit=False)
        for n in range(STEPS):
            theirs.step(_grads(n, np.float64, SMALL), loss(n))
        known = theirs.snapshot(rule).at(STEPS)
        ours = Jax(theirs.arrays(), trainfn_jax.transform(rule)).load(known).snapshot(rule)
        _assert_same(ours, known)
        back = Jax(theirs.arrays(), tx, jit=False).load(ours)
        before, after = (jax.tree.flatten(run.state) for run in (theirs, back))
        assert before[1] == after[1]
        for a, b in zip(before[0], after[0], strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(b, a, rtol=2e-15, atol=0)
        params, grads = theirs.arrays(), _grads(STEPS, np.float64, SMALL)
        theirs.step(grads, loss(STEPS))
    updates, _ = reference.update(rule, _state(ours), grads, params, **extras(rule, STEPS))
    for name, p in theirs.arrays().items():
        np.testing.assert_allclose(params[name] + updates[name], p, rtol=0, atol=1e-12)


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
