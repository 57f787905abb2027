"""Where gradient transformations are used: flax, optax's wrappers, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import trainfn as tf
import trainfn_jax
from tests.bits import assert_same_bits
from tests.inputs import numbers

PARAMS = {"kernel": numbers(1, (6, 4)), "bias": numbers(2, (4,))}
GRADS = [{"kernel": numbers(3 + n, (6, 4)), "bias": numbers(30 + n, (4,))} for n in range(4)]


def leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def train(tx: Any, grads: Any = GRADS, params: Any = PARAMS) -> tuple[Any, Any]:
    @jax.jit
    def step(params: Any, state: Any, g: Any) -> Any:
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    for g in grads:
        params, state = step(params, state, g)
    return params, state


def adamw() -> Any:
    return trainfn_jax.adamw(tf.cosine(peak=0.1, steps=9))


def assert_equal_trees(a: Any, b: Any) -> None:
    assert_same_bits(leaves(a), leaves(b))


class Model(nn.Module):
    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(2)(nn.BatchNorm(use_running_average=False)(nn.Dense(4)(x)))


class WithStatistics(TrainState):
    """As flax's imagenet example has it."""

    batch_stats: Any


@jax.jit
def train_step(state: WithStatistics, x: Any) -> WithStatistics:
    """The step of flax's examples."""

    def loss_fn(params: Any) -> Any:
        output, new = state.apply_fn({"params": params, "batch_stats": state.batch_stats}, x, mutable=["batch_stats"])
        return jnp.mean((output - 1.0) ** 2), new

    (_, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, batch_stats=new["batch_stats"])


def train_state(seed: int = 0) -> WithStatistics:
    model = Model()
    variables = model.init(jax.random.key(seed), jnp.ones((1, 6)))
    tx = trainfn_jax.chain(trainfn_jax.clip_by_global_norm(0.1), adamw())
    return WithStatistics.create(
        apply_fn=model.apply, params=variables["params"], tx=tx, batch_stats=variables["batch_stats"]
    )


def batch(n: int) -> Any:
    return numbers(50 + n, (8, 6))


def test_flax_train_state() -> None:
    """The step of the examples is the loop by hand."""
    state, by_hand = train_state(), train_state()
    opt_state = by_hand.tx.init(by_hand.params)
    params, batch_stats = by_hand.params, by_hand.batch_stats

    @jax.jit
    def step(params: Any, opt_state: Any, batch_stats: Any, x: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            variables = {"params": params, "batch_stats": batch_stats}
            output, new = by_hand.apply_fn(variables, x, mutable=["batch_stats"])
            return jnp.mean((output - 1.0) ** 2), new["batch_stats"]

        (_, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = by_hand.tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, new

    for n in range(3):
        state = train_step(state, batch(n))
        params, opt_state, batch_stats = step(params, opt_state, batch_stats, batch(n))
    assert state.step == 3
    assert_equal_trees((params, opt_state, batch_stats), (state.params, state.opt_state, state.batch_stats))
    assert jnp.any(state.params["Dense_0"]["kernel"] != by_hand.params["Dense_0"]["kernel"])


def test_a_flax_train_state_resumes_from_orbax(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    state = train_state()
    for n in range(3):
        state = train_step(state, batch(n))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
    with ocp.StandardCheckpointer() as checkpointer:
        resumed = checkpointer.restore(tmp_path / "state", train_state(1))
    for n in range(3, 5):
        state, resumed = train_step(state, batch(n)), train_step(resumed, batch(n))
    assert_equal_trees(state, resumed)


def test_an_nnx_optimizer_resumes_from_orbax(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    def made(seed: int) -> Any:
        model = nnx.Linear(6, 4, rngs=nnx.Rngs(seed))
        return model, nnx.Optimizer(model, adamw(), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, x: Any) -> None:
        optimizer.update(model, nnx.grad(lambda m: jnp.mean(m(x) ** 2))(model))

    straight, resumed = made(0), made(1)
    for n in range(3):
        step(*straight, batch(n))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.to_pure_dict(nnx.state(straight)))
    with ocp.StandardCheckpointer() as checkpointer:
        saved = checkpointer.restore(tmp_path / "state", nnx.to_pure_dict(nnx.state(resumed)))
    state = nnx.state(resumed)
    nnx.replace_by_pure_dict(state, saved)
    nnx.update(resumed, state)
    for n in range(3, 5):
        step(*straight, batch(n))
        step(*resumed, batch(n))
    assert_equal_trees(*(nnx.to_pure_dict(nnx.state(run)) for run in (straight, resumed)))


def test_nnx_optimizer() -> None:
    model = nnx.Linear(6, 4, rngs=nnx.Rngs(0))
    model.kernel[...], model.bias[...] = jnp.asarray(PARAMS["kernel"]), jnp.asarray(PARAMS["bias"])
    optimizer = nnx.Optimizer(model, adamw(), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, g: Any) -> None:
        grads = jax.tree.map(lambda x: x, nnx.state(model, nnx.Param))
        grads["kernel"][...], grads["bias"][...] = g["kernel"], g["bias"]
        optimizer.update(model, grads)

    for g in GRADS:
        step(model, optimizer, g)
    params, _ = train(adamw())
    assert_equal_trees(params, {"kernel": model.kernel[...], "bias": model.bias[...]})


def test_a_leaf_has_one_name_in_nnx() -> None:
    """`init` is given Variables, `update` raw arrays; a part of the model called `value` is no box."""

    class Model(nnx.Module):
        def __init__(self) -> None:
            self.layers = nnx.List([nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))])
            self.value = nnx.Linear(2, 2, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            return self.value(self.layers[0](x))

    asked: list[list[str]] = [[], []]

    def noted(calls: list[str], x: float) -> Any:
        def of_leaf(leaf: tf.Leaf) -> float:
            calls.append(leaf.name)
            return x

        return of_leaf

    model = Model()
    rule = tf.adagrad(lr=noted(asked[1], 0.1), initial_accumulator_value=noted(asked[0], 0.1))
    optimizer = nnx.Optimizer(model, trainfn_jax.transform(rule), wrt=nnx.Param)
    optimizer.update(model, nnx.grad(lambda m: jnp.sum(m(jnp.ones((1, 2)))))(model))
    names = ["layers/0/kernel", "value/bias", "value/kernel"]
    assert [sorted(set(calls)) for calls in asked] == [names, names]


def test_names_leave_out_boxes_only() -> None:
    class Attention(NamedTuple):
        key: Any
        value: Any

    boxed = {"kernel": nn.Partitioned({"a": 1.0, "b": None}, ("x",)), "attention": Attention(1.0, None)}
    expected = ["attention/key", "attention/value", "kernel/a", "kernel/b"]
    assert trainfn_jax.trees.names(boxed) == expected
    assert len(jax.tree.leaves(boxed, is_leaf=lambda x: x is None)) == len(expected)


def test_multi_steps_and_apply_if_finite() -> None:
    expected = train(adamw(), GRADS[::2])
    doubled = [g for g in GRADS[::2] for _ in range(2)]
    params, state = train(optax.MultiSteps(adamw(), every_k_schedule=2), doubled)
    assert_equal_trees(expected, (params, state.inner_opt_state))
    bad = {**GRADS[0], "bias": np.full(4, np.nan, np.float32)}
    params, state = train(optax.apply_if_finite(adamw(), 3), [GRADS[0], bad, GRADS[2]])
    assert_equal_trees(expected, (params, state.inner_state))


def test_masked_chain_and_partition() -> None:
    masked = optax.masked(adamw(), {"kernel": True, "bias": False})
    params, state = train(masked)
    expected, _ = train(adamw(), [{"kernel": g["kernel"]} for g in GRADS], {"kernel": PARAMS["kernel"]})
    assert_equal_trees({"kernel": params["kernel"]}, expected)
    assert optax.tree.get(state, "mu")["bias"] == optax.MaskedNode()

    chained, state = train(optax.chain(optax.clip(0.1), adamw(), optax.scale(0.5)))
    assert optax.tree.get(state, "count") == 4
    assert np.any(chained["bias"] != PARAMS["bias"])

    split = optax.partition({"a": adamw(), "b": trainfn_jax.sgd(0.1)}, {"kernel": "a", "bias": "b"})
    params, _ = train(split)
    assert_equal_trees({"kernel": params["kernel"]}, expected)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lion", "radam", "rmsprop", "adagrad"])
def test_inject_hyperparams(name: str) -> None:
    make = getattr(trainfn_jax, name)
    tx = optax.inject_hyperparams(make)(learning_rate=0.1)
    params, state = train(tx)
    assert state.hyperparams["learning_rate"] == np.float32(0.1)
    expected, _ = train(make(np.float32(0.1)))
    for k in PARAMS:
        np.testing.assert_allclose(params[k], expected[k], rtol=1e-4, atol=1e-6)
    scheduled = optax.inject_hyperparams(make)(learning_rate=optax.linear_schedule(0.1, 0.0, 10))
    assert train(scheduled)[1].hyperparams["learning_rate"] == np.float32(0.07)


def test_orbax(tmp_path: Path) -> None:
    import orbax.checkpoint as ocp

    params, state = train(adamw(), GRADS[:2])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", (params, state))
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, (params, state)))
    assert jax.tree.structure(restored) == jax.tree.structure((params, state))
    assert_equal_trees(restored, (params, state))


def test_flax_state_dict() -> None:
    from flax import serialization

    _, state = train(adamw(), GRADS[:2])
    restored = serialization.from_state_dict(adamw().init(PARAMS), serialization.to_state_dict(state))
    assert_equal_trees(restored, state)
