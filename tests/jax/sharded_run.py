"""Run in a process of its own with two CPU devices: sharded updates have the bits of unsharded ones.

python -m tests.jax.sharded_run
"""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
os.environ["JAX_PLATFORMS"] = "cpu"

import itertools
import re
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import trainfn as tf
import trainfn_jax
from tests.bits import assert_same_bits
from tests.inputs import numbers
from trainfn.verbs import global_max, leaf_max, leaf_sum, square

SHAPES = {"kernel": (64, 48), "bias": (48,)}
SPECS = {"kernel": PartitionSpec("x", None), "bias": PartitionSpec("x")}
RULES = {
    "adamw": tf.adamw(lr=tf.warmup_cosine(1e-2, 2, 9)),
    "clipped": tf.skip_if_not_finite(tf.chain(tf.clip_by_global_norm(0.1), tf.lion(lr=1e-3))),
}

NOISY = tf.noisy_sgd(lr=1e-2, seed=3)


def trained(rule: tf.Rule, placed: Any) -> dict[str, Any]:
    """Parameters and state after three updates, with the arrays `placed` on devices."""
    tx = trainfn_jax.transform(rule)

    @jax.jit
    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = placed({k: numbers(i, s) for i, (k, s) in enumerate(SHAPES.items())})
    state = tx.init(params)
    compiled = update.lower(params, state, params).compile()
    gathered = re.findall(r"all-gather[^\n]*\w+\d\[(?:64,48|48)\]", compiled.as_text())
    assert not gathered, f"a whole leaf is gathered: {gathered}"
    for n in range(3):
        grads = placed({k: numbers(10 * n + i, s) for i, (k, s) in enumerate(SHAPES.items())})
        params, state = compiled(params, state, grads)
    for leaf in jax.tree.leaves(state):
        if leaf.ndim:
            assert leaf.sharding.is_equivalent_to(params["kernel" if leaf.ndim == 2 else "bias"].sharding, leaf.ndim)
    return as_arrays((params, state))


# -- shards that only the user knows of --------------------------------------------------------------------------------


@tf.rule
def by_leaf(g: tf.Array, *, lr: float = 0.1) -> Any:
    """Each leaf by its own size and its largest number, which may be negative."""
    return lr * g / (leaf_sum(square(g)) + 3.0) + leaf_max(g - 2.0) * g + global_max(-g)


@tf.rule
def what_is_left(g: tf.Array) -> Any:
    """A sum of which almost all cancels shows the grids, which depend on how many elements there are."""
    return leaf_sum(g) + 0.0 * g


MAPPED = {
    **RULES,
    "what is left": what_is_left(),
    "by leaf": tf.chain(by_leaf(), tf.skip_if_not_finite(tf.sgd(lr=1.0))),
}
# Which leaves are shards along the mesh axis: all, or one of two.
PLACES = {"all": dict(SPECS), "one": {**SPECS, "bias": PartitionSpec()}}


def mapped(rule: tf.Rule, specs: dict[str, Any], check_vma: bool, params: Any, state: Any) -> Any:
    """The rule's update inside shard_map."""
    tx = trainfn_jax.transform(rule, axis_name=lambda leaf: tuple(axis for axis in specs[leaf.name] if axis))
    like = jax.tree.structure(params)
    state_specs = jax.tree.map(
        lambda part: specs if jax.tree.structure(part) == like else PartitionSpec(),
        state,
        is_leaf=lambda part: jax.tree.structure(part) == like,
    )
    update = jax.shard_map(
        tx.update,
        mesh=jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,)),
        in_specs=(specs, state_specs, specs),
        out_specs=(specs, state_specs),
        check_vma=check_vma,
    )
    jitted = jax.jit(update)
    return lambda grads: as_arrays(jitted(grads, state, params))


def check_shard_map() -> None:
    plain = {k: numbers(7 + i, s) for i, (k, s) in enumerate(SHAPES.items())}
    broken = {**plain, "kernel": plain["kernel"].copy()}
    broken["kernel"][3, 5] = np.nan  # on one of two devices
    cancelling = {**plain, "kernel": numbers(9, SHAPES["kernel"], 3, 2.0**-70)}
    cancelling["kernel"][::16, :2] = [1.0, -1.0]
    params = {k: numbers(i, s) for i, (k, s) in enumerate(SHAPES.items())}
    for name, rule in MAPPED.items():
        tx = trainfn_jax.transform(rule)
        state = tx.init(params)
        streams = [(grads, as_arrays(tx.update(grads, state, params))) for grads in (plain, broken, cancelling)]
        for where, check_vma in itertools.product(PLACES, (True, False)):
            update = mapped(rule, PLACES[where], check_vma, params, state)
            for grads, expected in streams:
                assert_same_bits(expected, update(grads), f"{name}, sharded: {where}, check_vma={check_vma}")


def check_refusal() -> None:
    """Without `axis_name`: a norm of each shard is not what was asked for, and each device's own must be."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
    g = {"w": np.arange(1, 9, dtype=np.float32)}

    def mapped_update(tx: Any) -> Any:
        update = jax.shard_map(
            lambda g: tx.update(g, tx.init(g))[0], mesh=mesh, in_specs=PartitionSpec("x"), out_specs=PartitionSpec("x")
        )
        return jax.jit(update)(g)["w"]

    def update(**axis_name: Any) -> Any:
        return mapped_update(trainfn_jax.transform(tf.chain(tf.clip_by_global_norm(0.1), tf.sgd(lr=1.0)), **axis_name))

    with pytest.raises(ValueError, match="axis_name='x'"):
        update()
    for axis_name in (None, "x"):  # of a shard nobody says which part of the leaf it is
        with pytest.raises(ValueError, match="noisy_sgd draws random numbers for whole arrays"):
            mapped_update(trainfn_jax.transform(NOISY, axis_name))
    norm = np.linalg.norm(update(axis_name="x"))
    own = np.linalg.norm(update(axis_name=()).reshape(2, 4), axis=1)
    assert abs(norm - 0.1) < 1e-6, norm
    assert np.all(abs(own - 0.1) < 1e-6), own


def check_derivatives() -> None:
    """Through sums and maxima over shards as through those of the whole."""
    mesh, spec = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,)), PartitionSpec("x")
    g = np.float32([1, 2, -3, 4, 5, 0.5, 7, -8])

    def energy(axis_name: Any, wrap: Any) -> Any:
        tx = trainfn_jax.transform(tf.chain(tf.clip_by_global_norm(0.1), by_leaf()), axis_name)
        return lambda g: (wrap(lambda g: tx.update(g, tx.init(g))[0])(g) * g * g).sum()

    whole = jax.jit(jax.grad(energy(None, lambda f: f)))(g)
    sharded = jax.jit(jax.grad(energy("x", lambda f: jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec))))(g)
    np.testing.assert_allclose(sharded, whole, rtol=1e-5)


def as_arrays(tree: Any) -> dict[str, Any]:
    return {str(i): np.asarray(x) for i, x in enumerate(jax.tree.leaves(tree))}


def main() -> None:
    devices = jax.devices()
    assert len(devices) == 2
    for name, rule in {**RULES, "noisy": NOISY}.items():
        expected = trained(rule, lambda tree: jax.tree.map(jax.numpy.asarray, tree))
        for axis_type in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((2,), ("x",), axis_types=(axis_type,))
            shardings = {k: NamedSharding(mesh, spec) for k, spec in SPECS.items()}
            with jax.set_mesh(mesh):
                actual = trained(rule, lambda tree, s=shardings: jax.device_put(tree, s))
            assert_same_bits(expected, actual, f"{name}, {axis_type}")
    check_shard_map()
    check_refusal()
    check_derivatives()
    print("same bits")


if __name__ == "__main__":
    main()
