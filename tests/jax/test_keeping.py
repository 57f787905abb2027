"""What is kept in memory because several of XLA's loops would compute it, and that the words counted are XLA's."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest

import trainfn as tf
import trainfn_jax
from tests.catalogue import BY_NAME
from tests.executions import extras
from trainfn.lowering import lower
from trainfn.program import Program
from trainfn.trace import Leaf
from trainfn_jax.keeping import kept, words

SHAPE = (256, 384)


def lowered(rule: tf.Rule) -> Program:
    program = rule.program(Leaf("w", SHAPE))
    return lower(program.keep(name for name in program.output if name != "p"))


@pytest.mark.parametrize("name", ["adamw", "rprop", "adabelief", "sgd_lookahead_late", "adamw_schedule_free"])
def test_words_are_those_of_xla(name: str) -> None:
    """With what is kept; adabelief would move three more without, schedule-free two."""
    rule = BY_NAME[name].rule()
    tx = trainfn_jax.transform(rule)
    params = jax.ShapeDtypeStruct(SHAPE, np.float32)
    state = jax.eval_shape(tx.init, params)

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params, **extras(rule, 0))
        return optax.apply_updates(params, updates), state

    compiled = jax.jit(update, donate_argnums=(0, 1)).lower(params, state, params).compile()
    moved = compiled.cost_analysis()["bytes accessed"] / 4 / np.prod(SHAPE)
    program = lowered(rule)
    reads_p = any(node.op == "input" and node.static == "p" for node in program.nodes)
    assert round(moved) == words(program, kept(program)) + (not reads_p)


@pytest.mark.parametrize("rule", [tf.sgd(momentum=0.9), tf.adamw(), tf.lamb(), tf.lion(), tf.adafactor()])
def test_nothing_is_kept_that_saves_nothing(rule: tf.Rule) -> None:
    assert not kept(lowered(rule))


def test_each_iteration_of_muon_costs_the_same() -> None:
    """Where none is kept each contains those before it."""

    def steps(n: int) -> int:
        program = lowered(tf.muon(steps=n))
        return words(program, kept(program))

    assert steps(5) - steps(4) == steps(4) - steps(3)
