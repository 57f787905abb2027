"""optax's names for trainfn's rules: the same recipe, signature and state as the namesake."""

from __future__ import annotations

import inspect
from functools import partial
from operator import attrgetter
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
from trainfn_jax.vocabulary import ABSENT

NAMES = ("sgd", "adam", "adamw", "lion", "radam", "rmsprop", "adagrad")
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in NAMES),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("adamw", {"b1": 0.8, "weight_decay": 0.1}),
    ("radam", {"threshold": 4.5}),
    ("rmsprop", {"momentum": 0.9, "centered": True}),
    ("rmsprop", {"eps_in_sqrt": False, "initial_scale": 0.1}),
    ("adagrad", {"initial_accumulator_value": 1.0}),
    ("nadamw", {"weight_decay": 0.1}),
)
PARAMS = {"w": numbers(1, (7, 5), 3), "b": numbers(2, (5,), 3)}


def spelt(x: Any) -> str:
    """The name of a test; a function's is no address, which other processes would not have."""
    return str({k: "function" if callable(v) else v for k, v in x.items()} if isinstance(x, dict) else x)


def moved(tx: Any, params: Any = PARAMS) -> dict[str, Any]:
    start, state, dtype = params, tx.init(params), params["w"].dtype
    update = jax.jit(tx.update)
    for n in range(12):
        grads = {"w": numbers(10 + n, (7, 5), 3).astype(dtype), "b": numbers(40 + n, (5,), 3).astype(dtype)}
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return {k: np.asarray(params[k] - start[k]) for k in params}


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=spelt)
def test_namesake(name: str, settings: dict[str, Any]) -> None:
    """In float64; in float32 optax is off by 1e-5 in Adam's bias corrections."""
    schedule = optax.linear_schedule(0.1, 0.05, 8)
    with jax.enable_x64(True):
        params = {k: jnp.asarray(p, jnp.float64) for k, p in PARAMS.items()}
        ours = moved(getattr(trainfn_jax, name)(schedule, **settings), params)
        theirs = moved(getattr(optax, name)(schedule, **settings), params)
    for k in PARAMS:
        np.testing.assert_allclose(ours[k], theirs[k], atol=1e-12 * float(np.max(np.abs(theirs[k]))), rtol=0)


OF_MATRICES = {"w": True, "b": False}
# What optax computes of these in float32 is its decay rates, and the coefficients of muon.
OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("adafactor", {"weight_decay_rate": 0.1, "weight_decay_mask": OF_MATRICES, "min_dim_size_to_factor": 2}),
    ("adafactor", {"factored": False, "decay_offset": -3, "min_dim_size_to_factor": 2}),
    ("adafactor", {"clipping_threshold": None, "momentum": 0.9, "weight_decay_mask": OF_MATRICES}),
    ("lars", {"weight_decay": 0.1, "weight_decay_mask": OF_MATRICES}),
    ("contrib.muon", {"weight_decay": 0.1, "weight_decay_mask": OF_MATRICES}),
    ("contrib.muon", {"adaptive": True, "preconditioning": "schatten"}),
    ("contrib.muon", {"adaptive": True, "preconditioning": "aol", "consistent_rms": 0.2}),
)


@pytest.mark.parametrize(("name", "settings"), OPTIONS, ids=spelt)
def test_options(name: str, settings: dict[str, Any]) -> None:
    with jax.enable_x64(True):
        params = {k: jnp.asarray(p, jnp.float64) for k, p in PARAMS.items()}
        ours, theirs = (moved(attrgetter(name)(m)(0.01, **settings), params) for m in (trainfn_jax, optax))
    for k in PARAMS:
        np.testing.assert_allclose(ours[k], theirs[k], atol=1e-6 * float(np.max(np.abs(theirs[k]))), rtol=0)


# Beside what the rows of the catalogue say.
MASKED = {"weight_decay": 0.1, "mask": OF_MATRICES}
EXACT: tuple[tuple[str, dict[str, Any]], ...] = (
    ("adabelief", {"nesterov": True}),
    ("radam", {"nesterov": True, "eps_root": 1e-3}),
    ("lamb", {"eps_root": 1e-3, "weight_decay": 0.1}),
    ("novograd", {"eps_root": 0.5}),
    ("nadam", {"nesterov": False}),
    ("nadamw", {"nesterov": False, "mask": OF_MATRICES}),
    ("adadelta", {"weight_decay": 0.1, "weight_decay_mask": OF_MATRICES}),
    ("adadelta", {"weight_decay": lambda count: 0.1 / (1 + count)}),
    ("contrib.cocob", MASKED),
    ("contrib.dog", MASKED),
    ("contrib.dog", {"weight_decay": 0.1}),
    ("contrib.dowg", MASKED),
)


@pytest.mark.parametrize(("name", "settings"), EXACT, ids=spelt)
def test_options_to_the_last_digits(name: str, settings: dict[str, Any]) -> None:
    with jax.enable_x64(True):
        params = {k: jnp.asarray(p, jnp.float64) for k, p in PARAMS.items()}
        ours, theirs, plain = (
            moved(make(0.1, **given), params)
            for make, given in (
                (attrgetter(name)(trainfn_jax), settings),
                (attrgetter(name)(optax), settings),
                (attrgetter(name)(trainfn_jax), {}),
            )
        )
    for k in PARAMS:
        np.testing.assert_allclose(ours[k], theirs[k], atol=1e-12 * float(np.max(np.abs(theirs[k]))), rtol=0)
    assert any(np.max(np.abs(ours[k] - plain[k])) > 1e-6 * np.max(np.abs(plain[k])) for k in PARAMS)


OF_DTYPE = (
    ("sgd", {"momentum": 0.9}, "accumulator_dtype"),
    ("signum", {}, "accumulator_dtype"),
    ("lion", {}, "mu_dtype"),
    ("lion", {"mask": OF_MATRICES}, "mu_dtype"),
)


@pytest.mark.parametrize(("name", "settings", "argument"), OF_DTYPE, ids=spelt)
def test_the_dtype_of_the_one_array_there_is(name: str, settings: dict[str, Any], argument: str) -> None:
    """The state's, and the same updates as optax's, whose only rounding is the state's."""
    ours, theirs = (getattr(m, name)(0.1, **settings, **{argument: jnp.bfloat16}) for m in (trainfn_jax, optax))
    dtypes = [{x.dtype for x in jax.tree.leaves(tx.init(PARAMS)) if x.ndim} for tx in (ours, theirs)]
    assert dtypes == [{np.dtype(jnp.bfloat16)}] * 2
    state, own = theirs.init(PARAMS), ours.init(PARAMS)
    for n in range(2):
        grads = {"w": numbers(10 + n, (7, 5), 3), "b": numbers(40 + n, (5,), 3)}
        expected, state = theirs.update(grads, state, PARAMS)
        updates, own = ours.update(grads, own, PARAMS)
        for k in PARAMS:
            if n == 0:  # later ones are made of a state that optax rounds where it is added to
                np.testing.assert_allclose(updates[k], expected[k], rtol=1e-5, atol=1e-7)
    assert {x.dtype for x in jax.tree.leaves(own) if x.ndim} == {np.dtype(jnp.bfloat16)}


def test_what_is_not_taken_says_what_to_do() -> None:
    for call, message in (
        (lambda: trainfn_jax.adam(0.1, mu_dtype=jnp.bfloat16), r"adam: mu_dtype can only be None .*state_dtype="),
        (lambda: trainfn_jax.amsgrad(0.1, bias_correction_mu=False), "bias_correction_mu can only be True"),
        (lambda: trainfn_jax.lars(0.1, trust_ratio_mask=OF_MATRICES), "trust_ratio_mask .*partition"),
        (lambda: trainfn_jax.adafactor(0.1, dtype_momentum=jnp.bfloat16), "dtype_momentum.*state_dtype="),
        (lambda: trainfn_jax.contrib.adopt(0.1, clip_value_fn=len), "clip_value_fn: .*use_clipping"),
        (lambda: trainfn_jax.contrib.muon(0.1, mu_dtype=jnp.bfloat16), "muon: mu_dtype .*state_dtype="),
        (lambda: trainfn_jax.contrib.scale_by_muon(weight_dimension_numbers=1), "leaves of two axes"),
        (lambda: trainfn_jax.lion(0.1, mu_dtype=jnp.int8), "state_dtype = .* must be float32"),
        (lambda: trainfn_jax.scale_by_lion(mode="smooth"), "mode is 'hard' or 'refined' here, not 'smooth'"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    trainfn_jax.adam(0.1, mu_dtype=None)


def test_a_transformation_is_no_learning_rate() -> None:
    with pytest.raises(TypeError, match=r"adamw's learning_rate .*chain\(.*reduce_on_plateau\(\)\)"):
        trainfn_jax.adamw(trainfn_jax.contrib.reduce_on_plateau())
    tx = trainfn_jax.chain(trainfn_jax.adamw(1e-3), trainfn_jax.contrib.reduce_on_plateau())
    tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=1.0)


def test_a_schedule_of_optax_in_a_rule() -> None:
    tx = trainfn_jax.transform(tf.adamw(lr=optax.linear_schedule(0.1, 0.0, 10)))
    with pytest.raises(TypeError) as caught:
        tx.init(PARAMS)
    assert any("trainfn_jax.adamw(optax." in note for note in caught.value.__notes__)


@pytest.mark.parametrize(("name", "argument"), [("muon", "ns_steps"), ("galore", "rank")])
def test_inject_hyperparams_is_told_what_is_static(name: str, argument: str) -> None:
    make = getattr(trainfn_jax.contrib, name)
    with pytest.raises(TypeError, match=f"{name}: {argument} .*static_args='{argument}'"):
        optax.inject_hyperparams(make)(learning_rate=0.1).init(PARAMS)
    tx = optax.inject_hyperparams(make, static_args=argument)(learning_rate=0.1)
    jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)


def test_a_moment_is_found_as_in_optax() -> None:
    ours, theirs = (optax.tree.get(m.adamw(0.1).init(PARAMS), "mu") for m in (trainfn_jax, optax))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_absent_names_say_what_to_use() -> None:
    for module, name, message in (
        (trainfn_jax, "apply_every", "use trainfn_jax.MultiSteps"),
        (trainfn_jax.contrib, "sophia", r"use trainfn_jax\.transform\(trainfn\.sophia"),
        (trainfn_jax, "adamx", "has no attribute 'adamx'"),
    ):
        with pytest.raises(AttributeError, match=message):
            getattr(module, name)
    for name in ABSENT:
        assert hasattr(optax, name) or hasattr(optax.contrib, name)
        assert not hasattr(trainfn_jax, name)
        assert not hasattr(trainfn_jax.contrib, name)


def test_muon_names_the_preconditionings_it_has() -> None:
    with pytest.raises(TypeError, match="'frobenius', 'schatten' or 'aol', not 'spectral'"):
        moved(trainfn_jax.contrib.muon(0.01, preconditioning="spectral"))


def test_adadelta_without_a_learning_rate_descends() -> None:
    """optax's documentation says so; what it computes has the other sign."""
    ours, theirs = moved(trainfn_jax.adadelta()), moved(optax.adadelta(1.0))
    for k in PARAMS:
        np.testing.assert_allclose(ours[k], theirs[k], rtol=1e-5, atol=1e-12)


def test_rprop_steps_at_once() -> None:
    """While no gradient changes its sign optax's updates are these, one step late."""
    ours, theirs = trainfn_jax.rprop(0.01), optax.rprop(0.01)
    state, late = ours.init(PARAMS), theirs.init(PARAMS)
    before = jax.tree.map(jnp.zeros_like, PARAMS)
    for n in range(1, 5):
        grads = jax.tree.map(partial(np.multiply, np.float32(n)), PARAMS)
        updates, state = ours.update(grads, state, PARAMS)
        expected, late = theirs.update(grads, late, PARAMS)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), before, expected)
        before = updates


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_part_of_the_namesakes(name: str) -> None:
    ours, theirs = (inspect.signature(getattr(m, name)).parameters for m in (trainfn_jax, optax))
    assert ours["learning_rate"].annotation is optax.ScalarOrSchedule
    for position, (argument, parameter) in enumerate(ours.items()):
        assert theirs[argument].default == parameter.default
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            assert list(theirs)[position] == argument


@pytest.mark.parametrize("name", NAMES)
def test_state_fields_are_the_namesakes(name: str) -> None:
    settings = {"momentum": 0.9} if name == "sgd" else {}
    ours = getattr(trainfn_jax, name)(0.1, **settings).init(PARAMS)
    theirs = getattr(optax, name)(0.1, **settings).init(PARAMS)
    for field in ours._fields[1:]:
        if jax.tree.leaves(getattr(ours, field)):
            found = optax.tree.get(theirs, field)
            assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, getattr(ours, field))


def test_schedules_of_both_kinds_and_of_any_argument() -> None:
    a = moved(trainfn_jax.adamw(tf.linear(0.1, 0.05, 8), weight_decay=lambda count: 0.1))
    b = moved(trainfn_jax.adamw(optax.linear_schedule(0.1, 0.05, 8), weight_decay=0.1))
    for k in PARAMS:
        np.testing.assert_allclose(a[k], b[k], rtol=1e-3, atol=1e-6)


NESTED = {"layer": {"w": numbers(1, (7, 5), 3), "b": numbers(2, (5,), 3)}, "none": None, "w": numbers(3, (5,), 3)}
MASKS = {
    "tree": {"layer": {"w": True, "b": False}, "none": None, "w": np.bool_(True)},
    "prefix": {"layer": False, "none": True, "w": True},
    "all": True,
    "function": lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
    "nothing": None,
}


def moved_nested(tx: Any, params: Any) -> Any:
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(3):
        updates, state = update(jax.tree.map(lambda p: p * 0.3 + 0.1, params), state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_mask_is_the_namesakes(name: str, mask: Any) -> None:
    settings = {"weight_decay": lambda count: 0.5 / (count + 1), "mask": mask}
    with jax.enable_x64(True):
        params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), NESTED)
        ours, theirs = (moved_nested(getattr(m, name)(0.1, **settings), params) for m in (trainfn_jax, optax))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), ours, theirs)


def test_mask_is_a_function_of_the_leaf() -> None:
    """The same bits, and a state like any other's."""
    masked = trainfn_jax.adamw(0.1, weight_decay=0.5, mask=MASKS["tree"])
    rule = tf.adamw(0.1, weight_decay=lambda leaf: 0.0 if leaf.name == "layer/b" else 0.5)
    ours, expected = (jax.tree.leaves(moved_nested(tx, NESTED)) for tx in (masked, trainfn_jax.transform(rule)))
    assert_same_bits(dict(enumerate(expected)), dict(enumerate(ours)))  # type: ignore[arg-type]
    assert jax.tree.structure(masked.init(NESTED)) == jax.tree.structure(trainfn_jax.adamw(1).init(NESTED))
    assert np.all(optax.tree.map_params(masked, lambda x: x + 1, masked.init(NESTED)).mu["w"] == 1)


def test_a_mask_that_does_not_fit() -> None:
    tx = trainfn_jax.adamw(0.1, mask={"layer": True})
    with pytest.raises(ValueError, match=r"mask .*'layer'.* does not fit .*'w'"):
        tx.update(NESTED, tx.init(NESTED), NESTED)
    twice = {"a": {"b": jnp.ones(2)}, "a/b": jnp.ones(2)}
    tx = trainfn_jax.adamw(0.1, mask={"a": True, "a/b": False})
    with pytest.raises(ValueError, match="two leaves are called 'a/b'"):
        tx.update(twice, tx.init(twice), twice)


def test_a_function_of_the_leaf_taken_for_a_schedule() -> None:
    tx = trainfn_jax.adamw(0.1, weight_decay=lambda leaf: 0.0 if leaf.name == "b" else 0.1)
    with pytest.raises(AttributeError, match="name") as caught:
        tx.init(PARAMS)
    assert "adamw's weight_decay was called with the count" in caught.value.__notes__[0]


def test_help_says_what_arguments_are() -> None:
    for name in NAMES:
        doc = " ".join(getattr(trainfn_jax, name).__doc__.split())
        assert "a number, a 0-d array, a trainfn schedule or, as in optax, a function of the count" in doc
        assert f"trainfn_jax.transform(trainfn.{name}(" in doc
        assert ("mask says" in doc) == (name in ("adamw", "lion"))


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(TypeError, match=r"adamw: .*beta1.* its arguments are learning_rate, b1"):
        trainfn_jax.adamw(0.1, beta1=0.9)
    with pytest.raises(TypeError, match="missing a required argument: 'learning_rate'"):
        trainfn_jax.adamw()
    with pytest.raises(TypeError, match="mu_dtype can only be None"):  # which stands there in optax, too
        trainfn_jax.adamw(0.1, 0.9, 0.999, 1e-8, 0.0, 1e-4)


def test_public_names() -> None:
    public = {name for name, x in vars(trainfn_jax).items() if not name.startswith("_") and not inspect.ismodule(x)}
    assert {*public, "contrib", "convert"} == set(trainfn_jax.__all__)
    assert list(trainfn_jax.__all__) == sorted(trainfn_jax.__all__)
    for name in NAMES:
        assert getattr(trainfn_jax, name).__name__ == name
        assert getattr(trainfn_jax, name).__doc__


@pytest.mark.parametrize(
    ("function", "given", "argument"),
    [
        (trainfn_jax.contrib.mechanize, {"base_optimizer": trainfn_jax.sgd(1e-2)}, "num_betas"),
        (
            trainfn_jax.contrib.sam,
            {
                "optimizer": trainfn_jax.sgd(1e-2),
                "adv_optimizer": trainfn_jax.chain(trainfn_jax.contrib.normalize(), trainfn_jax.sgd(0.05)),
            },
            "sync_period",
        ),
    ],
    ids=["mechanize", "sam"],
)
def test_injected_numbers_that_are_not_taken(function: Any, given: dict[str, Any], argument: str) -> None:
    """inject_hyperparams makes arrays of them, which are traced in updates; optax's own cannot be jitted so."""
    injected, plain = moved(optax.inject_hyperparams(function)(**given)), moved(function(**given))
    for k in PARAMS:
        np.testing.assert_allclose(injected[k], plain[k], atol=1e-5 * float(np.max(np.abs(plain[k]))), rtol=0)
    with pytest.raises(TypeError, match=f"{argument} can only be"):
        optax.inject_hyperparams(function)(**given, **{argument: 3}).init(PARAMS)
