"""Sums along axes, matrix products, and state of other shapes."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import trainfn as tf
import trainfn_jax
import trainfn_torch
from tests.bits import assert_same_bits
from tests.executions import EXECUTIONS, run_reference
from tests.inputs import numbers, with_specials
from trainfn import Array, reference
from trainfn.verbs import axis_max, axis_sum, full_like, leaf_dot, leaf_norm, matmul, reshape, transpose, zeros_like

SHAPES = {"matrix": (40, 33), "cube": (3, 4, 5), "empty": (0, 4), "row": (1, 7)}


class Rows(NamedTuple):
    """sums: of each row; largest: of each column."""

    sums: Array
    largest: Array

    @staticmethod
    def init(p: Any) -> Any:
        return Rows(axis_sum(p, -1), axis_max(zeros_like(p), 0))


@tf.rule
def row_and_column(state: Rows, g: Any, p: Any, *, lr: Any = 0.1) -> Any:
    """Nothing useful."""
    sums = 0.5 * state.sums + axis_sum(g * p, -1)
    largest = 0.5 * state.largest + axis_max(g, 0)
    return -lr * (g - sums * largest), Rows(sums, largest)


class Sums(NamedTuple):
    x: Array

    @staticmethod
    def init(p: Any) -> Any:
        return Sums(axis_sum(zeros_like(p), -1))


@tf.rule
def row_sums(state: Sums, g: Any) -> Any:
    """Nothing useful."""
    return -g, Sums(axis_sum(g, -1))


@tf.rule
def products(g: Any, p: Any, *, scale: Any = 0.3, precision: tf.Static[str] = "highest") -> Any:
    """Nothing useful."""
    flat = reshape(p, (math.prod(p.shape[:-1]), p.shape[-1]))
    gram = matmul(transpose(flat), reshape(scale * g, flat.shape), precision)
    return reshape(matmul(flat, scale * gram - transpose(gram), precision), g.shape) + g / axis_max(axis_sum(g, 0), -1)


def _inputs(special: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    params = {k: numbers(i, s) for i, (k, s) in enumerate(SHAPES.items())}
    grads = [{k: numbers(100 * n + i, s) for i, (k, s) in enumerate(SHAPES.items())} for n in range(1, 5)]
    return params, [{k: with_specials(x, n) for k, x in g.items()} if special else g for n, g in enumerate(grads)]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("execution", [name for name in EXECUTIONS if name != "reference"])
def test_same_bits(execution: str, special: bool) -> None:
    params, grads = _inputs(special)
    expected = run_reference(row_and_column(), params, grads)
    for n, (a, b) in enumerate(zip(expected, EXECUTIONS[execution](row_and_column(), params, grads), strict=True)):
        assert_same_bits(a, b, f"step {n}")


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("execution", [name for name in EXECUTIONS if name.endswith(("single", "jit"))])
def test_products_have_the_same_bits(execution: str, special: bool) -> None:
    params, grads = _inputs(special)
    expected = run_reference(products(), params, grads)
    for n, (a, b) in enumerate(zip(expected, EXECUTIONS[execution](products(), params, grads), strict=True)):
        assert_same_bits(a, b, f"step {n}")


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_products_under_vmap(precision: str) -> None:
    import jax
    import jax.numpy as jnp

    tx, params = trainfn_jax.transform(products(precision=precision)), {"w": jnp.asarray(numbers(1, (6, 5)))}
    grads = jnp.stack([jnp.asarray(numbers(10 + n, (6, 5))) for n in range(3)])
    state = tx.init(params)
    together = jax.jit(jax.vmap(lambda g: tx.update({"w": g}, state, params)[0]["w"]))(grads)
    for n, g in enumerate(grads):
        assert_same_bits({"": tx.update({"w": g}, state, params)[0]["w"]}, {"": together[n]})


@pytest.mark.parametrize("execution", ["torch_single", "jax_jit"])
def test_fast_products_are_close(execution: str) -> None:
    params, grads = _inputs(False)
    expected = run_reference(products(), params, grads[:1])[0]
    actual = EXECUTIONS[execution](products(precision="library"), params, grads[:1])[0]
    for name, x in expected.items():
        np.testing.assert_allclose(actual[name], x, rtol=0, atol=1e-6 * np.max(np.abs(x), initial=0), err_msg=name)


def test_what_a_state_begins_with_is_not_summed_by_the_compiler() -> None:
    """XLA folds a sum of constants an element at a time: minutes for a large matrix."""
    import jax

    init = jax.jit(trainfn_jax.transform(tf.sm3()).init)
    compiled = init.lower({"w": jax.ShapeDtypeStruct((64, 48), np.float32)}).compile()
    assert " reduce(" in compiled.as_text()


def test_leaves_of_one_shape_begin_with_one_compilation() -> None:
    from trainfn_jax.transform import _compiled

    before = _compiled._cache_size()
    trainfn_jax.transform(row_sums()).init({str(i): np.ones((13, 7), np.float32) for i in range(4)})
    assert _compiled._cache_size() <= before + 1


def test_products_are_exact_and_of_no_order() -> None:
    multiply = reference.arrays(np.float32, ())["matmul"]
    x, y = numbers(7, (20, 300), decades=3), numbers(8, (300, 30), decades=12)
    exact = [[np.float32(math.fsum(map(float, row.astype(float) * column))) for column in y.T] for row in x]
    assert_same_bits({"": np.array(exact)}, {"": multiply(x, y)})
    large = np.full((2, 1023), -1.0 - 2.0**-23, np.float32)  # all the same: nothing cancels
    assert_same_bits(
        {"": np.full((2, 2), math.fsum([float(large[0, 0]) ** 2] * 1023), np.float32)}, {"": multiply(large, large.T)}
    )
    order = np.random.default_rng(1).permutation(300)
    assert_same_bits({"": multiply(x, y)}, {"": multiply(x[:, order], y[order])})


def test_products_of_rows_with_an_infinity_are_nan() -> None:
    x, y = np.ones((2, 3), np.float32), np.eye(3, 2, dtype=np.float32)
    x[1, 2] = np.inf
    with np.errstate(invalid="ignore"):
        product = reference.arrays(np.float32, ())["matmul"](x, y)
    assert_same_bits({"": np.array([[1, 1], [np.nan, np.nan]], np.float32)}, {"": product})


def test_sums_are_exact_and_of_no_order() -> None:
    x = numbers(7, (50, 300), decades=12)
    sums = reference.arrays(np.float32, x.shape)["axis_sum"](-1, x)
    exact = [[np.float32(math.fsum(map(float, row)))] for row in x]
    assert_same_bits({"": np.array(exact)}, {"": sums})
    shuffled = np.random.default_rng(1).permuted(x, axis=1)
    assert_same_bits({"": sums}, {"": reference.arrays(np.float32, x.shape)["axis_sum"](-1, shuffled)})


@pytest.mark.parametrize("execution", ["reference", "torch_single", "jax_jit"])
def test_what_large_numbers_that_cancel_leave_over(execution: str) -> None:
    """It is below the coarse grid."""
    params = {"w": np.ones((2, 3), np.float32)}
    grads = {"w": np.array([[2.0**30, 3e-7, -(2.0**30)], [1.0, 2.0, 3.0]], np.float32)}
    (after,) = EXECUTIONS[execution](row_sums(), params, [grads])
    assert_same_bits({"": np.float32([[3e-7], [6.0]])}, {"": after["w/x"]})


def test_a_program_serves_all_leaves_of_a_rank() -> None:
    made = row_and_column()
    assert made.program(tf.Leaf("a", (3, 4))) is made.program(tf.Leaf("b", (5, 6)))
    assert made.state_shapes(tf.Leaf("b", (5, 6))) == {"sums": (5, 1), "largest": (1, 6)}
    assert "sums' = 0.5*sums + axis_sum(g*p, -1)" in str(made.program(tf.Leaf("a", (3, 4))))
    assert tf.adamw().state_shapes(tf.Leaf("a", (3, 4))) == {}


def test_a_program_serves_no_leaf_whose_arrays_do_not_fit() -> None:
    """Though one of the same rank has it."""

    @tf.rule
    def symmetric(g: Any) -> Any:
        return g + transpose(g)

    made = symmetric()
    assert made.program(tf.Leaf("a", (3, 3))) is made.program(tf.Leaf("b", (4, 4)))
    for shape, message in (((2, 3), "do not fit together"), ((1, 3), r"the update has shape \(3, 3\)")):
        with pytest.raises(tf.TraceError, match=message):
            made.program(tf.Leaf("c", shape))


def test_torch_saves_loads_and_checks_such_states() -> None:
    def trained(steps: int) -> Any:
        p = torch.nn.Parameter(torch.from_numpy(numbers(1, (4, 3))))
        optimizer = trainfn_torch.Optimizer([("w", p)], row_and_column())
        for n in range(steps):
            p.grad = torch.from_numpy(numbers(10 + n, (4, 3)))
            optimizer.step()
        return p, optimizer

    _, optimizer = trained(2)
    saved = copy.deepcopy(optimizer.state_dict())
    assert [tuple(x.shape) for x in saved["state"][0].values()] == [(), (4, 1), (1, 3)]
    p, other = trained(1)
    other.load_state_dict(saved)
    assert_same_bits(*(o.state_dict()["state"][0] for o in (optimizer, other)))
    saved["state"][0]["sums"] = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"sums has shape \(4, 3\) where \(4, 1\) is due"):
        other.load_state_dict(saved)
    p.data, p.grad = torch.zeros(2, 2), torch.zeros(2, 2)
    with pytest.raises(ValueError, match="'w'"):
        other.step()


def test_jax_states_have_their_shapes_and_are_checked() -> None:
    import jax.numpy as jnp

    tx = trainfn_jax.transform(row_and_column())
    params = {"w": jnp.ones((4, 3))}
    state = tx.init(params)
    assert (state.sums["w"].shape, state.largest["w"].shape) == ((4, 1), (1, 3))
    with pytest.raises(ValueError, match=r"leaf 'w'.*state's sums"):
        tx.update(params, state._replace(sums=params), params)


def test_what_is_refused() -> None:
    complex_parameter = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    optimizer = trainfn_torch.Optimizer([("z", complex_parameter)], row_and_column())
    complex_parameter.grad = torch.ones(2, 2, dtype=torch.complex64)
    with pytest.raises(TypeError, match="'z' is complex, and row_and_column works along the axes of whole real"):
        optimizer.step()
    import jax.numpy as jnp

    tx = trainfn_jax.transform(row_and_column())
    params = {"z": jnp.ones((2, 2), jnp.complex64)}
    with pytest.raises(TypeError, match="leaf 'z' is complex"):
        tx.init(params)


class Kept(NamedTuple):
    x: Array


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda g: axis_sum(g, 2), r"axis_sum: axis = 2 must be a whole number in \[-2, 2\)"),
        (lambda g: axis_sum(g, True), "axis = True must be a whole number"),
        (lambda g: axis_sum(1.0, 0), "axis_sum takes an Array"),
        (lambda g: axis_sum(g, 0), r"the update has shape \(1, 3\) where \(4, 3\) is due"),
        (lambda g: g + transpose(g), r"arrays of shapes \(4, 3\) and \(3, 4\) do not fit together"),
        (lambda g: matmul(g, g), r"matrices of shapes \(4, 3\) and \(4, 3\) cannot be multiplied"),
        (lambda g: reshape(g, (3, 3)), r"of shape \(4, 3\) has another number of elements than \(3, 3\)"),
        (lambda g: g @ g, r"write matmul\(x, y\)"),
        (lambda g: g.T, r"Write transpose\(x\)"),
        (lambda g: full_like(axis_sum(g, 0), 1.0), "makes arrays of the leaf's shape"),
        (lambda g: g * leaf_norm(matmul(g, transpose(g))), r"leaf_norm sums no more .* was given \(4, 4\)"),
        (lambda g: g * leaf_dot(g, transpose(g)), r"leaf_dot: arrays of shapes \(4, 3\) and \(3, 4\) do not fit"),
    ],
)
def test_bad_formulas(function: Any, message: str) -> None:
    with pytest.raises(tf.TraceError, match=message):
        tf.rule(function)().program(tf.Leaf("w", (4, 3)))


def test_a_vector_is_no_matrix_and_a_state_keeps_its_shape() -> None:
    with pytest.raises(tf.TraceError, match=r"transpose takes matrices, and .* has 1 axes: branch on g.ndim"):
        tf.rule(lambda g: transpose(g))().program(tf.Leaf("b", (3,)))

    def shrinking(state: Kept, g: Any) -> Any:
        return g, Kept(axis_sum(g, 0))

    shrinking.__annotations__["state"] = Kept
    with pytest.raises(tf.TraceError, match=r"state field x has shape \(1, 3\) where \(4, 3\) is due"):
        tf.rule(shrinking)().program(tf.Leaf("w", (4, 3)))
