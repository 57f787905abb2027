"""Decompositions of matrices, and what is computed only when it is due: `when`, and wrappers that gate with it."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
import trainfn_jax
from tests.bits import assert_same_bits
from tests.executions import EXECUTIONS, run_reference
from tests.inputs import numbers
from trainfn import Array, decompositions, reference
from trainfn.interpret import Call, run
from trainfn.lowering import lower
from trainfn.order import order_of
from trainfn.program import COSTLY, DECOMPOSITIONS, Node, Program, Sort
from trainfn.verbs import (
    axis_sum,
    eigenvectors,
    floor,
    full_like,
    identity,
    leading,
    leaf_norm,
    matmul,
    orthogonal,
    reshape,
    transpose,
    when,
    where,
)

# How far one LAPACK's decompositions are from another's, element by element, up to 300 rows; docs/contract.md says it.
BOUND = 2e-5


@tf.rule
def eigen(g: Any) -> Any:
    """The eigenvectors of g's symmetric part as the update."""
    return eigenvectors(g)


@tf.rule
def made_orthogonal(g: Any) -> Any:
    """g made orthogonal column by column as the update."""
    return orthogonal(g)


def _gram(x: Any) -> Any:
    return np.asarray(x @ np.swapaxes(x, -1, -2), np.float32)


def _with_eigenvalues(values: list[float]) -> Any:
    q, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(len(values), len(values))))
    return np.asarray(q * values @ q.T, np.float32)


THIN = numbers(5, (24, 3), decades=2)
SYMMETRIC = {
    "zero": np.zeros((3, 3), np.float32),
    "identity": 2 * np.eye(4, dtype=np.float32),
    "distinct": _with_eigenvalues([4.0, 3.0, 2.0, 1.0, -2.0]),
    "equal": _with_eigenvalues([3.0, 3.0, 3.0, 1.0, 1.0]),
    "of low rank": _gram(THIN),
    "of low rank, negated": -_gram(THIN),
    "of whole numbers": _gram(np.float32([[1], [-2]])),
    "of one column": _gram(np.float32([[0], [3], [0], [-1]])),
    "tiny": 1e-30 * _gram(THIN),
    "large": 1e30 * _gram(THIN),
    "one": np.float32([[-3.0]]),
    "empty": np.zeros((0, 0), np.float32),
    "several": _gram(numbers(6, (2, 3, 4, 2), decades=1)),
}
TALL = {
    "any": numbers(7, (6, 4), decades=3),
    "square": numbers(8, (5, 5)),
    "identity": np.eye(4, 3, dtype=np.float32),
    "zero": np.zeros((3, 2), np.float32),
    "dependent": np.float32([[1, 2, 1], [3, 6, 0], [-1, -2, 5], [2, 4, 1]]),
    "a column of zeros": np.float32([[0, 1], [0, 3], [0, 4]]),
    "graded": numbers(9, (8, 4), decades=1) * np.float32([1, 1e-5, 1e-10, 1e-15]),
    "one": np.float32([[-3.0]]),
    "empty": np.zeros((4, 0), np.float32),
    "several": numbers(10, (2, 3, 5, 2)),
}
CASES = [(eigen, SYMMETRIC), (made_orthogonal, TALL)]
each_decomposition = pytest.mark.parametrize(("rule", "matrices"), CASES, ids=lambda x: getattr(x, "name", ""))


def _decomposed(rule: Any, matrices: dict[str, Any], execution: str = "reference") -> dict[str, Any]:
    params = {name: np.zeros_like(x) for name, x in matrices.items()}
    (after,) = EXECUTIONS[execution](rule(), params, [matrices])
    return {name: after[f"{name}/p"] for name in matrices}


def _wide(x: Any) -> Any:
    return np.asarray(x, np.float64)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_eigenvectors_are_those_of_the_matrix(name: str) -> None:
    x, q = _wide(SYMMETRIC[name]), _wide(_decomposed(eigen, SYMMETRIC)[name])
    n, transposed = x.shape[-1], np.swapaxes(q, -1, -2)
    size = np.max(np.abs(x), initial=1e-300)
    values = transposed @ x @ q
    diagonal = np.diagonal(values, axis1=-2, axis2=-1)
    np.testing.assert_allclose(transposed @ q, np.broadcast_to(np.eye(n), x.shape), atol=1e-6)
    np.testing.assert_allclose(values / size, np.eye(n) * diagonal[..., None, :] / size, atol=2e-6)
    assert np.all(np.diff(diagonal) <= 2e-6 * size)


@pytest.mark.parametrize("name", TALL)
def test_orthogonal_columns_span_those_before(name: str) -> None:
    x, q = _wide(TALL[name]), _wide(_decomposed(made_orthogonal, TALL)[name])
    n = x.shape[-1]
    r = np.swapaxes(q, -1, -2) @ x
    lengths = np.max(np.abs(x), axis=-2, keepdims=True, initial=1e-300)
    np.testing.assert_allclose(np.swapaxes(q, -1, -2) @ q, np.broadcast_to(np.eye(n), r.shape), atol=1e-6)
    np.testing.assert_allclose(np.tril(r, -1) / lengths, np.zeros_like(r), atol=2e-6)
    assert np.all(np.diagonal(r / lengths, axis1=-2, axis2=-1) > -2e-6)


def test_what_is_orthogonal_already_stays_to_the_last_bit() -> None:
    identities = {"square": 2 * np.eye(4, dtype=np.float32), "tall": np.eye(5, 2, dtype=np.float32)}
    assert_same_bits({k: np.sign(x) for k, x in identities.items()}, _decomposed(made_orthogonal, identities))
    assert_same_bits({"": np.eye(4, dtype=np.float32)}, {"": _decomposed(eigen, SYMMETRIC)["identity"]})


def test_eigenvectors_are_those_of_the_symmetric_part() -> None:
    x = np.arange(16, dtype=np.float32).reshape(4, 4) ** 2
    both = _decomposed(eigen, {"x": x, "part": 0.5 * x + 0.5 * x.T})
    assert_same_bits({"": both["part"]}, {"": both["x"]})


@pytest.mark.parametrize("vector", [(1, -1), (-1, 1), (0, 1, -1), (-1, -1, 2), (-1, 1, 1, -1)])
def test_signs_are_fixed_where_elements_sum_to_zero(vector: tuple[int, ...]) -> None:
    """The first elements weigh more."""
    v = np.float64(vector)
    q = _decomposed(eigen, {"x": _gram(np.float32(vector)[:, None])})["x"]
    positive = v * np.sign(np.exp(-np.arange(len(v)) / len(v)) @ v)
    np.testing.assert_allclose(q[:, 0], positive / np.linalg.norm(v), atol=1e-6)


def test_negated_matrices_have_the_same_eigenvectors() -> None:
    """In the other order, and with the signs they had."""
    of, negated = (_decomposed(eigen, {"x": s * SYMMETRIC["distinct"]})["x"] for s in np.float32([1, -1]))
    np.testing.assert_allclose(negated[:, ::-1], of, atol=1e-6)


@each_decomposition
def test_torch_on_the_host_has_the_bits_of_numpy(rule: Any, matrices: dict[str, Any]) -> None:
    assert_same_bits(_decomposed(rule, matrices), _decomposed(rule, matrices, "torch_single"))


@each_decomposition
def test_jax_is_close(rule: Any, matrices: dict[str, Any]) -> None:
    expected, actual = (_decomposed(rule, matrices, execution) for execution in ("reference", "jax_jit"))
    for name, x in expected.items():
        np.testing.assert_allclose(actual[name], x, rtol=0, atol=BOUND, err_msg=name)


class _OtherLapack:
    """numpy, but for decompositions, which are torch's: of another LAPACK."""

    linalg = SimpleNamespace(
        eigh=lambda x: [y.numpy() for y in torch.linalg.eigh(torch.from_numpy(np.ascontiguousarray(x)))],
        qr=lambda x: [y.numpy() for y in torch.linalg.qr(torch.from_numpy(np.ascontiguousarray(x)))],
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


LARGE = {"rank 1": (300, 1, 4), "rank 10": (100, 10, 8), "whole": (100, 100, 4)}


@pytest.mark.parametrize("name", [*SYMMETRIC, *LARGE])
def test_another_lapack_is_close(name: str) -> None:
    """Also where eigenvalues coincide, or are rounding errors."""
    x = _wide(SYMMETRIC[name] if name in SYMMETRIC else _gram(numbers(1, LARGE[name][:2], decades=LARGE[name][2])))
    eps = float(np.finfo(np.float32).eps) / 2
    q = decompositions.eigenvectors(np, x, eps)
    np.testing.assert_allclose(decompositions.eigenvectors(_OtherLapack(), x, eps), q, rtol=0, atol=BOUND)
    y = _wide(np.float32(x @ q))  # as in an iteration for the eigenvectors of x
    expected = decompositions.orthogonal(np, y, eps)
    np.testing.assert_allclose(decompositions.orthogonal(_OtherLapack(), y, eps), expected, rtol=0, atol=BOUND)


@pytest.mark.parametrize("name", TALL)
def test_another_lapack_makes_the_same_columns_orthogonal(name: str) -> None:
    x, eps = _wide(TALL[name]), float(np.finfo(np.float32).eps) / 2
    expected = decompositions.orthogonal(np, x, eps)
    np.testing.assert_allclose(decompositions.orthogonal(_OtherLapack(), x, eps), expected, rtol=0, atol=BOUND)


@pytest.mark.parametrize("execution", ["reference", "torch_single", "jax_jit"])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("rule", [eigen, made_orthogonal], ids=lambda rule: rule.name)
def test_a_matrix_that_is_not_finite_gives_nan_and_spoils_no_other(rule: Any, execution: str, bad: float) -> None:
    x = np.stack([SYMMETRIC["distinct"]] * 2)
    alone = _decomposed(rule, {"x": x}, execution)["x"][0]
    x[1, 2, 3] = x[1, 3, 2] = bad
    found = _decomposed(rule, {"x": x}, execution)["x"]
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[0], alone, atol=1e-6)


@pytest.mark.parametrize("execution", ["reference", "torch_single", "jax_jit"])
def test_float64_is_decomposed_to_its_own_precision(execution: str) -> None:
    x = _wide(numbers(11, (6, 6), decades=1))
    x = x + x.T
    q = _decomposed(eigen, {"x": x}, execution)["x"]
    assert q.dtype == np.float64
    values = q.T @ x @ q
    np.testing.assert_allclose(values, np.diag(np.sort(np.linalg.eigvalsh(x))[::-1]), atol=1e-13)
    q = _decomposed(made_orthogonal, {"x": x[:, :3]}, execution)["x"]
    np.testing.assert_allclose(q.T @ q, np.eye(3), atol=1e-14)


@each_decomposition
def test_bfloat16_is_rounded_once(rule: Any, matrices: dict[str, Any]) -> None:
    rounded = {name: x.astype(ml_dtypes.bfloat16) for name, x in matrices.items()}
    wide = {name: x.astype(np.float32) for name, x in rounded.items()}
    expected = {name: x.astype(ml_dtypes.bfloat16) for name, x in _decomposed(rule, wide).items()}
    assert_same_bits(expected, _decomposed(rule, rounded))
    assert_same_bits(expected, _decomposed(rule, rounded, "torch_single"))


@tf.rule
def cut(g: Any, p: Any) -> Any:
    """Of square leaves: the product of two columns each, and the identity."""
    return matmul(leading(g, 2), transpose(leading(p, 2))) + identity(g, p.shape[0]) + 0.0 * leading(g, p.shape[1])


@pytest.mark.parametrize("execution", [name for name in EXECUTIONS if name.endswith(("single", "jit"))])
def test_columns_and_identities(execution: str) -> None:
    params, grads = {"w": numbers(1, (4, 4))}, [{"w": numbers(2, (4, 4))}]
    (expected,) = run_reference(cut(), params, grads)
    assert_same_bits(expected, EXECUTIONS[execution](cut(), params, grads)[0])
    g, p = _wide(grads[0]["w"]), _wide(params["w"])
    np.testing.assert_allclose(expected["w/p"], p + g[:, :2] @ p[:, :2].T + np.eye(4), rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda g: eigenvectors(g), r"eigenvectors takes square matrices, and <traced array g> has shape \(4, 3\)"),
        (lambda g: eigenvectors(1.0), "eigenvectors takes an Array"),
        (lambda g: orthogonal(transpose(g)), r"more columns than rows, \(3, 4\), which cannot all be orthogonal"),
        (lambda g: orthogonal(leaf_norm(g)), "orthogonal takes an Array"),
        (lambda g: leading(g, 4), r"leading: n = 4 must be a whole number of columns, and <traced array g> has 3"),
        (lambda g: leading(g, -1), "n = -1 must be a whole number of columns"),
        (lambda g: leading(g, True), "n = True must be a whole number of columns"),
        (lambda g: leading(reshape(leading(leading(g, 1), 0), (0,)), 1), "and .* has 0"),
        (lambda g: identity(g, -1), "identity: n = -1 must be a whole number of rows"),
        (lambda g: identity(3, 3), "identity takes an Array"),
        (lambda g: matmul(g, transpose(g), "low"), "precision = 'low' must be one of 'highest', 'high', 'library'"),
        (lambda g: matmul(g, transpose(g), True), "precision = True must be one of"),
        (lambda g: when(g > 0, g, g), "when needs one condition for the whole leaf and was given <traced mask"),
        (lambda g: when(True, g, g), "when needs one condition for the whole leaf and was given True"),
        (lambda g: when(leaf_norm(g) > 0, g, axis_sum(g, 0)), r"arrays of one shape, not of \(4, 3\) and \(1, 3\)"),
        (lambda g: when(leaf_norm(g) > 0, g, 0.0), "when takes an Array .*, not 0.0"),
    ],
)
def test_bad_formulas(function: Any, message: str) -> None:
    with pytest.raises(tf.TraceError, match=message):
        tf.rule(function)().program(tf.Leaf("w", (4, 3)))


@pytest.mark.parametrize("verb", [eigenvectors, orthogonal])
def test_a_vector_is_no_matrix(verb: Any) -> None:
    with pytest.raises(tf.TraceError, match=r"takes matrices, and .* has 1 axes: branch on g.ndim"):
        tf.rule(lambda g: verb(g))().program(tf.Leaf("b", (3,)))


def test_a_value_of_another_trace_is_refused() -> None:
    kept: list[Any] = []

    def keeping(g: Any) -> Any:
        product = matmul(g, g)
        kept.append(product)
        return when(leaf_norm(g) > 0, kept[0], product)

    tf.rule(keeping)().program(tf.Leaf("w", (3, 3)))
    with pytest.raises(tf.TraceError, match="belongs to another trace"):
        tf.rule(keeping)().program(tf.Leaf("w", (4, 4)))


# -- when: what is left out is not computed ----------------------------------------------------------------------------


class Kept(NamedTuple):
    x: Array
    y: Array


@tf.rule
def renewed(step: Any, state: Kept, g: Any, *, every: Any = 3.0, often: Any = 2.0) -> Any:
    """One `when` in another's branch; values read in branches and after them; one `when` read by two outputs."""
    gram = matmul(g, transpose(g), "high")
    is_due, is_often_due = (step - k * floor(step / k) < 0.5 for k in (every, often))
    inner = when(is_often_due, matmul(gram, state.x, "high"), gram)
    x = when(is_due, matmul(inner, inner, "high") + gram, state.x)
    y = when(is_often_due, matmul(x, gram, "high"), full_like(g, -0.0))
    return 0.1 * (x - gram) + y, Kept(x, 0.5 * state.y + x)


PRODUCTS = (4, 1, 2, 2, 2, 1, 4)  # of its updates: the gram, and what is due


def _inputs(n: int, dtype: Any = np.float32) -> tuple[Any, Any]:
    shapes = {"w": (5, 5), "b": (2, 2)}
    params = {k: numbers(i, s, decades=1).astype(dtype) for i, (k, s) in enumerate(shapes.items())}
    grads = [{k: numbers(50 * t + i, s, decades=2).astype(dtype) for i, (k, s) in enumerate(shapes.items())}
             for t in range(1, n + 1)]  # fmt: skip
    return params, grads


class Counted:
    """Puts itself in the place of operations, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, table: Any, operations: frozenset[str] = COSTLY) -> None:
        self.calls = 0
        for op in operations:
            monkeypatch.setitem(table, op, self._counting(table[op]))

    def _counting(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any) -> Any:
            self.calls += 1
            return operation(*args)

        return counted


def calls_of_each_update(counted: Counted, execution: str, rule: tf.Rule, params: Any, grads: Any) -> list[int]:
    """Of n updates those of the first n, less those of the first n - 1."""
    totals = [0]
    for n in range(1, len(grads) + 1):
        counted.calls = 0
        EXECUTIONS[execution](rule, params, grads[:n])
        totals.append(counted.calls)
    return list(np.diff(totals))


def table(execution: str) -> Any:
    from trainfn_torch import single

    return {"reference": reference, "torch_single": single}[execution]._ELEMENTWISE


@pytest.mark.parametrize("execution", ["reference", "torch_single"])
def test_what_is_not_due_is_not_computed(execution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params, grads = _inputs(len(PRODUCTS))
    counted = Counted(monkeypatch, table(execution))
    one = {"w": params["w"]}, [{"w": g["w"]} for g in grads]
    assert calls_of_each_update(counted, execution, renewed(), *one) == list(PRODUCTS)


@pytest.mark.parametrize("execution", [name for name in EXECUTIONS if name != "reference"])
def test_what_is_due_has_the_same_bits(execution: str) -> None:
    params, grads = _inputs(7)
    expected = run_reference(renewed(), params, grads)
    for n, (a, b) in enumerate(zip(expected, EXECUTIONS[execution](renewed(), params, grads), strict=True)):
        assert_same_bits(a, b, f"step {n}")


def test_when_is_where() -> None:
    """For the numbers it makes no difference."""

    def unbranched(step: Any, state: Any, g: Any, *, every: Any = 3.0, often: Any = 2.0) -> Any:
        return renewed.function(step, state, g, every=every, often=often)

    unbranched.__annotations__["state"] = Kept
    params, grads = _inputs(7)
    expected = run_reference(renewed(), params, grads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "when", tf.verbs.where)
        rule = tf.rule(unbranched)()
        assert not any(node.op == "when" for node in rule.program(tf.Leaf("w", (5, 5))).nodes)
    for a, b in zip(expected, run_reference(rule, params, grads), strict=True):
        assert_same_bits(a, b)


def _outside_of_branches(jaxpr: Any) -> Iterator[str]:
    """The primitives of a computation, but for what `cond` may leave out."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        if equation.primitive.name != "cond":
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    yield from _outside_of_branches(getattr(inner, "jaxpr", inner))


def _jax_operations(rule: tf.Rule, params: Any) -> Counter[str]:
    tx = trainfn_jax.transform(rule)
    params = jax.tree.map(jnp.asarray, params)
    return Counter(_outside_of_branches(jax.make_jaxpr(tx.update)(params, tx.init(params), params).jaxpr))


def test_jax_puts_it_into_a_branch() -> None:
    params, _ = _inputs(0)
    found = _jax_operations(renewed(), {"w": params["w"]})
    assert (found["dot_general"], found["cond"]) == (1, 2)
    known = _jax_operations(renewed(), {"w": params["w"]})
    assert known == found


@pytest.mark.parametrize("transform", ["scan", "vmap"])
def test_branches_inside_of_jaxs_transformations(transform: str) -> None:
    """A scan over updates; a population of settings, whose flags differ."""
    params, grads = _inputs(4)
    settings = (2.0, 3.0) if transform == "vmap" else (3.0,)

    def trained(every: Any) -> Any:
        tx = trainfn_jax.transform(renewed(every=every))

        def step(carry: Any, g: Any) -> Any:
            updates, state = tx.update(g, carry[1], carry[0])
            p = {k: x + updates[k] for k, x in carry[0].items()}
            return (p, state), p

        start = jax.tree.map(jnp.asarray, params)
        return jax.lax.scan(step, (start, tx.init(start)), stacked)[1]

    stacked = {k: jnp.stack([g[k] for g in grads]) for k in params}
    with jax.enable_x64(True):
        made = jax.jit(jax.vmap(trained))(jnp.asarray(settings)) if transform == "vmap" else None
    made = jax.tree.map(lambda x: x[None], jax.jit(trained)(3.0)) if made is None else made
    for i, every in enumerate(settings):
        expected = run_reference(renewed(every=every), params, grads)
        for n, after in enumerate(expected):
            for k in params:
                assert_same_bits({k: after[f"{k}/p"]}, {k: made[k][i, n]}, f"every {every}, step {n}")


# -- when: memory ------------------------------------------------------------------------------------------------------


def _call(rule: tf.Rule, step: float) -> Call:
    leaf = tf.Leaf("w", (5, 5))
    program = lower(rule.program(leaf))
    arrays = {str(n.static): numbers(i, (5, 5)) for i, n in enumerate(program.nodes) if n.op == "input"}
    scalars = {"step": step, "every": 3.0, "often": 2.0, "k": 2.0, "weight": 1.0, "state.calls": step % 2}
    return Call(program, {**arrays, **scalars}, reference.arrays(np.float32, leaf.shape))


@pytest.mark.parametrize("step", [0.0, 1.0, 2.0, 3.0])
def test_every_value_is_let_go_of_that_nothing_reads_any_more(step: float) -> None:
    call = _call(renewed(), step)
    run([call], reference.TABLE)
    nodes = call.program.nodes
    read = {a for node in nodes for a in node.args}
    left = {i for i, x in enumerate(call.values) if isinstance(x, np.ndarray) and i in read}
    assert left <= set(call.program.output.values())


def test_a_branch_lets_go_of_what_it_has_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of products needs room for two, be it in a branch or not."""

    def chained(g: Any, p: Any) -> Any:
        x = matmul(g, p)
        for _ in range(6):
            x = matmul(x, p)
        return when(leaf_norm(g) > 0, x, p)

    made: list[Any] = []
    most = 0
    multiply = reference._ELEMENTWISE["matmul"]

    def watched(*args: Any) -> Any:
        nonlocal most
        product = multiply(*args)
        made.append(weakref.ref(product))
        most = max(most, sum(x() is not None for x in made))
        return product

    monkeypatch.setitem(reference._ELEMENTWISE, "matmul", watched)
    gc.disable()
    try:
        run([_call(tf.rule(chained)(), 0.0)], reference.TABLE)
    finally:
        gc.enable()
    assert (len(made), most) == (7, 2)


@st.composite
def _branching(draw: st.DrawFn) -> tuple[Callable[[Any], tf.Rule], float]:
    """A rule of products, sums, norms and decisions drawn at random, made with `when` or `where`; and a step."""
    index = st.integers(0, 7)
    kinds = st.sampled_from(["product", "sum", "norm", "decide", "decide", "decide"])
    drawn = draw(st.lists(st.tuples(kinds, index, index, index), min_size=4, max_size=14))
    kept = draw(st.tuples(index, index, index))

    def make(decide: Any) -> tf.Rule:
        def branching(step: Any, state: Any, g: Any, p: Any) -> Any:
            arrays, flags = [matmul(g, p), state.x, p, g], [step > 0, step < 2, leaf_norm(g) > 1]
            for kind, i, j, k in drawn:
                x, y = arrays[-1 - i % len(arrays)], arrays[-1 - j % len(arrays)]
                if kind == "norm":
                    flags.append(leaf_norm(x) > leaf_norm(y))
                elif kind == "decide":
                    arrays.append(decide(flags[-1 - k % len(flags)], x, y))
                else:
                    arrays.append(matmul(0.1 * x, y) if kind == "product" else x - 0.5 * y)
            update, *states = (arrays[-1 - i % len(arrays)] for i in kept)
            return update, Kept(*states)

        branching.__annotations__["state"] = Kept
        return tf.rule(branching)()

    return make, float(draw(st.integers(0, 2)))


@given(drawn=_branching())
def test_any_decisions_are_those_of_where_and_leave_nothing_behind(drawn: Any) -> None:
    make, step = drawn
    outputs = []
    for decide in (when, where):
        call = _call(make(decide), step)
        with np.errstate(all="ignore"):
            outputs += run([call], reference.TABLE)
        nodes, kept = call.program.nodes, set(call.program.output.values())
        read = {a for node in nodes for a in node.args}
        assert {i for i, x in enumerate(call.values) if isinstance(x, np.ndarray) and i in read} <= kept
    assert_same_bits(outputs[1], outputs[0])


def test_an_update_that_waits_may_be_added_unrounded() -> None:
    program = tf.accumulate(tf.round_once(tf.muon(steps=1)), k=2).program(tf.Leaf("w", (3, 4)))
    assert program.is_rounded_once
    assert any(node.op == "when" for node in program.nodes)


# -- wrappers compute what is due, too ---------------------------------------------------------------------------------


def _muon() -> tf.Rule:
    return tf.muon(lr=0.1, steps=2)


GATED: dict[str, tuple[Callable[[], tf.Rule], list[int]]] = {
    "accumulate": (lambda: tf.accumulate(_muon(), k=3), [0, 0, 6, 0, 0, 6]),
    "accumulate, in front": (lambda: tf.chain(tf.accumulate(tf.sgd(), k=2), _muon()), [0, 6, 0, 6]),
    "sam": (lambda: tf.sam(_muon(), rho=0.1), [0, 6, 0, 6]),
    "accumulated shampoo": (lambda: tf.accumulate(tf.shampoo(every=2), k=2), [0, 10, 0, 4, 0, 10]),
    "unfreeze": (lambda: tf.unfreeze(_muon(), start=2), [0, 0, 6, 6]),
    "sam of an accumulation": (lambda: tf.sam(tf.accumulate(_muon(), k=2), rho=0.1), [0, 0, 0, 6]),
    "ema of an accumulation": (lambda: tf.ema(tf.accumulate(_muon(), k=2)), [0, 6, 0, 6]),
}
each_gated = pytest.mark.parametrize("name", GATED)


@each_gated
@pytest.mark.parametrize("execution", ["reference", "torch_single"])
def test_updates_that_wait_multiply_nothing(name: str, execution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, products = GATED[name]
    params, grads = _inputs(len(products))
    one = {"w": params["w"]}, [{"w": g["w"]} for g in grads]
    counted = Counted(monkeypatch, table(execution))
    assert calls_of_each_update(counted, execution, make(), *one) == products


@each_gated
def test_jax_multiplies_in_branches_only(name: str) -> None:
    params, _ = _inputs(0)
    found = _jax_operations(GATED[name][0](), {"w": params["w"]})
    assert found["dot_general"] == 0
    assert found["cond"] > 0


@pytest.mark.parametrize(("name", "execution"), [("accumulate", "torch_single"), ("sam of an accumulation", "jax_jit")])
def test_updates_that_wait_have_the_same_bits(name: str, execution: str) -> None:
    make, products = GATED[name]
    params, grads = _inputs(len(products))
    expected = run_reference(make(), params, grads)
    for n, (a, b) in enumerate(zip(expected, EXECUTIONS[execution](make(), params, grads), strict=True)):
        assert_same_bits(a, b, f"step {n}")


def test_elementwise_rules_have_no_branches() -> None:
    program = tf.accumulate(tf.adam(), k=2).program(tf.Leaf("w", (3, 4)))
    assert program.is_elementwise
    assert not any(node.op in DECOMPOSITIONS | {"when"} for node in program.nodes)


@pytest.mark.parametrize(
    ("read", "together", "branches"),
    [(5, {5: (5,), 7: (7,)}, {5: (3, 4), 7: (6,)}), (4, {7: (5, 7)}, {7: (3, 4, 6)})],
)
def test_the_order_of_the_example(read: int, together: Any, branches: Any) -> None:
    """That of `trainfn.order`; 6 reads 5, or 4."""
    g, due, root = (
        Node("input", (), Sort.FLAG if name == "due" else Sort.ARRAY, name) for name in ("g", "due", "root")
    )
    rest = [("mul", (0, 0)), ("sqrt", (3,)), ("when", (1, 4, 2)), ("mul", (0, read)), ("when", (1, 6, 0))]
    nodes = (g, due, root, *(Node(op, args, Sort.ARRAY) for op, args in rest))
    order = order_of(Program(nodes, (("state.root", 5), ("update", 7))))
    assert (order.together, order.branches) == (together, branches)
    waiting = {i for branch in branches.values() for i in branch} | {i for some in together.values() for i in some[:-1]}
    assert order.due(0) == tuple(i for i in range(8) if i not in waiting)
    if read == 5:
        assert order.spent == ((), (), (), (), (3,), (2,), (), (0, 1))
