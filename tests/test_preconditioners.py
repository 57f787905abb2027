"""Shampoo, SOAP and GaLore against their papers' algorithms in plain numpy, where no namesake goes as far.

Their first steps in each configuration are compared with pytorch_optimizer and optax in `tests/test_namesakes.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from tests.executions import EXECUTIONS, run_reference
from tests.inputs import numbers
from tests.test_decompositions import Counted, calls_of_each_update, table
from trainfn import convert, reference
from trainfn.program import DECOMPOSITIONS

Model = dict[str, Any]
SHAPES = {"square": (4, 4), "wide": (3, 5), "tall": (5, 3), "cube": (4, 2, 2), "vector": (5,), "number": ()}


def _inputs(n: int, shapes: Any = SHAPES, dtype: Any = np.float64) -> tuple[Model, list[Model]]:
    params = {k: numbers(i, s, decades=1).astype(dtype) for i, (k, s) in enumerate(shapes.items())}
    grads = [{k: numbers(40 * t + i, s, decades=1).astype(dtype) for i, (k, s) in enumerate(shapes.items())}
             for t in range(1, n + 1)]  # fmt: skip
    return params, grads


def _matrix(x: Any) -> Any:
    return x.reshape(x.shape[0] if x.ndim else 1, -1)


def _assert_path(rule: tf.Rule, params: Model, grads: Sequence[Model], expected: dict[str, Iterator[Any]]) -> None:
    for n, after in enumerate(run_reference(rule, params, grads)):
        for name, path in expected.items():
            np.testing.assert_allclose(after[f"{name}/p"], next(path), rtol=0, atol=1e-12, err_msg=f"{name}, step {n}")


# -- Shampoo -----------------------------------------------------------------------------------------------------------


def _root(x: Any, eps: float, count: int) -> Any:
    values, q = np.linalg.eigh(x + eps * np.eye(len(x)))
    return (q * values ** (-1 / (2 * count))) @ q.T


def _shampoo(p: Any, grads: Sequence[Any], lr: float, b2: float | None, every: int, max_size: int) -> Iterator[Any]:
    rows, columns = _matrix(p).shape
    left, right = rows <= max_size, columns <= max_size and p.ndim > 1
    L, R = np.zeros((rows, rows)), np.zeros((columns, columns))
    old, new = (1.0, 1.0) if b2 is None else (b2, 1 - b2)
    for t, g in enumerate(map(_matrix, grads)):
        L, R = old * L + new * g @ g.T, old * R + new * g.T @ g
        if t % every == 0:
            L_root, R_root = (_root(x, 1e-3, left + right) if left + right else x for x in (L, R))
        p = p - lr * ((L_root if left else np.eye(rows)) @ g @ (R_root if right else np.eye(columns))).reshape(p.shape)
        yield p


@pytest.mark.parametrize(("b2", "every", "max_size"), [(None, 1, 100), (0.9, 3, 100), (None, 2, 4), (0.5, 2, 2)])
def test_shampoo(b2: float | None, every: int, max_size: int) -> None:
    """Also sides that are left alone; of the smallest max_size none but the number's remains."""
    params, grads = _inputs(7)
    rule = tf.shampoo(lr=0.1, b2=b2, eps=1e-3, every=every, max_size=max_size)
    paths = {k: _shampoo(p, [g[k] for g in grads], 0.1, b2, every, max_size) for k, p in params.items()}
    _assert_path(rule, params, grads, paths)


@pytest.mark.parametrize("rule", [tf.shampoo(), tf.grafted_shampoo(tf.sgd(lr=0.05))])
def test_gradients_of_low_rank_do_not_throw_it_far(rule: tf.Rule) -> None:
    """By default, each gradient in other directions than those before it."""
    w = np.zeros((8, 12), np.float32)
    target = numbers(1, w.shape)
    state = reference.init(rule, {"w": w})
    for n in range(6):
        x = numbers(2 + n, (12, 2))
        updates, state = reference.update(rule, state, {"w": (w - target) @ x @ x.T}, {"w": w})
        w = w + updates["w"]
    assert np.linalg.norm(w - target) <= np.linalg.norm(target)


def test_grafted_steps_have_shampoos_direction_and_the_others_length() -> None:
    params, grads = _inputs(5)
    options: Any = {"eps": 1e-3, "every": 2}
    rules = (tf.grafted_shampoo(tf.adam(lr=0.1), **options), tf.shampoo(lr=1.0, **options), tf.adam(lr=0.1))
    states = [reference.init(rule, params) for rule in rules]
    for g in grads:
        results = [reference.update(rule, state, g, params) for rule, state in zip(rules, states, strict=True)]
        states = [state for _, state in results]
        for name, u in results[0][0].items():
            direction, length = results[1][0][name], np.linalg.norm(results[2][0][name])
            np.testing.assert_allclose(u, length * direction / np.linalg.norm(direction), atol=1e-12)


def test_a_gradient_of_zeros_grafts_nothing() -> None:
    params, _ = _inputs(0)
    rule = tf.grafted_shampoo(tf.sgd(lr=1.0))
    updates, _ = reference.update(rule, reference.init(rule, params), {k: 0.0 * p for k, p in params.items()}, params)
    assert not any(np.any(u) for u in updates.values())


# -- SOAP --------------------------------------------------------------------------------------------------------------


def _soap(p: Any, grads: Sequence[Any], every: int, max_size: int) -> Iterator[Any]:
    lr, b1, b2, eps, decay = 0.1, 0.8, 0.9, 1e-8, 0.1
    rows, columns = _matrix(p).shape
    sizes = [n if n <= max_size and p.ndim > 1 else 0 for n in (rows, columns)]
    grams = [np.zeros((n, n)) for n in sizes]
    q = [np.eye(n) for n in (rows, columns)]
    m, v = np.zeros((rows, columns)), np.zeros((rows, columns))
    for t, g in enumerate(map(_matrix, grads)):
        if t:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * (q[0].T @ g @ q[1]) ** 2
            step = q[0] @ (q[0].T @ m @ q[1] / (np.sqrt(v) + eps)) @ q[1].T
            p = p - lr * (np.sqrt(1 - b2**t) / (1 - b1**t) * step.reshape(p.shape) + decay * p)
        for i, outer in enumerate((g @ g.T, g.T @ g)):
            if sizes[i]:
                grams[i] = b2 * grams[i] + (1 - b2) * outer
                if t % every == 0:
                    q[i] = np.linalg.qr(grams[i] @ q[i])[0] if t else np.linalg.eigh(grams[i])[1][:, ::-1]
        yield p


@pytest.mark.parametrize(("every", "max_size"), [(1, 100), (3, 100), (2, 3)])
def test_soap(every: int, max_size: int) -> None:
    """A first gradient of full rank: else its null space has any basis."""
    names = ["square", "cube", "vector", "number", *(["wide", "tall"] if max_size == 3 else [])]
    params, grads = _inputs(8, {k: SHAPES[k] for k in names})
    rule = tf.soap(lr=0.1, b1=0.8, b2=0.9, weight_decay=0.1, every=every, max_size=max_size)
    paths = {k: _soap(p, [g[k] for g in grads], every, max_size) for k, p in params.items()}
    _assert_path(rule, params, grads, paths)


def test_soaps_bases_come_to_be_those_of_its_matrices() -> None:
    params, (g, *_) = _inputs(1, {"w": (6, 4)}, np.float32)
    after = run_reference(tf.soap(lr=0.0, every=1), params, [g] * 3 + [{"w": g["w"] + params["w"]}] * 60)[-1]
    for gram, basis in (("w/L", "w/Q_L"), ("w/R", "w/Q_R")):
        rotated = after[basis].T @ after[gram] @ after[basis]
        assert np.max(np.abs(rotated - np.diag(np.diag(rotated)))) < 1e-4 * np.max(rotated)


# -- GaLore ------------------------------------------------------------------------------------------------------------


def _projector(g: Any, rank: int, shorter: bool) -> Any:
    """Left singular vectors of g, those of its shorter side having the signs of eigenvectors."""
    u, _, vt = np.linalg.svd(g, full_matrices=False)
    own = u if shorter else vt.T
    return (u * np.sign(np.exp(-np.arange(len(own)) / len(own)) @ own))[:, :rank]


def _galore(p: Any, grads: Sequence[Any], every: int, rank: int, longer_side: bool) -> Iterator[Any]:
    lr, b1, b2, eps, scale, decay = 0.1, 0.9, 0.999, 1e-8, 0.25, 0.1
    shape, rows, columns = p.shape, *_matrix(p).shape
    is_left = rows >= columns if longer_side else rows <= columns
    is_vector = p.ndim < 2
    m = v = 0.0
    for t, g in enumerate(map(_matrix, grads), 1):
        x = g if is_left or is_vector else g.T
        if (t - 1) % every == 0 and not is_vector:
            P = _projector(x, rank, x.shape[0] <= x.shape[1])
        low = x if is_vector else P.T @ x
        m, v = b1 * m + (1 - b1) * low, b2 * v + (1 - b2) * low**2
        n = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        u = n if is_vector else scale * (P @ n if is_left else (P @ n).T)
        p = p - lr * (u.reshape(shape) + decay * p)
        yield p


@pytest.mark.parametrize("longer_side", [False, True])
@pytest.mark.parametrize(("every", "rank"), [(3, 2), (2, 1), (100, 9)])
def test_galore(every: int, rank: int, longer_side: bool) -> None:
    params, grads = _inputs(7)
    rule = tf.galore(lr=0.1, weight_decay=0.1, every=every, rank=rank, longer_side=longer_side)
    paths = {k: _galore(p, [g[k] for g in grads], every, rank, longer_side) for k, p in params.items()}
    for n, after in enumerate(run_reference(rule, params, grads)):
        for name, path in paths.items():
            np.testing.assert_allclose(after[f"{name}/p"], next(path), rtol=0, atol=1e-8, err_msg=f"{name}, step {n}")


@pytest.mark.parametrize(("longer_side", "shapes"), [(False, [(3, 2), (2, 5)]), (True, [(5, 2), (3, 2)])])
def test_galore_remembers_a_projection(longer_side: bool, shapes: Any) -> None:
    rule = tf.galore(rank=2, longer_side=longer_side)
    assert list(rule.state_shapes(tf.Leaf("w", (3, 5))).values()) == [*shapes, shapes[1]]
    assert rule.state_shapes(tf.Leaf("b", (5,))) == {}
    with pytest.raises(ValueError, match="galore: rank = 0 must be at least 1"):
        tf.galore(rank=0).program(tf.Leaf("w", (3, 5)))


# -- all of them -------------------------------------------------------------------------------------------------------

RULES = {
    "shampoo": tf.shampoo(lr=0.1, every=2),
    "grafted": tf.grafted_shampoo(tf.sgd(lr=0.1), every=2),
    "soap": tf.soap(lr=0.1, every=2),
    "galore": tf.galore(lr=0.1, every=2, rank=2),
}
each_rule = pytest.mark.parametrize("name", RULES)


@each_rule
@pytest.mark.parametrize("execution", ["reference", "torch_single", "jax_jit"])
def test_leaves_without_elements(name: str, execution: str) -> None:
    params, grads = _inputs(2, {"a": (0, 3), "b": (3, 0), "c": (0,), "d": (2, 2)}, np.float32)
    for after in EXECUTIONS[execution](RULES[name], params, grads):
        assert all(np.isfinite(x).all() for x in after.values())


@pytest.mark.parametrize(("name", "due"), [("shampoo", [0, 2, 0, 0, 0, 2, 0, 0]), ("galore", [0, 1, 0, 0, 0, 1, 0, 0])])
def test_inside_of_an_accumulation_matrices_are_decomposed_when_both_are_due(
    name: str, due: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, grads = _inputs(len(due), {"w": (3, 4)}, np.float32)
    counted = Counted(monkeypatch, table("reference"), DECOMPOSITIONS)
    assert calls_of_each_update(counted, "reference", tf.accumulate(RULES[name], k=2), params, grads) == due


@each_rule
def test_states_follow_a_transposition(name: str) -> None:
    import torch

    shapes = {"wide": (3, 5), "vector": (5,), **({} if name == "galore" else {"square": (4, 4)})}
    params, grads = _inputs(3, shapes)
    layout: Any = {k: (k, tuple(reversed(range(len(s))))) for k, s in shapes.items()}

    def trained(params: Model, grads: Sequence[Model]) -> Any:
        tensors = {k: torch.tensor(p).requires_grad_() for k, p in params.items()}
        optimizer = trainfn_torch.Optimizer(list(tensors.items()), RULES[name])
        for g in grads:
            for k, p in tensors.items():
                p.grad = torch.tensor(g[k])
            optimizer.step()
        return trainfn_torch.convert.snapshot(optimizer)

    here = trained(params, grads).renamed(layout)
    there = trained(*(convert.rearranged(params, layout), [convert.rearranged(g, layout) for g in grads]))
    for k, leaf in there.leaves.items():
        assert leaf.values.keys() == here.leaves[k].values.keys()
        for field, x in leaf.values.items():
            if not field.startswith("Q_"):  # of the null space of the first gradient any basis will do
                np.testing.assert_allclose(here.leaves[k].values[field], x, atol=1e-8, err_msg=f"{k}, {field}")


@pytest.mark.parametrize(("name", "shape"), [("shampoo", (2, 3, 4)), ("soap", (2, 3, 4)), ("galore", (3, 3))])
def test_what_would_be_of_other_sides_does_not_follow(name: str, shape: tuple[int, ...]) -> None:
    state = reference.init(RULES[name], {"w": np.ones(shape)})
    leaf = convert.LeafState(0, shape, state.leaves["w"])
    snapshot = convert.Snapshot(RULES[name], 0, {"w": leaf}, {})
    with pytest.raises(ValueError, match=r"leaf 'w', whose axes .* would be .*Keep the axes of this leaf"):
        snapshot.renamed({"w": ("w", tuple(reversed(range(len(shape)))))})


def test_a_decomposition_that_is_not_due_leaves_the_bits() -> None:
    params, grads = _inputs(3, {"w": (3, 4)}, np.float32)
    path = run_reference(tf.shampoo(every=2), params, grads)
    assert_same_bits({"": path[0]["w/L_root"]}, {"": path[1]["w/L_root"]})
    assert np.any(path[1]["w/L_root"] != path[2]["w/L_root"])
