"""Parameters, gradients, states and summands that XLA knows: it would compute ahead, and regroup sums, across our edge.

Each leaf of the model has something else that XLA knows, and every result is added to numbers in the same jit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainfn as tf
import trainfn_jax
from tests.bits import differing
from tests.catalogue import ROWS, Row
from tests.inputs import loss, numbers, with_specials

SIZE = 300
SUMMANDS = (np.float32(0.1), np.float32(-0.7))
PARAMS = jnp.asarray(numbers(1, (SIZE,)))
GRADS = [jnp.asarray(with_specials(numbers(key, (SIZE,)), key)) for key in (2, 3)]
GRADS[0] = GRADS[0].at[0].set(-0.0)  # a first moment that starts with 0 is +0 after it


def training(tx: Any, params: Any, grads: Any) -> list[Any]:
    """Two updates from the beginning, all that they leave, and what becomes of it in the user's hands."""
    params = {
        "made": jnp.ones(SIZE),
        "closed over": PARAMS,
        "known gradient": params,
        "matrix": PARAMS[:12].reshape(4, 3),
    }
    state, results = tx.init(params), []
    for n, (g, known) in enumerate(zip(grads, GRADS, strict=True)):
        given = {"made": g, "closed over": g, "known gradient": known, "matrix": known[:12].reshape(4, 3)}
        updates, state = tx.update(given, state, params, value=loss(n))
        params = optax.apply_updates(params, updates)
        numbers_left = [x for x in jax.tree.leaves((updates, state)) if x.dtype == jnp.float32]
        results += [params, updates, state, [[x + number for number in SUMMANDS] for x in numbers_left]]
    return results


def assert_jit_changes_nothing(rule: tf.Rule) -> None:
    tx = trainfn_jax.transform(rule)
    eager = training(tx, PARAMS, GRADS)
    jitted = jax.jit(lambda params, grads: training(tx, params, grads))(PARAMS, GRADS)
    for (path, x), y in zip(jax.tree.leaves_with_path(eager), jax.tree.leaves(jitted), strict=True):
        assert not differing(x, y), f"{rule.name}: {jax.tree_util.keystr(path)}"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_rule(row: Row) -> None:
    assert_jit_changes_nothing(row.rule())


@tf.rule
def sum_with_a_number(g: tf.Array, *, lr: float = 1e-3) -> Any:
    """A rule that ends in a sum, as others in this repository end in products."""
    return g + lr


@pytest.mark.parametrize("lr", [1e-3, tf.linear(0.001, 0.5, 7)], ids=["number", "schedule"])
def test_a_rule_that_ends_in_a_sum(lr: Any) -> None:
    assert_jit_changes_nothing(sum_with_a_number(lr=lr))


@tf.rule
def absorbed(step: int, g: tf.Array, *, a: float = 0.0) -> Any:
    """The step is lost in the first sum, unless the second is taken before it."""
    return ((step + a) - 2.0**60) * g


def test_a_hyperparameter_made_in_the_jit() -> None:
    @jax.jit
    def update(count: Any) -> Any:
        tx = trainfn_jax.transform(absorbed(a=jnp.float32(2.0**60)))
        return tx.update(jnp.ones(3), tx.init(jnp.ones(3))._replace(count=count))[0]

    assert not np.any(update(jnp.int32(3)))
