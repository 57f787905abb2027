"""Programs along axes in compiled pieces: what is taken, how loops walk over arrays, and what C sums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from tests.executions import run_reference, run_torch
from tests.inputs import numbers, with_specials
from trainfn import reference
from trainfn.lowering import lower
from trainfn.verbs import axis_max, axis_sum, full_like, leaf_dot, sign, transpose, where, zeros_like
from trainfn_torch import executions, pieces, single
from trainfn_torch.kernels import compiler
from trainfn_torch.kernels import pieces as kernels_of_pieces
from trainfn_torch.kernels.pieces import Walk, along_axis, matmul, over_all
from trainfn_torch.warn import warned


def _adafactor() -> tf.Rule:
    return tf.adafactor(lr=1e-2)


def _ran(tensors: list[torch.Tensor], rule: tf.Rule, execution: str | None = None) -> set[str]:
    optimizer = trainfn_torch.Optimizer(tensors, rule, execution=execution)
    optimizer.step()
    return {module.__name__.rpartition(".")[2] for module, _ in optimizer._plan._batches}


def _with_gradient(x: torch.Tensor) -> torch.Tensor:
    x = x.requires_grad_()
    x.grad = torch.ones_like(x)
    return x


@pytest.mark.parametrize(
    ("tensor", "execution", "due"),
    [
        (lambda: torch.ones(3, 4), None, "pieces"),
        (lambda: torch.ones(3, 4, dtype=torch.bfloat16), "fused", "pieces"),
        (lambda: torch.ones(0, 4), None, "pieces"),
        (lambda: torch.ones(3, 4), "foreach", "single"),
        (lambda: torch.ones(3, 4, dtype=torch.float64), None, "single"),
        (lambda: torch.ones(4, 3).mT, None, "single"),
        (lambda: torch.ones(5), None, "fused"),
    ],
)
def test_which_leaves_are_taken(tensor: Any, execution: str | None, due: str) -> None:
    assert _ran([_with_gradient(tensor())], _adafactor(), execution) == {due}


def test_without_a_compiler_it_is_done_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(text: str) -> None:
        raise compiler.NoCompiler

    pieces.cut.cache_clear()
    monkeypatch.setattr("trainfn_torch.kernels.pieces.load", load)
    warned.clear()
    with pytest.warns(RuntimeWarning, match="slower single execution, because no C compiler was found"):
        assert _ran([_with_gradient(torch.ones(6, 9))], _adafactor()) == {"single"}
    pieces.cut.cache_clear()


def test_what_cannot_be_built_between_pieces_is_known_before_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else some parameters would be updated, and the rest not."""

    def load(text: str) -> Any:
        if "along_axis" in text:
            raise compiler.CannotBuild("the disk is full.")
        return compiler.load(text)

    caches = (pieces.cut, kernels_of_pieces.whole)
    for cache in caches:
        cache.cache_clear()
    warned.clear()
    monkeypatch.setattr(kernels_of_pieces, "load", load)
    with pytest.warns(RuntimeWarning, match="because the disk is full"):
        assert _ran([_with_gradient(torch.ones(6, 9)), _with_gradient(torch.ones(3, 2))], _adafactor()) == {"single"}
    for cache in caches:
        cache.cache_clear()


def test_leaves_that_need_each_other_are_taken_together() -> None:
    rule = tf.chain(tf.clip_by_global_norm(0.1), _adafactor())
    odd = torch.ones(4, 3).mT
    tensors = [_with_gradient(x) for x in (torch.ones(5), torch.ones(3, 4), odd)]
    assert _ran(tensors[:2], rule) == {"pieces"}
    assert _ran(tensors, rule) == {"single"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_of_another_layout_or_dtype(dtype: torch.dtype) -> None:
    """At a later step than the one that chose the execution."""
    results = []
    for execution in ("fused", "single"):
        p = torch.tensor(numbers(1, (6, 5))).to(dtype).requires_grad_()
        optimizer = trainfn_torch.Optimizer([p], tf.chain(tf.centralize(), _adafactor()), execution=execution)
        for n, change in enumerate((lambda g: g, lambda g: g.T.contiguous().T, lambda g: torch._neg_view(g.clone()))):
            p.grad = change(torch.tensor(numbers(2 + n, (6, 5))).to(dtype))
            optimizer.step()
        results.append({"p": p.detach().view(torch.int16 if dtype.itemsize == 2 else torch.int32).numpy()})
    assert_same_bits(*results)


def test_a_learning_rate_in_a_tensor() -> None:
    p, q = (_with_gradient(torch.tensor(numbers(1, (6, 5)))) for _ in range(2))
    for x, lr in ((p, torch.tensor(0.25)), (q, 0.25)):
        trainfn_torch.optim.Adafactor([x], lr=lr).step()
    assert torch.equal(p, q)


# -- loops -----------------------------------------------------------------------------------------------------------

_SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@given(shape=_SHAPES, masks=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=3))
def test_a_walk_meets_each_element_where_numpy_finds_it(shape: tuple[int, ...], masks: list[list[bool]]) -> None:
    shapes = [tuple(n if keep else 1 for n, keep in zip(shape, mask, strict=False)) for mask in masks]
    walk = Walk.over(shape, shapes)
    assert math.prod(walk.sizes) == math.prod(shape)
    for own, strides in zip(shapes, walk.strides, strict=True):
        assert strides[-1] in (0, 1)
        places = sum(
            np.arange(n).reshape(-1, *[1] * (len(walk.sizes) - 1 - axis)) * stride
            for axis, (n, stride) in enumerate(zip(walk.sizes, strides, strict=True))
        )
        expected = np.broadcast_to(np.arange(math.prod(own)).reshape(own), shape)
        np.testing.assert_array_equal(np.broadcast_to(places, walk.sizes).reshape(-1), expected.reshape(-1))


def test_axes_that_all_arrays_take_as_one_are_one() -> None:
    assert Walk.over((4, 5, 6), [(4, 5, 6), (4, 5, 6)]).sizes == (120,)
    assert Walk.over((4, 5, 6), [(4, 5, 6), (4, 1, 1)]).sizes == (4, 30)
    assert Walk.over((4, 5, 6), [(4, 5, 6), (1, 1, 6)]).sizes == (20, 6)
    assert Walk.over((), [()]).sizes == (1,)


def test_what_only_a_loop_needs_is_not_kept() -> None:
    """Of Adafactor's arrays shaped like a matrix these are written: the squares, u, of which a norm is taken, and p."""
    rule, leaf = _adafactor(), tf.Leaf("w", (6, 5))
    shapes = {"p": leaf.shape, "g": leaf.shape} | {f"state.{k}": s for k, s in rule.state_shapes(leaf).items()}
    stored = tuple((name, "float32", shapes[name]) for name in ("p", "g", "state.rows", "state.columns"))
    cutter = pieces._Cutter(lower(rule.program(leaf).keep(("p", "state.rows", "state.columns"))), stored)
    assert sum(cutter.shapes[i] == leaf.shape for i in cutter.kept) == 3


# -- sums, maxima and products -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 300), (300, 7), (2, 130, 257), (0, 3), (3, 0), (40, 1000)])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("op", ["axis_sum", "axis_max"])
def test_along_axes(op: str, shape: tuple[int, ...], special: bool) -> None:
    x = numbers(5, shape, decades=60)
    x = with_specials(x, 3) if special else x
    of_numpy = reference.arrays(np.float32, shape)[op]
    for axis in range(-len(shape), 0):
        with np.errstate(all="ignore"):
            expected = of_numpy(axis, reference.load(x))
        assert_same_bits({"": expected}, {"": along_axis(op, axis, torch.tensor(x)).numpy()}, f"axis {axis}")


@pytest.mark.parametrize("size", [0, 1, 17, 70_001])
@pytest.mark.parametrize("special", [False, True])
def test_over_all(size: int, special: bool) -> None:
    x, y = (numbers(key, (size,), decades=30) for key in (1, 2))
    x = with_specials(x, 3) if special else x
    of_numpy = reference.arrays(np.float32, (size,))
    grids = (2.0**60, 2.0**20)
    for op in single.REDUCTIONS:
        some = grids[: ("max", "max_abs", "sum_coarse", "sum_fine").index(op) - 1] if op.startswith("sum") else ()
        for arrays in ([x], [x, y]) if op != "max" else ([x],):
            with np.errstate(all="ignore"):
                expected = of_numpy[op](*some, *map(reference.load, arrays))
            actual = over_all(op, some, *(torch.tensor(a) for a in arrays))
            assert actual == expected or (math.isnan(actual) and math.isnan(expected)), (op, len(arrays))


@tf.rule
def _of_a_row(g: Any) -> Any:
    """A product of arrays of two shapes, summed, in a size that shows what was flushed."""
    return full_like(g, leaf_dot(g, axis_max(zeros_like(g) + 1.0, -1)) * 1e38)


@pytest.mark.parametrize("size", [1e-40, 1e-37])
def test_sums_of_products_that_are_broadcast(size: float) -> None:
    """Inputs are read as they are stored: subnormal numbers among them count as zero all the same."""
    params, grads = {"w": np.ones((3, 4), np.float32)}, [{"w": np.full((3, 4), size, np.float32)}]
    _assert_same_in_pieces(_of_a_row(), params, grads)


@tf.rule
def _tiny(g: Any, p: Any) -> Any:
    """Products that are subnormal, compared and made large again."""
    tiny = g * 1e-20
    return where(tiny == 0.0, 1.0, tiny * 1e30) + axis_max(p, 0) * tiny


def test_subnormal_numbers_are_flushed_within_a_piece() -> None:
    grads = np.float32([[1e-20, -1e-20, 1.0], [1e-17, 0.0, -1e-19]])
    _assert_same_in_pieces(_tiny(), {"w": np.zeros((2, 3), np.float32)}, [{"w": grads}])


@tf.rule
def _along_what_is_transposed(g: Any, p: Any) -> Any:
    """What lies in memory in another order than it is read in: a view."""
    return axis_sum(transpose(g), 0) * p + leaf_dot(transpose(g), p) - axis_max(transpose(p), -1)


def test_views_are_laid_out_anew() -> None:
    params, grads = {"w": numbers(1, (5, 5))}, [{"w": numbers(2, (5, 5))}]
    _assert_same_in_pieces(_along_what_is_transposed(), params, grads)


def _assert_same_in_pieces(rule: tf.Rule, params: Any, grads: Any) -> None:
    paths = run_reference(rule, params, grads), run_torch("fused", rule, params, grads)
    for expected, actual in zip(*paths, strict=True):
        assert_same_bits(expected, actual)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("precision", ["high", "highest"])
@pytest.mark.parametrize(
    "shapes",
    [
        ((3, 4), (4, 2)),
        ((200, 300), (300, 150)),
        ((2, 3, 4), (2, 4, 5)),
        ((3, 0), (0, 2)),
        ((40, 1), (1, 40)),  # some of them subnormal, some -0
    ],
)
def test_products(shapes: Any, precision: str, special: bool) -> None:
    x, y = (numbers(key, shape, decades=25) for key, shape in enumerate(shapes))
    x = with_specials(x, 3) if special else x
    of_numpy = reference.arrays(np.float32, ())[{"high": "matmul_high", "highest": "matmul"}[precision]]
    with np.errstate(all="ignore"):
        expected = of_numpy(reference.load(x), reference.load(y))
    tx, ty = torch.tensor(x), torch.tensor(y)
    for name, a, b in (("as they are", tx, ty), ("transposed", tx.mT.contiguous().mT, ty.mT.contiguous().mT)):
        assert_same_bits({"": expected}, {"": matmul(precision, a, b).numpy()}, name)


def test_the_callers_floating_point_environment_is_left_alone() -> None:
    x = torch.tensor([[1e-40, 1.0]])
    assert torch.set_flush_denormal(True)
    try:
        flushed = along_axis("axis_sum", -1, x)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(flushed, along_axis("axis_sum", -1, x))
    assert (x * 1.0)[0, 0] != 0


def test_executions_agree_on_what_is_general() -> None:
    assert executions._ALL[-1] is single
    assert all(candidates[-1] is single for candidates in executions._CANDIDATES.values())


def test_torchs_default_dtype_and_device_do_not_matter() -> None:
    def step() -> torch.Tensor:
        p = torch.tensor(numbers(1, (6, 5)), device="cpu").requires_grad_()
        p.grad = torch.tensor(numbers(2, (6, 5)), device="cpu")
        trainfn_torch.Optimizer([p], tf.chain(tf.centralize(), tf.muon())).step()
        return p.detach()

    expected = step()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(step(), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_leaves_share_scalars_but_no_signs_of_zeros() -> None:
    """Equal numbers of leaves that are updated one after the other are one; 0.0 and -0.0 are two."""

    @tf.rule
    def divided(g: Any, *, x: Any) -> Any:
        return -sign(g) * (1 / x)

    by_leaf = divided(x=lambda leaf: -0.0 if leaf.name == "b" else 0.0)
    params = {name: np.ones(3, np.float32) for name in "abc"}
    for name, due in run_torch("single", by_leaf, params, [params])[0].items():
        if name.endswith("/p"):
            assert np.all(due == (np.inf if name == "b/p" else -np.inf)), name
