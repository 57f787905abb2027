"""Run in a process of its own with two CPU devices: sharded updates have the bits of unsharded ones.

python -m tests.jax.sharded_run
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import re
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import trainfn as tf
import trainfn_jax
from tests.bits import assert_same_bits
from tests.inputs import numbers

SHAPES = {"kernel": (64, 48), "bias": (48,)}
SPECS = {"kernel": PartitionSpec("x", None), "bias": PartitionSpec("x")}
RULES = {
    "adamw": tf.adamw(lr=tf.warmup_cosine(1e-2, 2, 9)),
    "clipped": tf.skip_if_not_finite(tf.chain(tf.clip_by_global_norm(0.1), tf.lion(lr=1e-3))),
}


def trained(rule: tf.Rule, placed: Any) -> dict[str, Any]:
    """Parameters and state after three updates, with the arrays `placed` on devices."""
    tx = trainfn_jax.transform(rule)

    @jax.jit
    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = placed({k: numbers(i, s) for i, (k, s) in enumerate(SHAPES.items())})
    state = tx.init(params)
    for n in range(3):
        grads = placed({k: numbers(10 * n + i, s) for i, (k, s) in enumerate(SHAPES.items())})
        text = update.lower(params, state, grads).compile().as_text()
        gathered = re.findall(r"all-gather[^\n]*f32\[(?:64,48|48)\]", text)
        assert not gathered, f"a whole leaf is gathered: {gathered}"
        params, state = update(params, state, grads)
    for leaf in jax.tree.leaves(state):
        if leaf.ndim:
            assert leaf.sharding.is_equivalent_to(params["kernel" if leaf.ndim == 2 else "bias"].sharding, leaf.ndim)
    return {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves((params, state)))}


def main() -> None:
    devices = jax.devices()
    assert len(devices) == 2
    for name, rule in RULES.items():
        expected = trained(rule, lambda tree: jax.tree.map(jax.numpy.asarray, tree))
        for axis_type in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((2,), ("x",), axis_types=(axis_type,))
            shardings = {k: NamedSharding(mesh, spec) for k, spec in SPECS.items()}
            with jax.set_mesh(mesh):
                actual = trained(rule, lambda tree, s=shardings: jax.device_put(tree, s))
            assert_same_bits(expected, actual, f"{name}, {axis_type}")
    print("same bits")


if __name__ == "__main__":
    main()
