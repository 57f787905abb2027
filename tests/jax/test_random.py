"""Random numbers in JAX: what they depend on there, and odd places for them; `sharded_run` has sharded leaves."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainfn as tf
import trainfn_jax
from tests.bits import assert_same_bits
from tests.executions import run_reference
from tests.inputs import numbers
from trainfn import reference

RULE = tf.noisy_sgd(lr=0.1, seed=5)


def test_a_renamed_leaf_draws_the_numbers_of_its_new_name() -> None:
    params, grads = numbers(1, (3, 4)), numbers(2, (3, 4))
    tx = trainfn_jax.transform(RULE, rename=lambda path: path.replace("/", ".").replace("kernel", "weight"))
    tree = {"layers": [{"kernel": jnp.asarray(params)}]}
    updates, _ = tx.update({"layers": [{"kernel": jnp.asarray(grads)}]}, tx.init(tree), tree)
    named = {"layers.0.weight": params}
    expected, _ = reference.update(RULE, reference.init(RULE, named), {"layers.0.weight": grads}, named)
    np.testing.assert_array_equal(updates["layers"][0]["kernel"], expected["layers.0.weight"])


def test_functions_of_a_renamed_leaf_see_its_new_name() -> None:
    rule = tf.sgd(lr=lambda leaf: 1.0 if leaf.name == "new" else 0.0)
    tx = trainfn_jax.transform(rule, rename=lambda path: "new")
    assert float(tx.update(jnp.ones(()), tx.init(jnp.ones(())))[0]) == -1.0


def test_a_seed_may_be_traced_and_mapped() -> None:
    """A population of seeds, in one program: each has the numbers it has alone."""
    zeros = {"w": jnp.zeros(40)}

    def update(seed: Any) -> Any:
        tx = trainfn_jax.transform(tf.noisy_sgd(lr=1.0, seed=seed))
        return tx.update(zeros, tx.init(zeros), zeros)[0]["w"]

    together = jax.jit(jax.vmap(update))(jnp.arange(3))
    for seed in range(3):
        np.testing.assert_array_equal(together[seed], update(seed))


def test_what_is_no_word_counts_as_zero() -> None:
    """As in `trainfn.reference.word`; nobody can check a seed that is traced."""
    zeros = {"w": jnp.zeros(5)}

    def update(seed: Any) -> Any:
        tx = trainfn_jax.transform(tf.noisy_sgd(lr=1.0, seed=seed))
        return tx.update(zeros, tx.init(zeros), zeros)[0]["w"]

    for seed, word in ((5.9, 5), (-1.0, 0), (2.0**32, 0), (np.inf, 0), (np.nan, 0)):
        np.testing.assert_array_equal(jax.jit(update)(jnp.asarray(seed, jnp.float32)), update(word))


def test_a_key_of_optaxs_is_refused() -> None:
    for key in (jax.random.PRNGKey(0), jax.random.key(0)):
        with pytest.raises((TypeError, ValueError), match="seed"):
            trainfn_jax.noisy_sgd(0.1, key=key).init({"w": jnp.zeros(3)})


def test_complex_leaves_draw_for_each_part() -> None:
    params = {"w": (numbers(1, (5,)) + 1j * numbers(2, (5,))).astype(np.complex64)}
    grads = {"w": (numbers(3, (5,)) + 1j * numbers(4, (5,))).astype(np.complex64)}
    tx = trainfn_jax.transform(RULE)
    updates, _ = tx.update(jax.tree.map(jnp.asarray, grads), tx.init(params), params)
    pairs = [{"w": np.stack([x["w"].real, x["w"].imag], -1)} for x in (params, grads)]
    expected, _ = reference.update(RULE, reference.init(RULE, pairs[0]), pairs[1], pairs[0])
    np.testing.assert_array_equal(np.asarray(updates["w"]).view(np.float32).reshape(5, 2), expected["w"])


def test_strict_promotion_and_ranks() -> None:
    params, grads = {"w": numbers(1, (3, 4))}, [{"w": numbers(n, (3, 4))} for n in (2, 3)]
    tx = trainfn_jax.transform(RULE)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        state, p = tx.init(params), {"w": jnp.asarray(params["w"])}
        for g in grads:
            updates, state = tx.update({"w": jnp.asarray(g["w"])}, state, p)
            p = {"w": p["w"] + updates["w"]}
    assert_same_bits({"p": run_reference(RULE, params, grads)[-1]["w/p"]}, {"p": np.asarray(p["w"])}, "strict")


def test_what_leaves_share_is_computed_once() -> None:
    """Each leaf encrypts its counters; were the key's encryption repeated beside it, compiling could take minutes."""

    def exclusive_ors(leaves: int) -> int:
        tx = trainfn_jax.transform(RULE)
        params = {f"w{i}": jnp.ones((8, 4 + i)) for i in range(leaves)}
        compiled = jax.jit(tx.update).lower(params, tx.init(params), params).compile()
        return compiled.as_text().count(" xor(")

    of_an_encryption = 22  # one in each round, two for the key
    assert exclusive_ors(3) - exclusive_ors(1) < 2 * 1.5 * of_an_encryption
