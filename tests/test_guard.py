"""The rule that a training loop runs: means of summed gradients, what is skipped, what a scale does and what counts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
from trainfn import reference

INNER = tf.chain(tf.clip_by_global_norm(0.5, eps=1e-6), tf.adamw(lr=tf.warmup(peak=1e-2, steps=5)))
PARAMS = {"w": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.float32)}

# What becomes of the batches of a run.
BATCHES = st.lists(st.sampled_from(["good", "good", "infinite", "nan", "empty"]), min_size=1, max_size=12)


def _grads(n: int, kind: str) -> dict[str, Any]:
    rng = np.random.default_rng(n)
    grads = {k: rng.standard_normal(p.shape).astype(np.float32) for k, p in PARAMS.items()}
    if kind == "empty":
        return {k: np.zeros_like(g) for k, g in grads.items()}
    if kind != "good":
        grads["b"][1] = {"infinite": -np.inf, "nan": np.nan}[kind]
    return grads


def _apply(params: Any, updates: Any) -> Any:
    return {k: p + updates[k] for k, p in params.items()}


@given(BATCHES, st.integers(1, 3))
def test_it_is_the_inner_rule_on_the_means_that_are_finite(kinds: list[str], interval: int) -> None:
    """Weights and scales are powers of two here, so that dividing by them loses nothing."""
    machine = tf.loss_scale(interval=interval)
    rules = {"guard": tf.guard(INNER), "loss_scaled": tf.loss_scaled(INNER, interval=interval)}
    here = {k: (PARAMS, reference.init(rule, PARAMS)) for k, rule in rules.items()}
    params, state, scale = PARAMS, reference.init(INNER, PARAMS), machine.init()
    skipped = 0
    for n, kind in enumerate(kinds):
        means, weight = _grads(n, kind), 0.0 if kind == "empty" else 4.0
        sums = {k: g * np.float32(4.0) for k, g in means.items()}
        for k, rule in rules.items():
            factor = np.float32(here[k][1].model["loss_scale"]) if k == "loss_scaled" else np.float32(1.0)
            scaled = {name: g * factor for name, g in sums.items()}
            updates, after = reference.update(rule, here[k][1], scaled, here[k][0], weight=weight)
            here[k] = _apply(here[k][0], updates), after
        if kind == "good":
            updates, state = reference.update(INNER, state, means, params)
            params = _apply(params, updates)
        skipped = 0 if kind == "good" else skipped + 1
        if kind != "empty":
            scale, _ = machine(scale, kind == "good")
        for others, known in here.values():
            assert known.count == state.count
            assert known.model["skipped_in_a_row"] == skipped
            assert all(np.array_equal(others[k], params[k]) for k in params)
            for leaf in params:
                for field in ("m", "v"):
                    assert np.array_equal(known.leaves[leaf][field], state.leaves[leaf][field])
        model = here["loss_scaled"][1].model
        assert (model["loss_scale"], model["finite_in_a_row"]) == (scale.scale, scale.good)
    assert here["guard"][1].model["skipped"] == sum(kind != "good" for kind in kinds)


def test_the_norm_is_of_the_mean_before_clipping() -> None:
    grads = {k: g * np.float32(10 * 3) for k, g in _grads(0, "good").items()}
    _, state = reference.update(tf.guard(INNER), reference.init(tf.guard(INNER), PARAMS), grads, PARAMS, weight=10.0)
    mean = np.concatenate([g.ravel() for g in grads.values()]) / 10
    assert state.model["grad_norm"] == pytest.approx(np.linalg.norm(mean), rel=1e-6)
    assert state.model["grad_norm"] > 0.5


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"growth": 1.0}, "growth = 1.0 must be above 1"),
        ({"init_scale": math.inf}, "init_scale = inf must be at least floor"),
        ({"init_scale": 1.0, "floor": 2.0}, "init_scale = 1.0 must be at least floor = 2.0"),
        ({"floor": 0.0}, "a scale of 0 would never rise again"),
    ],
)
def test_numbers_without_sense(numbers: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tf.loss_scaled(INNER, **numbers)
