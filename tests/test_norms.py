"""What the catalogue's numbers do not show of rules that sum over leaf or model: zeros, beginnings, and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import trainfn as tf
from tests.inputs import numbers
from trainfn import reference


def _updates(rule: tf.Rule, params: Any, *grads: Any, **extras: float) -> list[Any]:
    state = reference.init(rule, params)
    path = []
    for g in grads:
        updates, state = reference.update(rule, state, g, params, **extras)
        params = {k: p + updates[k] for k, p in params.items()}
        path.append(updates)
    return path


ZERO, ONES = np.zeros(4, np.float32), np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("rule", "usual"),
    [
        (tf.trust_ratio(trust_coefficient=0.5), 0.5),
        (tf.lars(lr=1.0), -1e-3),
        (tf.lars(lr=1.0, separate_norms=True), -1e-3),
    ],
    ids=["trust_ratio", "lars", "lars_separate"],
)
def test_a_leaf_of_zeros_moves(rule: tf.Rule, usual: float) -> None:
    (updates,) = _updates(rule, {"zero": ZERO, "ones": ONES}, {"zero": ONES, "ones": ONES})
    assert set(abs(updates["zero"])) == {1.0}
    assert set(updates["ones"]) == {np.float32(usual)}


def test_clipping_a_leaf_of_zeros() -> None:
    for rule in (tf.clip_by_norm(), tf.clip_by_rms(), tf.normalize()):
        (updates,) = _updates(rule, {"p": ONES}, {"p": ZERO})
        assert not updates["p"].any()


@pytest.mark.parametrize("rule", [tf.prodigy(), tf.dadapt_adamw(), tf.dog(), tf.dowg(), tf.cocob()], ids=repr)
def test_estimates_survive_gradients_that_are_zero(rule: tf.Rule) -> None:
    waited, at_once = ({"p": ZERO}, {"p": ONES}), ({"p": ONES},)
    updates = [_updates(rule, {"p": ONES}, *grads)[-1]["p"] for grads in (waited, at_once)]
    assert all(np.isfinite(u).all() and (u < 0).all() for u in updates)


@pytest.mark.parametrize(("bound", "ratio"), [({}, 4.0), ({"max_param_norm": 6.0}, 3.0), ({"max_ratio": 2.5}, 2.5)])
def test_lambs_ratio_is_bounded(bound: dict[str, float], ratio: float) -> None:
    """|p| is 8 and |u| is 2."""
    (updates,) = _updates(tf.lamb(lr=1.0, eps=0.0, **bound), {"p": 4 * ONES}, {"p": ONES})
    np.testing.assert_allclose(updates["p"], -ratio, rtol=1e-6)


def test_dog_begins_with_its_distance() -> None:
    """r / |g|, |g| being 2."""
    for start, share in (("distance", 1.0), ("heuristic", 3.0)):
        (updates,) = _updates(tf.dog(start=start, start_value=0.5, eps=0.0), {"p": ONES}, {"p": ONES})
        assert set(updates["p"]) == {-0.25 * share}


def test_dog_begins_with_its_learning_rate() -> None:
    rule = tf.dog(start="learning_rate", start_value=0.25)
    waited, begun = _updates(rule, {"p": ZERO}, {"p": ZERO}, {"p": ONES})
    assert not waited["p"].any()
    assert set(begun["p"]) == {-0.25}


def test_polyaks_scaling_is_of_the_step() -> None:
    (updates,) = _updates(tf.polyak_sgd(scaling=0.5, lr=9.0), {"p": ZERO}, {"p": ONES}, value=2.0)
    assert set(updates["p"]) == {-0.25}  # 2 / |g|^2 = 0.5
    (updates,) = _updates(tf.polyak_sgd(lr=9.0), {"p": ZERO}, {"p": np.float32(1e-15) * ONES}, value=2.0)
    assert set(updates["p"]) == {-np.float32(9.0) * np.float32(1e-15)}


def test_caution_waits_where_all_disagree() -> None:
    momentum = tf.sgd(lr=1.0, momentum=0.9)
    for rule in (tf.cautious(momentum), tf.cautious(momentum, plus_one=True)):
        _, updates = _updates(rule, {"p": ONES}, {"p": ONES}, {"p": np.float32([-0.5, -0.5, -0.5, 0.0])})
        assert not updates["p"].any()


def test_decay_follows_the_schedule() -> None:
    lr = tf.linear(0.5, 0.25, 1)
    kinds = {"independent": tf.independent_weight_decay, "corrected": tf.corrected_weight_decay}
    for kind, shares in (("independent", (1.0, 0.5)), ("corrected", (0.5, 0.125))):
        rule = tf.chain(tf.sgd(lr=lr), kinds[kind](0.125, peak=0.5))
        first, second = _updates(rule, {"p": ONES}, {"p": ZERO}, {"p": ZERO})
        assert first["p"][0] == -0.125 * shares[0]
        assert second["p"][0] == -0.125 * shares[1] * (1 + first["p"][0])


def test_copies_of_parameters_are_copies() -> None:
    """optax keeps the parameters themselves, so that they cannot be donated together with the state."""
    import jax
    import optax

    import trainfn_jax

    for rule in (tf.prodigy(), tf.dog(), tf.dowg(), tf.cocob(), tf.mechanic(tf.sgd())):
        tx = trainfn_jax.transform(rule)

        def step(params: Any, state: Any, tx: Any = tx) -> Any:
            updates, state = tx.update(params, state, params)
            return optax.apply_updates(params, updates), state

        params = jax.numpy.asarray(numbers(1, (300,)))
        jax.block_until_ready(jax.jit(step, donate_argnums=(0, 1))(params, tx.init(params)))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("make", [lambda: tf.dog(start="here"), lambda: tf.polyak_sgd(variant="sps-")])
def test_unknown_options(make: Any) -> None:
    with pytest.raises(TypeError, match=r"'here'|'sps-'"):
        make().program()


def test_decay_needs_its_peak() -> None:
    with pytest.raises(TypeError, match="independent_weight_decay needs peak"):
        tf.independent_weight_decay(0.1)
