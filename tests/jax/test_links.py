"""optax's links under optax's names: each against optax's, in float64 and under jit; chains of them as one program."""

from __future__ import annotations

import inspect
import operator
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainfn as tf
import trainfn_jax
from tests.bits import assert_same_bits
from tests.inputs import numbers
from trainfn_jax.step import step

transform = sys.modules["trainfn_jax.transform"]  # whose name in the package is the function's

SHAPES = {"w": (7, 5), "b": (5,)}
MASK = {"w": True, "b": False}


def halving(count: Any) -> Any:
    return 0.1 / (1 + count)


LINKS: tuple[tuple[str, tuple[Any, ...], dict[str, Any]], ...] = (
    ("clip", (0.3,), {}),
    ("clip_by_block_rms", (0.2,), {}),
    ("clip_by_global_norm", (0.5,), {}),
    ("adaptive_grad_clip", (0.1,), {}),
    ("centralize", (), {}),
    ("normalize_by_update_norm", (), {"scale_factor": 2.0}),
    ("contrib.normalize", (), {}),
    ("add_decayed_weights", (0.1,), {}),
    ("add_decayed_weights", (halving,), {}),
    ("add_decayed_weights", (0.1,), {"mask": MASK}),
    ("add_decayed_weights", (halving,), {"mask": lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree)}),
    ("scale_by_trust_ratio", (), {"trust_coefficient": 0.5}),
    ("trace", (0.9,), {}),
    ("trace", (0.9,), {"nesterov": True}),
    ("ema", (0.9,), {}),
    ("ema", (0.9,), {"debias": False}),
    ("scale", (-2.0,), {}),
    ("scale_by_schedule", (halving,), {}),
    ("scale_by_learning_rate", (0.1,), {}),
    ("scale_by_learning_rate", (halving,), {"flip_sign": False}),
    ("scale_by_learning_rate", (), {}),
    ("scale_by_adam", (), {}),
    ("scale_by_adam", (), {"nesterov": True, "eps_root": 1e-4}),
    ("scale_by_amsgrad", (), {}),
    ("scale_by_adamax", (), {}),
    ("scale_by_adan", (), {}),
    ("scale_by_belief", (), {}),
    ("scale_by_belief", (), {"nesterov": True}),
    ("scale_by_yogi", (), {}),
    ("scale_by_yogi", (), {"eps_root": 1e-3}),
    ("scale_by_radam", (), {"threshold": 0.5}),
    ("scale_by_radam", (), {"threshold": 0.5, "nesterov": True, "eps_root": 1e-3}),
    ("scale_by_rms", (), {}),
    ("scale_by_rms", (), {"eps_in_sqrt": False, "bias_correction": True}),
    ("scale_by_stddev", (), {"initial_scale": 1.0}),
    ("scale_by_stddev", (), {"initial_scale": 1.0, "bias_correction": True}),
    ("scale_by_rss", (), {}),
    ("scale_by_adadelta", (), {}),
    ("scale_by_lion", (), {}),
    ("scale_by_lion", (), {"mode": "refined"}),
    ("scale_by_novograd", (), {"weight_decay": 0.1}),
    ("scale_by_novograd", (), {"weight_decay": 0.1, "eps_root": 1e-2}),
    ("scale_by_sign", (), {}),
    ("scale_by_sm3", (), {}),
    ("scale_by_optimistic_gradient", (), {"beta": 0.5}),
    ("scale_by_polyak", (), {}),
    ("contrib.scale_by_acprop", (), {}),
    ("contrib.scale_by_ademamix", (), {}),
    ("contrib.scale_by_simplified_ademamix", (), {}),
    ("contrib.scale_by_adopt", (), {}),
    ("contrib.scale_by_cocob", (), {}),
    ("identity", (), {}),
    ("set_to_zero", (), {}),
    ("freeze", (MASK,), {}),
)
# optax has these without parameters, too, but would be given them by most loops.
NEEDS_PARAMS = {"adaptive_grad_clip", "add_decayed_weights", "scale_by_trust_ratio", "scale_by_novograd"}
NEEDS_PARAMS |= {"contrib.scale_by_cocob"}


def model(seed: int, dtype: Any = np.float32) -> dict[str, Any]:
    return {k: numbers(seed + i, shape, 3).astype(dtype) for i, (k, shape) in enumerate(SHAPES.items())}


def run(tx: Any, dtype: Any = np.float32, steps: int = 4, is_given_params: bool = True) -> tuple[list[Any], Any]:
    params = model(1, dtype)
    state = tx.init(params)
    update = jax.jit(tx.update)
    path = []
    for n in range(1, steps + 1):
        updates, state = update(model(10 * n, dtype), state, *([params] if is_given_params else []), value=0.5)
        path.append(updates)
        params = optax.apply_updates(params, updates)
    return path, state


def both(name: str) -> tuple[Any, Any]:
    return operator.attrgetter(name)(trainfn_jax), operator.attrgetter(name)(optax)


def assert_close(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for k in SHAPES:
            np.testing.assert_allclose(a[k], b[k], rtol=1e-11, atol=1e-12 * float(np.max(np.abs(b[k]))))


@pytest.mark.parametrize(("name", "args", "kwargs"), LINKS, ids=lambda x: x if isinstance(x, str) else "")
def test_link(name: str, args: Any, kwargs: Any) -> None:
    with jax.enable_x64(True):
        is_given = name in NEEDS_PARAMS
        ours, theirs = (run(optax.chain(make(*args, **kwargs)), np.float64, 4, is_given)[0] for make in both(name))
    assert_close(ours, theirs)


def test_muon() -> None:
    """Which takes matrices only."""
    ours = trainfn_jax.contrib.scale_by_muon()
    theirs = optax.contrib.scale_by_muon(weight_dimension_numbers={"w": optax.contrib.MuonDimensionNumbers()})
    params = {"w": model(1)["w"]}
    with jax.default_matmul_precision("float32"):
        got, expected = (tx.update(params, tx.init(params))[0]["w"] for tx in (ours, theirs))
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_madgrad() -> None:
    """Of which optax takes the root of the count in float32."""
    ours, theirs = (m.contrib.scale_by_madgrad(0.1) for m in (trainfn_jax, optax))
    with jax.enable_x64(True):
        got, expected = (run(optax.chain(tx), np.float64, 3)[0] for tx in (ours, theirs))
    for a, b in zip(got, expected, strict=True):
        for k in SHAPES:
            np.testing.assert_allclose(a[k], b[k], rtol=0, atol=1e-7 * float(np.max(np.abs(b[k]))))


def test_galore() -> None:
    """Whose signs of singular vectors are arbitrary, which does not matter before the second basis."""
    ours, theirs = (m.contrib.scale_by_galore(rank=2, scale=0.5) for m in (trainfn_jax, optax))
    with jax.enable_x64(True):
        got, expected = (run(optax.chain(tx), np.float64, 3, False)[0] for tx in (ours, theirs))
    for a, b in zip(got, expected, strict=True):
        for k in SHAPES:
            np.testing.assert_allclose(a[k], b[k], atol=1e-4)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in LINKS} | {"add_noise", "scale_by_rprop"}))
def test_signature(name: str) -> None:
    ours, theirs = (inspect.signature(make).parameters for make in both(name))
    for position, (argument, parameter) in enumerate(ours.items()):
        if (name, argument) != ("add_noise", "key"):  # optax warns without one, and takes 0
            assert parameter.default == theirs[argument].default, argument
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            assert list(theirs)[position] == argument


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16], ids=("float32", "bfloat16"))
def test_chain_is_the_chained_rule(dtype: Any) -> None:
    """With its bits, and optax's shape of state."""
    schedule = tf.warmup(0.1, steps=3)
    parts = (
        trainfn_jax.add_decayed_weights(0.1, mask=MASK),
        trainfn_jax.clip_by_global_norm(0.5),
        trainfn_jax.chain(trainfn_jax.trace(0.5), trainfn_jax.scale_by_adam()),
        trainfn_jax.scale_by_learning_rate(schedule),
    )
    tx = trainfn_jax.chain(*parts)
    rule = tf.chain(
        tf.coupled_weight_decay(lambda leaf: 0.1 if leaf.ndim > 1 else 0.0),
        tf.clip_by_global_norm(0.5),
        tf.negated(tf.sgd(lr=1.0, momentum=0.5)),
        tf.adam(lr=schedule, eps_root=0.0),
    )
    ours, state = run(tx, dtype)
    expected, flat = run(trainfn_jax.transform(rule), dtype)
    theirs, like = run(optax.chain(*parts), dtype)
    assert jax.tree.structure(state) == jax.tree.structure(like) == jax.tree.structure(tx.init(model(1, dtype)))
    assert state[1] == optax.EmptyState()
    assert [int(state[2][0].count), int(state[2][1].count), int(state[3].count)] == [4, 4, 4]
    for a, b in ((state[2][1].nu, flat.nu), (state[2][0].trace, flat.trace), *zip(ours, expected, strict=True)):
        assert_same_bits(*(jax.tree.map(lambda x: np.asarray(x, np.float32), x) for x in (a, b)))
    for k in SHAPES if dtype == np.float32 else ():  # in bfloat16 optax rounds between links
        np.testing.assert_allclose(ours[-1][k], theirs[-1][k], rtol=1e-5)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """How many programs an update runs."""

    def counted(tx: Any) -> int:
        calls = []
        monkeypatch.setattr(transform, "step", lambda *args: calls.append(args) or step(*args))
        tx.update(model(1), tx.init(model(1)), model(1))
        return len(calls)

    return counted


def test_what_is_ours_is_one_program(passes: Any) -> None:
    clip, adam, rate = trainfn_jax.clip(1.0), trainfn_jax.scale_by_adam(), trainfn_jax.scale_by_learning_rate(0.1)
    assert passes(trainfn_jax.chain(clip, adam, rate)) == 1
    assert passes(optax.chain(clip, adam, rate)) == 3
    assert passes(trainfn_jax.chain(trainfn_jax.chain(clip, adam), trainfn_jax.chain(rate))) == 1
    assert passes(trainfn_jax.chain(clip, adam, optax.zero_nans(), rate)) == 2
    other = trainfn_jax.transform(tf.sgd(momentum=0.9), state_dtype=jnp.bfloat16)
    assert passes(trainfn_jax.chain(clip, adam, other)) == 2
    low = trainfn_jax.chain(clip, other, clip)  # which takes on the other's options
    assert passes(low) == 1
    assert low.init(model(1))[1].trace["w"].dtype == jnp.bfloat16


def test_foreign_transformations_stand_where_they_are() -> None:
    def made(library: Any) -> Any:
        return library.chain(
            optax.zero_nans(),
            trainfn_jax.clip_by_global_norm(0.5),
            trainfn_jax.scale_by_adam(),
            optax.scale(2.0),
            trainfn_jax.scale_by_learning_rate(0.1),
        )

    ours, state = run(made(trainfn_jax))
    theirs, like = run(made(optax))
    assert jax.tree.structure(state) == jax.tree.structure(like)
    for a, b in zip(ours, theirs, strict=True):
        assert_same_bits(a, b, "updates")


def test_state_can_be_donated() -> None:
    """Also to what reads the count of every link."""
    tx = trainfn_jax.chain(trainfn_jax.trace(0.9), trainfn_jax.scale_by_adam())
    params = jax.tree.map(jnp.asarray, model(1))
    for state in (tx.init(params), tx.update(params, tx.init(params), params)[1]):
        jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)(state)


def test_chain_in_optaxs_tools() -> None:
    make = partial(trainfn_jax.chain, trainfn_jax.clip(1.0))
    tx = optax.inject_hyperparams(lambda rate: make(trainfn_jax.scale_by_learning_rate(rate)))(rate=0.1)
    params = model(1)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["b"], -0.1 * np.clip(params["b"], -1, 1), rtol=1e-6)
    masked = trainfn_jax.chain(trainfn_jax.add_decayed_weights(0.1, MASK), trainfn_jax.scale_by_adam())
    mapped = optax.tree_map_params(masked, lambda x: x + 1, masked.init(params))
    assert float(mapped[1].mu["b"][0]) == 1.0
    assert int(mapped[1].count) == 0
    assert int(optax.tree.get(masked.init(params), "count")) == 0
    assert len(trainfn_jax.chain().init(params)) == 0


def test_another_state_is_refused() -> None:
    tx = trainfn_jax.chain(trainfn_jax.clip(1.0), trainfn_jax.scale_by_adam())
    params = model(1)
    for state in (tx.init(params)[:1], tx.init(params)[1], (tx.init(params)[1], optax.EmptyState())):
        with pytest.raises(TypeError, match="make it with"):
            tx.update(params, state, params)
    mixed = trainfn_jax.chain(optax.zero_nans(), trainfn_jax.clip(1.0))
    with pytest.raises(TypeError, match="as many parts, not 1"):
        mixed.update(params, mixed.init(params)[:1], params)


# -- parts of the model ------------------------------------------------------------------------------------------------

LABELS = {"w": "adam", "b": "sgd"}


def by_labels(library: Any, inside: Any = trainfn_jax) -> Any:
    adam = inside.chain(inside.clip_by_global_norm(0.5), inside.adam(0.1))
    return library.partition({"adam": adam, "sgd": inside.sgd(0.1), "no leaf's": inside.lion(0.1)}, LABELS)


def test_partition(passes: Any) -> None:
    with jax.enable_x64(True):
        ours, state = run(by_labels(trainfn_jax), np.float64)
        assert_close(ours, run(by_labels(optax, optax), np.float64)[0])
    assert state.mu["b"] is None
    assert int(state.count) == 4
    assert passes(by_labels(trainfn_jax)) == 1
    low = trainfn_jax.transform(tf.sgd(momentum=0.9), state_dtype="bfloat16")
    assert passes(trainfn_jax.selective_transform(low, freeze_mask=MASK)) == 1
    foreign = trainfn_jax.partition({"adam": trainfn_jax.adam(0.1), "sgd": optax.sgd(0.1)}, lambda tree: LABELS)
    assert isinstance(foreign.init(model(1)), optax.PartitionState)


def test_partition_compiles_once() -> None:
    tx = by_labels(trainfn_jax)
    params = model(1)
    _, state = tx.update(params, tx.init(params), params)
    before = step._cache_size()
    tx.update(params, state, params)
    assert step._cache_size() == before


def test_a_label_that_nothing_has() -> None:
    tx = trainfn_jax.partition({"adam": trainfn_jax.adam(0.1)}, LABELS)
    with pytest.raises(ValueError, match="no transformation is called sgd; there are adam"):
        tx.init(model(1))


@pytest.mark.parametrize("mask", [MASK, lambda tree: MASK], ids=("tree", "function"))
def test_masked(mask: Any) -> None:
    with jax.enable_x64(True):
        ours, state = run(trainfn_jax.masked(trainfn_jax.adam(0.1), mask), np.float64)
        theirs, like = run(optax.masked(optax.adam(0.1), mask), np.float64)
        assert_close(ours, theirs)
    assert isinstance(state, optax.MaskedState)
    assert state.inner_state.mu["b"] is None
    tx = trainfn_jax.masked(trainfn_jax.adam(0.1), mask)
    optax.tree_map_params(tx, lambda x: x, tx.init(model(1)))
    foreign = trainfn_jax.masked(optax.adam(0.1), mask)
    assert jax.tree.structure(foreign.init(model(1))) == jax.tree.structure(like)


def test_selective_transform() -> None:
    with jax.enable_x64(True):
        ours, theirs = (
            run(library.selective_transform(library.adam(0.1), freeze_mask=MASK), np.float64)[0]
            for library in (trainfn_jax, optax)
        )
    assert_close(ours, theirs)
