"""The fused execution has the reference's bits: parameters, every state and counter, over several steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
from tests.bits import assert_same_bits
from tests.catalogue import ELEMENTWISE, Row
from tests.executions import Arrays, Trajectory, run_reference
from tests.inputs import numbers, uniform_bits, with_specials
from tests.torch.fused_runs import Arrange, Model, as_tensor, run_fused
from trainfn.verbs import (
    global_dot,
    global_max,
    global_norm,
    global_sum,
    leaf_max,
    leaf_norm,
    leaf_sum,
    minimum,
    sign,
    sqrt,
    where,
)

SHAPES: tuple[tuple[int, ...], ...] = ((17, 5), (), (0,), (1,), (15,), (16,), (3, 2, 5, 4))
LARGE: tuple[tuple[int, ...], ...] = ((211, 317), (7,), (40_000,))


def leaves(key: int, shapes: Sequence[tuple[int, ...]], dtype: Any = np.float32, **how: Any) -> Arrays:
    return {f"w{i}": numbers(key * 100 + i, shape, **how).astype(dtype) for i, shape in enumerate(shapes)}


def special(arrays: Arrays, key: int) -> Arrays:
    return {k: with_specials(x, key + i) for i, (k, x) in enumerate(arrays.items())}


def assert_same(expected: Trajectory, actual: Trajectory) -> None:
    assert len(expected) == len(actual)
    for i, (a, b) in enumerate(zip(expected, actual, strict=True)):
        assert_same_bits(a, b, f"step {i + 1}")


def check(rule: tf.Rule, params: Arrays, grads: Sequence[Arrays], arrange: Arrange = torch.Tensor.clone) -> None:
    assert_same(run_reference(rule, params, grads), run_fused(rule, params, grads, arrange))


# -- rules that use every part of the language -----------------------------------------------------------------------


class Toy(NamedTuple):
    average: tf.Array
    largest: tf.LeafScalar
    total: tf.LeafPair
    norm: tf.ModelScalar
    energy: tf.ModelPair


@tf.rule
def everything(step: Any, state: Toy, g: Any, p: Any, *, lr: Any = 0.1, b: Any = 0.9, cut: Any = 0.5) -> Any:
    """Every verb, reductions over leaf and model at two levels, every sort of state."""
    norm = global_norm(g)
    scaled = g * minimum(1.0 / (norm + 1e-6), 1.0)
    average = b * state.average + (1 - b) * scaled
    size = leaf_norm(average)  # a second level
    trust = where(size > 0, leaf_norm(p) / (size + 1e-3), 1.0)
    direction = where(abs(average) > cut * state.largest, sign(average), -average / (sqrt(abs(p)) + 1))
    direction = where((average == 0) | ~(p < 0) & (scaled <= average), direction, where(p < 0, -p, abs(scaled)))
    largest = tf.verbs.maximum(leaf_max(average), state.largest * b**step)
    energy = state.energy + global_dot(g, p) * tf.verbs.exp(-step)
    total = state.total + leaf_sum(average) + 1e-9 * tf.verbs.cos(step)
    new = Toy(average, largest, total, norm + global_max(-average), energy)
    return -lr * trust * direction, new


@tf.rule
def by_shape(g: Any, *, lr: Any = 0.1) -> Any:
    """Programs of unlike depth in one model, which agree on what is reduced over it."""
    norm = global_norm(g)
    if g.ndim < 2:
        return -lr * g / (norm + 1)
    return -lr * g * (leaf_norm(g * (1 / (norm + 1))) + 1)


EXTRA_ROWS = (
    Row("everything", everything),
    Row("by_shape", by_shape),
    Row("clipped twice", lambda: tf.chain(tf.clip_by_global_norm(1.0), tf.adamw(lr=1e-2), tf.clip_by_global_norm(0.1))),
    Row("skipping", lambda: tf.skip_if_not_finite(tf.chain(tf.clip_by_global_norm(1.0), tf.adamw(lr=1e-2)))),
    Row(
        "per leaf", lambda: tf.adamw(lr=lambda leaf: 0.1 if leaf.ndim > 1 else 0.01, weight_decay=lambda leaf: 0.5 / 3)
    ),
)
ALL_ROWS = [*ELEMENTWISE, *EXTRA_ROWS]
by_name = pytest.mark.parametrize("row", ALL_ROWS, ids=lambda row: row.name)


@by_name
def test_every_rule(row: Row) -> None:
    grads = [leaves(k, SHAPES) for k in range(2, 6)]
    check(row.rule(), leaves(1, SHAPES), grads)


@by_name
def test_zeros_subnormals_infinities_nan(row: Row) -> None:
    # Where p is subnormal and nothing is applied, the reference's p + u flushes what we leave as it was.
    params = leaves(1, SHAPES) if row.name in ("skipping", "adamw_scheduled") else special(leaves(1, SHAPES), 7)
    grads = [special(leaves(k, SHAPES, decades=70, largest=1e30), k) for k in range(2, 5)]
    check(row.rule(), params, grads)


@by_name
def test_tiny_numbers(row: Row) -> None:
    """All products and sums near the smallest normal number, where flushing decides."""
    params = leaves(1, LARGE[1:], decades=8, largest=2.0**-110)
    grads = [leaves(k, LARGE[1:], decades=16, largest=2.0**-100) for k in range(2, 5)]
    check(row.rule(), params, grads)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bfloat16", "float16"])
@by_name
def test_low_precision(row: Row, dtype: Any) -> None:
    params = leaves(1, SHAPES, dtype)
    grads = [leaves(k, SHAPES, dtype) for k in range(2, 5)]
    check(row.rule(), params, grads)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bfloat16", "float16"])
def test_every_low_precision_number(dtype: Any) -> None:
    """All 65,536 of them are read, and all are written by one rule or the other."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    nothing = np.zeros(1 << 16, dtype)
    check(tf.sgd(lr=1.0), {"w": nothing}, [{"w": every}])
    check(tf.sgd(lr=1.0), {"w": every}, [{"w": nothing}])
    check(tf.sgd(lr=0.3, momentum=0.7), {"w": nothing}, [{"w": every}] * 2)


@by_name
def test_float64(row: Row) -> None:
    """In the same order of operations; subnormals aside there is one meaning here, too."""
    grads = [leaves(k, SHAPES, np.float64) for k in range(2, 5)]
    check(row.rule(), leaves(1, SHAPES, np.float64), grads)


@pytest.mark.parametrize("row", [r for r in ALL_ROWS if r.edges], ids=lambda row: row.name)
def test_edges_of_hyperparameters(row: Row) -> None:
    for name, values in row.edges.items():
        for value in values:
            check(row.rule(**{name: value}), leaves(1, SHAPES[:3]), [leaves(k, SHAPES[:3]) for k in (2, 3)])


@given(
    key=st.integers(0, 2**31),
    sizes=st.lists(st.sampled_from([0, 1, 2, 15, 16, 17, 33, 100]), min_size=1, max_size=5),
    decades=st.integers(1, 75),
    exponent=st.integers(-140, 120),
    row=st.sampled_from(ALL_ROWS),
    are_special=st.booleans(),
)
def test_any_magnitudes(key: int, sizes: list[int], decades: int, exponent: int, row: Row, are_special: bool) -> None:
    shapes = [(n,) for n in sizes]
    params = leaves(key % 9999, shapes, decades=8)
    grads = [leaves((key + k) % 9999, shapes, decades=decades, largest=2.0**exponent) for k in (1, 2, 3)]
    if are_special:
        grads = [special(g, key + k) for k, g in enumerate(grads)]
    check(row.rule(), params, grads)


class Moved(NamedTuple):
    gradient: tf.Array
    minus_p: tf.Array
    chosen: tf.Array
    largest: tf.LeafScalar


@tf.rule
def moves(state: Moved, g: Any, p: Any) -> Any:
    """Numbers that reach memory through no arithmetic, which alone would flush them."""
    return abs(g), Moved(g, -p, where(g < 1, p, g), leaf_max(where(g < 1, p, g)))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64], ids=["float32", "bfloat16", "float64"])
def test_moved_numbers_are_flushed(dtype: Any) -> None:
    tiny = np.array([2.0**-1030, -(2.0**-1030), 1, -1] if dtype is np.float64 else [1e-39, -1e-39, 1, -1], dtype)
    assert tiny[0] != 0
    params, grads = {"w": np.repeat(tiny, 4), "x": tiny[1:2]}, {"w": np.tile(tiny, 4), "x": tiny[1:2]}
    check(moves(), params, [grads])
    stored = Model(moves(), params)
    stored.step(grads)
    numbers_of = stored.leaves["w"].state
    assert not any(((x != 0) & (x.abs() < 0.5)).any() for x in numbers_of.values())


class Met(NamedTuple):
    chosen: tf.Array
    largest: tf.LeafScalar


@tf.rule
def meets(state: Met, g: Any, *, tiny: Any = 0.0) -> Any:
    """A number that no arithmetic touches on its way into memory; a maximum of what was read, enlarged to be seen."""
    return g, Met(where(g < 1, tiny, g), leaf_max(g) * 2.0**1000)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64], ids=["float32", "bfloat16", "float64"])
def test_what_meets_arrays_and_what_is_largest_is_flushed(dtype: Any) -> None:
    tiny = 2.0**-1030 if dtype is np.float64 else 2.0**-130
    grads = {"subnormal": np.array([-tiny, tiny / 4, tiny], dtype), "mixed": np.array([tiny, 1, -2], dtype)}
    params = {name: np.ones_like(g) for name, g in grads.items()}
    made = meets(tiny=tiny)
    check(made, params, [grads])
    model = Model(made, params)
    model.step(grads)
    assert not model.leaves["subnormal"].state["chosen"].any()
    assert model.leaves["subnormal"].state["largest"] == 0


def test_nan_of_any_payload_stays_nan() -> None:
    """The highest payload would be carried into the sign by rounding to bfloat16."""
    g = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7FC00000], np.uint32).view(np.float32)
    for dtype in (ml_dtypes.bfloat16, np.float16):
        model = Model(tf.sgd(lr=1.0, momentum=0.5), {"w": np.ones(4, dtype)})
        model.step({"w": g})
        assert model.tensors["w"].isnan().all()
        assert model.leaves["w"].state["buf"].isnan().all()


# -- threads, sizes, layouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["adamw", "everything", "adamw_clipped", "lion"])
def test_large_leaves_and_threads(name: str, threads: int) -> None:
    row = next(r for r in ALL_ROWS if r.name == name)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(row.rule(), leaves(1, LARGE), [special(leaves(2, LARGE), 2), leaves(3, LARGE)])
    finally:
        torch.set_num_threads(before)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.clone()


def _transposed(x: torch.Tensor) -> torch.Tensor:
    return x.t().contiguous().t() if x.dim() == 2 else x.clone()


def _strided(x: torch.Tensor) -> torch.Tensor:
    """With gaps: only gradients may be."""
    return torch.stack([x, x + 1], dim=-1)[..., 0]


def _negated_lazily(x: torch.Tensor) -> torch.Tensor:
    return torch._neg_view(-x)


@pytest.mark.parametrize("of_params", [torch.Tensor.clone, _channels_last, _transposed])
@pytest.mark.parametrize("of_grads", [torch.Tensor.clone, _channels_last, _transposed, _strided, _negated_lazily])
def test_layouts(of_params: Arrange, of_grads: Arrange) -> None:
    shapes = ((17, 5), (3, 2, 5, 4), (1, 6), (2, 1, 3, 1), ())
    params, grads = leaves(1, shapes), [leaves(k, shapes) for k in (2, 3, 4)]
    model = Model(everything(), params, of_params)
    actual = []
    for g in grads:
        model.step(g, of_grads)
        actual.append(model.snapshot())
    assert_same(run_reference(everything(), params, grads), actual)


def test_expanded_gradient() -> None:
    model = Model(tf.adamw(), leaves(1, ((4, 3),)))
    model.step({"w0": torch.tensor(0.5).expand(4, 3)})
    expected = run_reference(tf.adamw(), leaves(1, ((4, 3),)), [{"w0": np.full((4, 3), 0.5, np.float32)}])
    assert_same(expected, [model.snapshot()])


@pytest.mark.parametrize(("p", "g"), [("bfloat16", "float32"), ("float32", "bfloat16"), ("float32", "float64")])
def test_gradient_of_another_dtype(p: str, g: str) -> None:
    """A gradient is widened if it is narrower, and rounded first if it is wider than what is computed in."""
    kinds: dict[str, Any] = {"bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
    params = leaves(1, SHAPES, kinds[p])
    grads = leaves(2, SHAPES, kinds[g])
    seen = {k: x.astype(np.float32) for k, x in grads.items()}
    check_with = run_reference(tf.adamw(), params, [seen])
    model = Model(tf.adamw(), params)
    model.step(grads)
    assert_same(check_with, [model.snapshot()])


def test_a_wider_gradient_is_rounded_before_it_is_flushed() -> None:
    """What rounds up to the smallest normal number is that; hardware that converts and flushes at once makes it 0."""
    params = {"w": np.zeros(2, np.float32)}
    model = Model(tf.sgd(lr=1.0, momentum=0.0), params)
    model.step({"w": np.array([2.0**-126 * (1 - 2.0**-24.5), 1 / 3])})
    assert model.tensors["w"].tolist() == [-(2.0**-126), -float(np.float32(1 / 3))]


@pytest.mark.parametrize("flushes", [True, False])
def test_the_users_floating_point_environment_survives(flushes: bool) -> None:
    if not torch.set_flush_denormal(flushes):
        pytest.skip("this processor does not flush")
    try:
        model = Model(everything(), leaves(1, SHAPES))
        model.step(leaves(2, SHAPES))
        assert bool((torch.full((4,), 2.0**-130) * 1.0).any()) is not flushes
    finally:
        torch.set_flush_denormal(False)


# -- reductions: the multiset of elements, nothing else --------------------------------------------------------------


class Sums(NamedTuple):
    dot: tf.ModelPair
    largest: tf.ModelScalar
    own: tf.LeafPair


@tf.rule
def sums(state: Sums, g: Any, p: Any) -> Any:
    return 0.0 * g, Sums(global_dot(g, g), global_max(g), leaf_sum(g))


@given(key=st.integers(0, 2**31), size=st.integers(1, 200), cut=st.integers(0, 200))
def test_reductions_of_permuted_elements_and_leaves(key: int, size: int, cut: int) -> None:
    x = numbers(key, (size,), decades=30, largest=1e10)
    order = np.argsort(uniform_bits(key + 1, size))
    cut = min(cut, size)

    def total(*parts: Any) -> dict[str, Any]:
        arrays = {str(i): part for i, part in enumerate(parts)}
        model = Model(sums(), arrays)
        model.step(arrays)
        return {k: v for k, v in model.snapshot().items() if "/" not in k}

    whole = total(x)
    assert_same_bits(whole, total(x[order]))
    assert_same_bits(whole, total(x[:cut], x[cut:]))
    assert_same_bits(whole, total(x[order][cut:].reshape(-1, 1), x[order][:cut]))


def test_reduction_does_not_depend_on_threads() -> None:
    x = numbers(3, (300_001,), decades=30)
    seen = []
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        model = Model(sums(), {"w": x})
        model.step({"w": x})
        seen.append(model.snapshot())
    torch.set_num_threads(before)
    assert_same_bits(*seen)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_not_finite_reductions(value: float) -> None:
    x = np.float32([1.0, value, -2.0])
    check(sums(), {"a": x, "b": np.ones(3, np.float32)}, [{"a": x, "b": np.ones(3, np.float32)}])


# -- counters, skipping ----------------------------------------------------------------------------------------------


def test_unlike_step_counts() -> None:
    """Each leaf's bias correction follows its own counter, however leaves are grouped."""
    shapes = ((5,), (6,), (7,), (8,))
    params, grads = leaves(1, shapes), leaves(2, shapes)
    model = Model(tf.adamw(lr=0.1), params)
    counts = {"w0": 0, "w1": 7, "w2": 0, "w3": 100_000}
    for name, n in counts.items():
        model.leaves[name].step.fill_(n)
    model.step(grads)
    for name, n in counts.items():
        alone = Model(tf.adamw(lr=0.1), {name: params[name]})
        alone.leaves[name].step.fill_(n)
        alone.step({name: grads[name]})
        assert_same_bits(
            {k: v for k, v in model.snapshot().items() if k.startswith(name)},
            {k: v for k, v in alone.snapshot().items() if k.startswith(name)},
        )
        assert model.leaves[name].step.item() == n + 1
    assert len({model.snapshot()[f"{n}/p"][0] for n in counts}) == 4


class Own(NamedTuple):
    factor: tf.LeafScalar


@tf.rule
def by_its_own_factor(state: Own, g: Any, *, lr: Any = 0.1) -> Any:
    """Nothing but the state tells leaves apart."""
    return -lr * state.factor * g, Own(state.factor + 1.0)


def test_leaves_with_unlike_scalars_of_their_own() -> None:
    shapes = ((5,), (6,), (7,))
    model = Model(by_its_own_factor(), leaves(1, shapes))
    factors = {"w0": 2.0, "w1": 3.0, "w2": 2.0}
    for name, factor in factors.items():
        model.leaves[name].state["factor"].fill_(factor)
    grads = leaves(2, shapes)
    model.step(grads)
    for name, factor in factors.items():
        expected = leaves(1, shapes)[name] + np.float32(-0.1 * factor) * grads[name]
        assert_same_bits({name: expected}, {name: model.snapshot()[f"{name}/p"]})
        assert model.leaves[name].state["factor"] == factor + 1


def test_a_skipped_step_changes_nothing() -> None:
    params = special(leaves(1, SHAPES), 3)
    model = Model(tf.unscale(tf.adamw()), params)
    before = model.snapshot()
    versions = [leaf.p._version for leaf in model.leaves.values()]
    assert not model.step(leaves(2, SHAPES), grad_scale=8.0, found_inf=torch.tensor(1.0))
    assert_same_bits(before, model.snapshot())
    assert versions == [leaf.p._version for leaf in model.leaves.values()]
    assert model.step(leaves(2, SHAPES), grad_scale=torch.tensor(8.0), found_inf=torch.tensor(0.0))
    assert model.snapshot()["count"] == 1


@pytest.mark.parametrize("scale", [1.0, 8.0, 65536.0, 3.0])
def test_unscaling(scale: float) -> None:
    rule = tf.unscale(tf.chain(tf.clip_by_global_norm(1.0), tf.adamw()))
    params = leaves(1, SHAPES)
    model = Model(rule, params)
    from trainfn import reference

    state = reference.init(rule, params)
    grads = leaves(2, SHAPES)
    updates, state = reference.update(rule, state, grads, params, grad_scale=scale, found_inf=0.0)
    model.step(grads, grad_scale=scale, found_inf=0.0)
    for name, p in params.items():
        assert_same_bits({"p": p + updates[name]}, {"p": model.snapshot()[f"{name}/p"]})
        assert_same_bits({"m": state.leaves[name]["m"]}, {"m": model.snapshot()[f"{name}/m"]})


def test_a_leaf_that_is_not_finite_holds_all() -> None:
    rule = tf.skip_if_not_finite(tf.adamw())
    params = leaves(1, SHAPES)
    model = Model(rule, params)
    grads = dict(leaves(2, SHAPES))
    grads["w0"] = grads["w0"].copy()
    grads["w0"][3, 2] = np.inf
    before = model.snapshot()
    assert not model.step(grads)
    assert_same_bits(before, model.snapshot())


@tf.rule
def divided_by_its_sum(g: Any, *, lr: Any = 0.1) -> Any:
    return -lr * g / global_sum(g)


def test_infinities_of_both_signs_in_unlike_leaves() -> None:
    params = {"w0": numbers(1, (3,)), "w1": numbers(2, (4,)).astype(ml_dtypes.bfloat16)}
    model = Model(tf.skip_if_not_finite(divided_by_its_sum()), params)
    grads = {k: np.ones_like(p) for k, p in params.items()}
    grads["w0"][1], grads["w1"][2] = np.inf, -np.inf
    before = model.snapshot()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not model.step(grads)
    assert_same_bits(before, model.snapshot())


def test_missing_number_is_named() -> None:
    model = Model(tf.unscale(tf.adamw()), leaves(1, SHAPES))
    with pytest.raises(KeyError, match="grad_scale"):
        model.step(leaves(2, SHAPES))


def test_tensor_hyperparameters_are_read_at_every_step() -> None:
    lr = torch.tensor(0.25)
    params = leaves(1, SHAPES)
    model = Model(tf.sgd(lr=0.1), params)
    for value in (0.25, 0.5):
        lr.fill_(value)
        before = model.snapshot()["w0/p"]
        model.step(leaves(2, SHAPES), lr=lr)
        expected = before + np.float32(-value) * leaves(2, SHAPES)["w0"]
        assert_same_bits({"p": expected}, {"p": model.snapshot()["w0/p"]})


def test_input_tensors_keep_their_own_bits() -> None:
    """Gradients are never written."""
    grads = {k: as_tensor(x) for k, x in special(leaves(2, SHAPES), 5).items()}
    copies = {k: x.clone() for k, x in grads.items()}
    Model(everything(), leaves(1, SHAPES)).step(grads)
    for k, x in grads.items():
        assert torch.equal(x.view(torch.int32), copies[k].view(torch.int32))
