"""Run in a process of its own with eight devices: a model whose batches, or whose parameters too, lie over them.

python -m tests.jax.training_devices
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import trainfn as tf
from trainfn.training.loop import Every
from trainfn.training.recipe import Recipe
from trainfn_jax import named_leaves
from trainfn_jax.training import Functional, fit

RULE = tf.chain(tf.clip_by_global_norm(0.3), tf.ema(tf.adamw(lr=tf.warmup(peak=1e-2, steps=5)), decay=0.9))
RECIPE = Recipe(RULE, updates=6, batch_size=32, micro_batch_size=16, seed=3)


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 8)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32)


def params() -> Any:
    rng = np.random.default_rng(1)
    shapes = {"first": (8, 16), "last": (16, 8)}
    return {k: jnp.asarray(rng.standard_normal(shape).astype(np.float32) / 4) for k, shape in shapes.items()}


@jax.checkpoint
def hidden(first: Any, x: Any) -> Any:
    return jnp.tanh(x @ first)


def loss_fn(params: Any, part: Any, key: Any) -> Any:
    x, y = part
    logits = hidden(params["first"], x) @ params["last"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).sum(), len(y)


def run(sharding: Any, place: Any) -> Any:
    model = Functional(params() if place is None else jax.device_put(params(), place), loss_fn)
    result = fit(model, None, data(), RECIPE, evaluation=data(), every=Every(2, 3), sharding=sharding)
    return model.params, result


def main() -> None:
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",))
    rows, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    alone, there = run(None, None)
    place = {"first": rows, "last": whole}
    trained, result = run(rows, place)
    for name, x in named_leaves(trained).items():
        assert x.sharding.is_equivalent_to(place[name], x.ndim), (name, x.sharding)
        np.testing.assert_allclose(x, alone[name], 2e-4, 1e-6, err_msg=name)
    assert result.updates == there.updates == 6
    np.testing.assert_allclose(result.numbers["eval/loss"], there.numbers["eval/loss"], 1e-4)


if __name__ == "__main__":
    main()
