"""Sophia and AdaHessian against the peers', with the same estimates, and the two kinds of calls in the frameworks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import trainfn as tf
import trainfn_jax
import trainfn_torch
from tests.bits import assert_same_bits
from tests.executions import run_reference
from tests.inputs import numbers
from trainfn import reference

SHAPES: Mapping[str, tuple[int, ...]] = {"w": (7, 5), "b": (11,), "s": ()}
UPDATES = 30
EVERY = 4
HYPER = {"lr": 1e-2, "b1": 0.9, "b2": 0.8, "weight_decay": 0.1, "every": EVERY}


def model(dtype: Any = np.float64) -> dict[str, Any]:
    return {k: numbers(i, s, decades=2).astype(dtype) for i, (k, s) in enumerate(SHAPES.items())}


def gradients(n: int, key: int = 100, dtype: Any = np.float64) -> list[dict[str, Any]]:
    return [
        {k: numbers(key * t + i, s, decades=3).astype(dtype) for i, (k, s) in enumerate(SHAPES.items())}
        for t in range(1, n + 1)
    ]


GRADS, ESTIMATES = gradients(UPDATES), gradients(UPDATES, 777)


def of_ours(rule: tf.Rule) -> Iterator[dict[str, Any]]:
    """Parameters after each update; the calls are those that the state asks for."""
    params = model()
    state = reference.init(rule, params)
    grads, estimates = iter(GRADS), iter(ESTIMATES)
    while state.count < UPDATES:
        is_due = float(state.model["updates_left"]) == 0
        before = params
        updates, state = reference.update(rule, state, next(estimates if is_due else grads), params)
        params = {k: p + updates[k] for k, p in params.items()}
        if is_due:
            assert_same_bits(before, params)
        else:
            yield params


def assert_close(ours: list[Any], theirs: list[Any]) -> None:
    moved = max(float(np.max(np.abs(p[k] - x))) for p in theirs for k, x in model().items())
    apart = max(float(np.max(np.abs(p[k] - q[k]))) for p, q in zip(ours, theirs, strict=True) for k in SHAPES)
    assert apart <= 1e-12 * moved


def test_sophia_is_that_of_optax() -> None:
    """Its update takes the estimate after the first update of a period, from a function of its own."""
    given: dict[str, Any] = {}
    fixed = optax.GradientTransformation(lambda params: optax.EmptyState(), lambda g, s, p=None: (given["h"], s))
    with jax.enable_x64(True):
        tx = optax.contrib.sophia(
            1e-2, 0.9, 0.8, 1e-8, 0.1, gamma=0.5, clip_threshold=0.7, update_interval=EVERY, hessian_diagonal_fn=fixed
        )
        params = jax.tree.map(jnp.asarray, model())
        state, estimates, path = tx.init(params), iter(ESTIMATES), []
        for t, g in enumerate(GRADS):
            given["h"] = jax.tree.map(jnp.asarray, next(estimates) if t % EVERY == 0 else g)
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
            path.append({k: np.asarray(p) for k, p in params.items()})
    rule = tf.sophia(
        **HYPER, eps=1e-8, gamma=0.5, clip_threshold=0.7, estimator="hutchinson", estimate_after=True, debias=True
    )
    assert_close(list(of_ours(rule)), path)


def of_the_peer(name: str, **hyper: Any) -> list[dict[str, Any]]:
    import pytorch_optimizer

    params = {k: torch.tensor(p, requires_grad=True) for k, p in model().items()}
    peer = getattr(pytorch_optimizer, name)(params.values(), betas=(0.9, 0.8), weight_decay=0.1, **hyper)
    estimates, path = iter(ESTIMATES), []
    for t, g in enumerate(GRADS):
        for k, p in params.items():
            p.grad = torch.tensor(g[k])
        due = next(estimates) if t % peer.update_period == 0 else None
        peer.step(hessian=None if due is None else [torch.tensor(due[k]) for k in params])
        path.append({k: p.detach().numpy().copy() for k, p in params.items()})
    return path


def test_sophia_is_that_of_the_peer() -> None:
    rule = tf.sophia(**HYPER, gamma=1.0, clip_threshold=0.3, estimator="hutchinson")
    assert_close(list(of_ours(rule)), of_the_peer("SophiaH", lr=1e-2, p=0.3, update_period=EVERY))


def test_adahessian_is_that_of_the_peer() -> None:
    rule = tf.adahessian(lr=1e-2, b1=0.9, b2=0.8, eps=1e-8, weight_decay=0.1)
    assert_close(list(of_ours(rule)), of_the_peer("AdaHessian", lr=1e-2, eps=1e-8))


def test_gauss_newton_bartlett_squares_the_gradient_of_the_mean() -> None:
    of_squares = {k: 8 * g**2 for k, g in ESTIMATES[0].items()}
    results = []
    for estimate, more in ((ESTIMATES[0], {"batch_size": 8.0}), (of_squares, {"estimator": "hutchinson"})):
        results.append(run_reference(tf.sophia(**HYPER, **more), model(), [estimate, GRADS[0]])[-1])
    for k, x in results[0].items():
        np.testing.assert_allclose(x, results[1][k], rtol=1e-15, err_msg=k)


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(TypeError, match="estimator is 'gauss-newton-bartlett' or 'hutchinson', not 'hessian'"):
        tf.sophia(estimator="hessian")
    with pytest.raises(TypeError, match=r"sophia needs batch_size, .*in language models of tokens"):
        tf.sophia(lr=1e-4)
    assert "batch_size" not in tf.sophia(estimator="hutchinson").hyper


def test_a_loop_asks_the_state_which_call_is_due() -> None:
    """As the docstring says, in torch and under jit, with the same bits; the counts are those of updates."""
    rule = tf.sophia(lr=tf.warmup(1e-2, 5), every=2, batch_size=2)
    grads, estimates = gradients(5, dtype=np.float32), gradients(3, 777, np.float32)
    tensors = {k: torch.tensor(p, requires_grad=True) for k, p in model(np.float32).items()}
    optimizer = trainfn_torch.Optimizer(list(tensors.items()), rule)

    def step(g: Mapping[str, Any]) -> None:
        for k, p in tensors.items():
            p.grad = torch.tensor(g[k])
        optimizer.step()

    tx = trainfn_jax.transform(rule)
    params = jax.tree.map(jnp.asarray, model(np.float32))
    state = tx.init(params)

    @jax.jit
    def train(params: Any, state: Any, g: Any, h: Any) -> Any:
        state = jax.lax.cond(state.updates_left == 0, lambda s: tx.update(h, s, params)[1], lambda s: s, state)
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    for t, g in enumerate(grads):
        if optimizer.param_groups[0]["updates_left"] == 0:
            assert t % 2 == 0
            step(estimates[t // 2])
        step(g)
        params, state = train(params, state, g, estimates[t // 2])
        assert_same_bits(
            {k: p.detach().numpy() for k, p in tensors.items()}, {k: np.asarray(p) for k, p in params.items()}
        )
        assert int(state.count) == t + 1 == int(optimizer.param_groups[0]["updates"])
