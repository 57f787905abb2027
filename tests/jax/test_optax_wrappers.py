"""optax's wrappers under optax's names, each against optax's in float64 and under jit, and what is evaluated."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import trainfn as tf
import trainfn_jax
from tests.bits import assert_same_bits
from tests.jax.test_links import SHAPES, assert_close, both, halving, model
from trainfn_jax import eval_params

BAD = {"w": np.full(SHAPES["w"], np.nan), "b": np.zeros(SHAPES["b"])}


def run(tx: Any, grads: list[Any], dtype: Any = np.float64, values: Any = None) -> tuple[list[Any], Any]:
    """Parameters after each call, and the state."""
    params = jax.tree.map(jnp.asarray, model(1, dtype))
    state, path = tx.init(params), []
    update = jax.jit(tx.update)
    for n, g in enumerate(grads):
        extra = {} if values is None else {"value": values[n]}
        updates, state = update(g, state, params, **extra)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path, state


def gradients(n: int, dtype: Any = np.float64) -> list[Any]:
    return [model(10 * k, dtype) for k in range(1, n + 1)]


@pytest.fixture(autouse=True)
def _x64() -> Any:
    with jax.enable_x64(True):
        yield


def made(library: Any, name: str) -> Any:
    """The same recipe of both libraries."""
    contrib = library.contrib
    inner = library.chain(library.clip_by_global_norm(0.5), library.adam(halving))
    climb = library.chain(contrib.normalize(), library.sgd(0.2))
    return {
        "MultiSteps": lambda: library.MultiSteps(inner, 3, **({} if library is trainfn_jax else _ACCUMULATOR)),
        "MultiSteps sum": lambda: library.MultiSteps(
            inner, lambda n: 2 + n % 2, use_grad_mean=False, **({} if library is trainfn_jax else _ACCUMULATOR)
        ),
        "apply_if_finite": lambda: library.apply_if_finite(inner, 2),
        "sam": lambda: contrib.sam(inner, climb),
        "schedule_free": lambda: contrib.schedule_free(library.sgd(halving), halving, b1=0.8),
        "schedule_free, ours": lambda: contrib.schedule_free(library.sgd(_WARMUP), _WARMUP),
        "schedule_free_sgd": lambda: contrib.schedule_free_sgd(0.1, warmup_steps=3, weight_decay=0.1),
        "schedule_free_adamw": lambda: contrib.schedule_free_adamw(0.1, warmup_steps=3, weight_decay=0.1),
        "mechanize": lambda: contrib.mechanize(library.sgd(1.0, momentum=0.9), s_init=1e-2),
        "reduce_on_plateau": lambda: library.chain(
            library.sgd(0.1),
            contrib.reduce_on_plateau(
                factor=0.5, patience=2, cooldown=1, atol=0.05, accumulation_size=2, min_scale=0.2
            ),
        ),
    }[name]()


_ACCUMULATOR = {"accumulator_dtype": jnp.float64}
_WARMUP = tf.warmup(0.1, steps=3)
WITH_VALUES = [1.0, 0.9, 0.94, 0.91, 0.95, 0.93, 0.2, 0.1, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5, 0.9, 0.9, 0.9, 0.9]


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("MultiSteps", 1e-11),
        ("MultiSteps sum", 1e-11),
        ("sam", 1e-11),
        ("schedule_free", 1e-11),
        ("schedule_free, ours", 1e-11),
        ("schedule_free_sgd", 1e-6),  # whose warm-up optax computes in float32
        ("schedule_free_adamw", 1e-6),
        ("mechanize", 1e-11),
        ("reduce_on_plateau", 1e-11),
    ],
)
def test_wrapper(name: str, precision: float) -> None:
    n = 20 if name == "reduce_on_plateau" else 8
    values = WITH_VALUES if name == "reduce_on_plateau" else None
    (ours, _), (theirs, _) = (run(made(x, name), gradients(n), values=values) for x in (trainfn_jax, optax))
    start = model(1, np.float64)
    for a, b in zip(ours, theirs, strict=True):
        for k in SHAPES:
            moved = float(np.max(np.abs(b[k] - start[k])))
            np.testing.assert_allclose(a[k], b[k], rtol=0, atol=precision * moved)


def test_states_have_optaxs_fields() -> None:
    for name in ("MultiSteps", "apply_if_finite", "sam", "schedule_free", "mechanize"):
        ours, theirs = (made(x, name).init(model(1)) for x in (trainfn_jax, optax))
        lacking = set(theirs._fields) - set(ours._fields)
        assert not lacking, (name, lacking)
        inside = {"MultiSteps": "inner_opt_state", "apply_if_finite": "inner_state", "sam": "opt_state"}.get(name)
        if inside:
            assert isinstance(getattr(ours, inside), tuple), name
            assert getattr(ours, inside)[0] == optax.EmptyState()
            assert getattr(ours, inside)[1].mu.keys() == SHAPES.keys()


@pytest.mark.parametrize(
    "name",
    [
        "lookahead",
        "MultiSteps",
        "apply_if_finite",
        "partition",
        "multi_transform",
        "masked",
        "freeze",
        "selective_transform",
        "contrib.sam",
        "contrib.schedule_free",
        "contrib.schedule_free_sgd",
        "contrib.schedule_free_adamw",
        "contrib.schedule_free_eval_params",
        "contrib.mechanize",
        "contrib.reduce_on_plateau",
    ],
)
def test_signature(name: str) -> None:
    ours, theirs = (inspect.signature(make).parameters for make in both(name))
    for position, (argument, parameter) in enumerate(ours.items()):
        assert parameter.default == theirs[argument].default, argument
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            assert list(theirs)[position] == argument


def test_lookahead() -> None:
    tx = optax.lookahead(optax.adam(0.1), 3, 0.4)
    params = optax.LookaheadParams.init_synced(model(1, np.float64))
    state = tx.init(params)
    path, ours = run(trainfn_jax.lookahead(trainfn_jax.adam(0.1), 3, 0.4), gradients(8))
    for p, g in zip(path, gradients(8), strict=True):
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
        assert_close([p], [params.fast])
    assert_close([ours.slow], [params.slow])
    assert int(ours.fast_state.count) == 8
    with pytest.raises(TypeError, match="not LookaheadParams"):
        trainfn_jax.lookahead(trainfn_jax.adam(0.1), 3, 0.4).init(params)


def test_multi_steps_says_when_it_has_updated() -> None:
    tx = trainfn_jax.MultiSteps(trainfn_jax.sgd(0.1), 2)
    params, (g,) = model(1), gradients(1, np.float32)
    state, said = tx.init(params), []
    for _ in range(4):
        _, state = tx.update(g, state, params)
        said.append(bool(tx.has_updated(state)))
    assert said == [False, True, False, True]
    assert (int(state.gradient_step), int(state.inner_opt_state.count)) == (2, 2)
    assert isinstance(tx.gradient_transformation(), optax.GradientTransformation)
    chained = trainfn_jax.chain(trainfn_jax.clip(1.0), tx)  # itself a transformation, and part of one program
    assert isinstance(chained.init(params)[1], type(state))


def test_multi_steps_takes_weights() -> None:
    tx = trainfn_jax.MultiSteps(trainfn_jax.sgd(1.0), 2)
    params = {"w": jnp.zeros(3)}
    state = tx.init(params)
    for weight in (3.0, 1.0):
        updates, state = tx.update({"w": jnp.full(3, 2.0)}, state, params, weight=weight)
    np.testing.assert_array_equal(updates["w"], -np.ones(3))


def test_apply_if_finite() -> None:
    """Two errors in a row are skipped, and the third is not."""
    good = gradients(3)
    for grads in ([good[0], BAD, BAD, good[1], BAD, good[2]], [good[0], BAD, BAD, BAD]):
        (ours, state), (theirs, like) = (run(made(x, "apply_if_finite"), grads) for x in (trainfn_jax, optax))
        assert_close(ours, theirs)
        counts = ("notfinite_count", "total_notfinite", "last_finite")
        assert [float(getattr(state, k)) for k in counts] == [float(getattr(like, k)) for k in counts]
        assert int(state.inner_state[1].count) == int(like.inner_state[1][0].count)


def test_sam_knows_one_climb() -> None:
    for climb in (trainfn_jax.sgd(0.1), trainfn_jax.chain(trainfn_jax.contrib.normalize(), trainfn_jax.adam(0.1))):
        with pytest.raises(TypeError, match=r"climbs along chain\(contrib.normalize\(\), sgd\(rho\)\)"):
            trainfn_jax.contrib.sam(trainfn_jax.sgd(0.1), climb)


def test_what_is_not_ours_is_refused() -> None:
    for make in (
        lambda: trainfn_jax.lookahead(optax.sgd(0.1), 3, 0.5),
        lambda: trainfn_jax.MultiSteps(optax.sgd(0.1), 3),
        lambda: trainfn_jax.apply_if_finite(trainfn_jax.chain(optax.zero_nans(), trainfn_jax.sgd(0.1)), 3),
    ):
        with pytest.raises(TypeError, match=r"optax\.\w+ takes any"):
            make()


def test_states_cross_from_optax() -> None:
    """What optax's moments were, ours are, in a chain inside of a wrapper, and the other way round."""

    def tx(library: Any) -> Any:
        links = (library.clip_by_global_norm(0.5), library.scale_by_adam(), library.scale_by_learning_rate(halving))
        return library.MultiSteps(library.chain(*links), 2)

    params, rule = model(1), tf.adam()
    for here, there in ((optax, trainfn_jax), (trainfn_jax, optax)):
        _, state = run(tx(here), gradients(4, np.float32), np.float32)
        snapshot = trainfn_jax.convert.snapshot(state, rule, params)
        assert snapshot.updates == 2
        crossed = trainfn_jax.convert.filled(tx(there).init(params), snapshot, params)
        assert_same_bits(crossed.inner_opt_state[1].nu, state.inner_opt_state[1].nu)
        assert int(crossed.inner_opt_state[2].count) == int(crossed.gradient_step) == 2


# -- what is evaluated -------------------------------------------------------------------------------------------------


def test_schedule_free_is_evaluated_as_in_optax() -> None:
    name = "schedule_free"
    (ours, state), (theirs, like) = (run(made(x, name), gradients(5)) for x in (trainfn_jax, optax))
    expected = optax.contrib.schedule_free_eval_params(like, theirs[-1])
    got = trainfn_jax.contrib.schedule_free_eval_params(state, ours[-1])
    for k in SHAPES:
        np.testing.assert_allclose(got[k], expected[k], rtol=1e-5)
    assert_same_bits(eval_params(made(trainfn_jax, name), state, ours[-1]), got)
    with pytest.raises(TypeError, match="a state of schedule_free is due"):
        trainfn_jax.contrib.schedule_free_eval_params((state,), ours[-1])


AVERAGED = trainfn_jax.transform(tf.ema(tf.sgd(lr=0.1), decay=0.5))
AROUND: dict[str, Any] = {
    "alone": AVERAGED,
    "optax.chain": optax.chain(optax.clip(1.0), optax.chain(AVERAGED)),
    "chain": trainfn_jax.chain(trainfn_jax.clip(1.0), AVERAGED),
    "mixed": trainfn_jax.chain(optax.zero_nans(), trainfn_jax.clip(1.0), AVERAGED),
    "MultiSteps": optax.MultiSteps(AVERAGED, 1).gradient_transformation(),
    "ours": trainfn_jax.MultiSteps(AVERAGED, 1),
    "injected": optax.inject_hyperparams(lambda rate: optax.chain(optax.scale(rate), AVERAGED))(rate=1.0),
    "apply_if_finite": optax.apply_if_finite(AVERAGED, 2),
    "named": optax.named_chain(("clip", optax.clip(1.0)), ("averaged", AVERAGED)),
}


@pytest.mark.parametrize("name", AROUND)
def test_the_state_is_found_inside_of_others(name: str) -> None:
    path, state = run(AROUND[name], gradients(2, np.float32), np.float32)
    for which in (AVERAGED, tf.ema(tf.sgd(lr=0.1), decay=0.5)):
        got = jax.jit(lambda s, p, which=which: eval_params(which, s, p))(state, path[-1])
        before = model(1)
        for p in path:
            before = jax.tree.map(lambda x, y: 0.5 * x + 0.5 * y, before, p)
        for k in SHAPES:
            np.testing.assert_allclose(got[k], before[k], rtol=1e-5)


def test_the_state_is_found_inside_of_nnx() -> None:
    layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    tx = optax.chain(optax.clip(1.0), AVERAGED)
    optimizer = nnx.Optimizer(layer, tx, wrt=nnx.Param)
    start = nnx.state(layer, nnx.Param)
    optimizer.update(layer, jax.tree.map(jnp.ones_like, start))
    params = nnx.state(layer, nnx.Param)
    got = eval_params(AVERAGED, optimizer.opt_state, params)
    assert jax.tree.structure(got) == jax.tree.structure(params)
    for x, p in zip(jax.tree.leaves(got), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(x, p + 0.05, rtol=1e-6)


def test_no_state_or_several() -> None:
    params = model(1)
    with pytest.raises(TypeError, match=r"has the fields count, trace, mean, and this tuple"):
        eval_params(AVERAGED, optax.chain(optax.sgd(0.1)).init(params), params)
    two = optax.chain(AVERAGED, AVERAGED).init(params)
    with pytest.raises(ValueError, match="holds 2 states of sgd"):
        eval_params(AVERAGED, two, params)
    with pytest.raises(TypeError, match="of what stands inside of a transformation of optax, give that"):
        eval_params(optax.chain(AVERAGED), two, params)
