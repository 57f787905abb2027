"""A rule as a gradient transformation: the same bits in every way JAX has of running it, and optax's contract."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import trainfn as tf
import trainfn_jax
from tests.bits import assert_same_bits
from tests.catalogue import BY_NAME
from tests.executions import run_jax, run_reference
from tests.inputs import numbers, with_specials
from trainfn import reference
from trainfn.verbs import full_like
from trainfn_jax.state import field_name

SHAPES = {"a": (5, 13), "b": (), "c": (300,)}
STEPS = 4
ROWS = [BY_NAME[name] for name in ("sgd_nesterov", "rmsprop_optax", "adamw_clipped")]
PARAMS = {k: numbers(i, s) for i, (k, s) in enumerate(SHAPES.items())}
PLAIN_GRADS = [{k: numbers(9 * n + i, s) for i, (k, s) in enumerate(SHAPES.items())} for n in range(STEPS)]
GRADS = [{k: with_specials(g, n) for k, g in grads.items()} for n, grads in enumerate(PLAIN_GRADS)]
STACKED = {k: jnp.stack([g[k] for g in GRADS]) for k in SHAPES}


def expected(rule: tf.Rule, grads: Any = GRADS) -> dict[str, Any]:
    return run_reference(rule, PARAMS, grads)[-1]


def flat(rule: tf.Rule, params: Any, state: Any) -> dict[str, Any]:
    """Parameters and state of rules that have arrays only, as `run_reference` names them."""
    out = {"count": np.int64(state.count)}
    for leaf, shape in SHAPES.items():
        out |= {f"{leaf}/p": np.asarray(params[leaf]), f"{leaf}/step": np.int64(state.count)}
        for f in rule.fields_of(tf.Leaf(leaf, shape)):
            out[f"{leaf}/{f.name}"] = np.asarray(getattr(state, field_name(rule, f))[leaf])
    return out


def one_step(tx: Any, params: Any, state: Any, g: Any) -> Any:
    updates, state = tx.update(g, state, params)
    return optax.apply_updates(params, updates), state


# -- ways of running --------------------------------------------------------------------------------------------------


def scanned(tx: Any) -> Any:
    def body(carry: Any, g: Any) -> Any:
        return one_step(tx, *carry, g), None

    return jax.jit(lambda: lax.scan(body, (PARAMS, tx.init(PARAMS)), STACKED)[0])()


def all_in_one_jit(tx: Any) -> Any:
    """Init inside, steps one after the other: XLA knows every count."""

    @jax.jit
    def run(params: Any, grads: Any) -> Any:
        state = tx.init(params)
        for g in grads:
            params, state = one_step(tx, params, state, g)
        return params, state

    return run(PARAMS, GRADS)


def donated(tx: Any) -> Any:
    step = jax.jit(partial(one_step, tx), donate_argnums=(0, 1))
    params = jax.tree.map(lambda x: jnp.array(x), PARAMS)
    state = tx.init(params)
    for g in GRADS:
        params, state = step(params, state, g)
    return params, state


def vmapped(tx: Any) -> Any:
    """Two models at once, of which the first is ours."""
    double = partial(jax.tree.map, lambda x: jnp.stack([x, -x]))
    step = jax.jit(jax.vmap(partial(one_step, tx)))
    params, state = double(PARAMS), jax.vmap(tx.init)(double(PARAMS))
    for g in GRADS:
        params, state = step(params, state, double(g))
    return jax.tree.map(lambda x: x[0], (params, state))


def rematerialised(tx: Any) -> Any:
    step = jax.jit(jax.checkpoint(partial(one_step, tx)))
    params, state = PARAMS, tx.init(PARAMS)
    for g in GRADS:
        params, state = step(params, state, g)
    return params, state


def without_jit(tx: Any) -> Any:
    with jax.disable_jit():
        return one_step(tx, PARAMS, tx.init(PARAMS), GRADS[0])


@pytest.mark.parametrize("run", [scanned, all_in_one_jit, donated, vmapped, rematerialised], ids=lambda f: f.__name__)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_same_bits(row: Any, run: Any) -> None:
    rule = row.rule()
    assert_same_bits(expected(rule), flat(rule, *run(trainfn_jax.transform(rule))), run.__name__)


def test_same_bits_op_by_op() -> None:
    rule = ROWS[-1].rule()
    assert_same_bits(expected(rule, GRADS[:1]), flat(rule, *without_jit(trainfn_jax.transform(rule))))


def test_same_bits_with_strict_settings() -> None:
    rule = ROWS[0].rule(lr=tf.cosine(peak=0.1, steps=9))
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.checking_leaks(),
        jax.enable_checks(True),
    ):
        result = scanned(trainfn_jax.transform(rule))
    assert_same_bits(expected(rule), flat(rule, *result))


def test_debug_nans_sees_none() -> None:
    with jax.debug_nans(True):
        run_jax("jit", ROWS[-1].rule(lr=tf.exponential(start=0.1, decay=0.9)), PARAMS, PLAIN_GRADS)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_product_in_low_precision_is_rounded_first(dtype: Any) -> None:
    """A gradient computed in bfloat16 in the same jit: XLA would hand it on in float32."""
    tx = trainfn_jax.transform(tf.sgd(lr=0.1, momentum=0.9))
    x, y = (jnp.asarray(numbers(key, (300,), 2), dtype) for key in (1, 2))
    state = tx.init({"w": x})._replace(trace={"w": y})

    def update(g: Any) -> Any:
        return tx.update({"w": g}, state)[1].trace["w"]

    assert np.array_equal(jax.jit(lambda x, y: update(x * y))(x, y), update(x * y))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_roundings_to_low_precision_stay(dtype: Any) -> None:
    """XLA's GPU code drops a rounding that is widened again, so that a pin reads each; its CPU code leaves them."""
    tx = trainfn_jax.transform(tf.adamw())
    params = {"w": jnp.ones(3, dtype)}
    equations = jax.make_jaxpr(tx.update)(params, tx.init(params), params).eqns
    narrowing = [e for e in equations if e.primitive.name == "convert_element_type" and e.params["new_dtype"] == dtype]
    assert len(narrowing) >= 3, "the update and two moments"
    for rounding in narrowing:
        readers = [e for e in equations if any(x is rounding.outvars[0] for x in e.invars)]
        assert [e.primitive.name for e in readers] == ["pin"]
    pinned = [e.outvars[0] for e in equations if e.primitive.name == "pin"]
    widening = [e for e in equations if e.primitive.name == "convert_element_type" and e.invars[0].aval.dtype == dtype]
    assert len(widening) >= 4, "the gradient, the parameter and two moments"
    assert all(any(e.invars[0] is x for x in pinned) for e in widening)


def test_the_wider_of_gradient_and_parameter_is_computed_in() -> None:
    rule = tf.adamw(lr=0.1, weight_decay=0.3)
    with jax.enable_x64(True):
        p, g = ({"w": numbers(key, (300,)).astype(np.float64)} for key in (1, 2))
        p = {"w": p["w"] * 1.1}  # more digits than float32 has
        narrow = jax.tree.map(np.float32, g)
        tx = trainfn_jax.transform(rule)
        updates, state = tx.update(narrow, tx.init(p), p)
        want, after = tx.update(g, tx.init(p), p)
        assert updates["w"].dtype == np.float32
        assert state.mu["w"].dtype == np.float64
        assert_same_bits({"w": np.asarray(want["w"]).astype(np.float32)}, updates)
        assert_same_bits(after.mu, state.mu)


class Last(NamedTuple):
    x: tf.LeafScalar


@tf.rule
def scaled(step: Any, state: Last, g: tf.Array, *, a: float = 0.0) -> Any:
    """Multiplies by a number known at the step only, and stores it."""
    return step * a * g, Last(step * a)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scalars_round_up_to_the_smallest_normal_number(sign: float) -> None:
    """XLA takes what is a hair smaller for subnormal, and that is zero: where it meets an array, and where stored."""
    smallest, zeros, g = 2.0**-126, {"w": np.zeros(2, np.float32)}, {"w": np.full(2, 2.0**30, np.float32)}
    for below, rounded in ((0.5, 1), (0.75, 1), (1.0, 1), (1.0001, 0), (3.0, 0)):
        rule = scaled(a=sign * (smallest - below * 2.0**-150))
        grads = [g, g]  # the step is 0, and then 1
        expected = run_reference(rule, zeros, grads)[-1]
        assert abs(expected["w/x"]) == rounded * smallest
        assert_same_bits(expected, run_jax("jit", rule, zeros, grads)[-1])


def test_scalars_are_computed_once() -> None:
    """However many leaves there are: no loop over a leaf contains a bias correction."""

    def operations_on_float64(leaves: int) -> int:
        tx = trainfn_jax.transform(tf.adamw())
        params = {str(i): jnp.ones((8, 8)) for i in range(leaves)}
        return jax.jit(tx.update).lower(params, tx.init(params), params).compile().as_text().count("f64[] ")  # type: ignore[no-any-return]

    assert operations_on_float64(2) == operations_on_float64(5) > 20


def test_grids_are_computed_once() -> None:
    """However many leaves there are: no loop over a leaf contains a power of two."""

    def shifts(leaves: int) -> int:
        tx = trainfn_jax.transform(tf.chain(tf.clip_by_global_norm(), tf.sgd()))
        params = {str(i): jnp.ones((8, 8)) for i in range(leaves)}
        return jax.jit(tx.update).lower(params, tx.init(params), params).compile().as_text().count("shift-left(")  # type: ignore[no-any-return]

    assert shifts(2) == shifts(5) > 0


# -- hyperparameters ---------------------------------------------------------------------------------------------------


def test_arrays_are_the_numbers_they_hold() -> None:
    lr, b2 = np.float32(0.01), np.float32(0.99)
    tx = trainfn_jax.transform(tf.adamw(lr=jnp.asarray(lr), b2=jnp.asarray(b2)))
    rule = tf.adamw(lr=float(lr), b2=float(b2))
    assert_same_bits(expected(rule), flat(rule, *donated(tx)))


def test_population() -> None:
    lrs = np.array([0.1, 0.02], np.float32)

    @jax.jit
    @jax.vmap
    def train(lr: Any) -> Any:
        tx = trainfn_jax.transform(tf.adam(lr=lr))
        return one_step(tx, PARAMS, tx.init(PARAMS), GRADS[0])

    results = train(lrs)
    for i, lr in enumerate(lrs):
        rule = tf.adam(lr=float(lr))
        assert_same_bits(expected(rule, GRADS[:1]), flat(rule, *jax.tree.map(lambda x, i=i: x[i], results)))


def test_functions_of_the_leaf() -> None:
    def decay(leaf: tf.Leaf) -> float:
        return 0.1 if leaf.ndim >= 2 else 0.0

    def lr(leaf: tf.Leaf) -> Any:
        return tf.cosine(peak=0.1, steps=9) * (0.5 if leaf.name == "c" else 1.0)

    rule = tf.adamw(lr=lr, weight_decay=decay)
    assert_same_bits(expected(rule), flat(rule, *donated(trainfn_jax.transform(rule))))
    assert trainfn_jax.trees.names({"x": [{"y": 1.0}]}) == ["x/0/y"]


def test_derivatives() -> None:
    """Pins and reductions are transparent to derivatives, which are those of optax's formulas."""
    params, grads = {"w": jnp.array([0.5, -2.0])}, {"w": jnp.array([0.3, 0.7])}

    def loss(make: Any, hyper: Any) -> Any:
        tx = make(hyper)
        return jnp.sum(one_step(tx, params, tx.init(params), grads)[0]["w"] ** 2)

    def ours(h: Any) -> Any:
        return trainfn_jax.transform(tf.chain(tf.clip_by_global_norm(h["clip"]), tf.adamw(h["lr"], h["b1"])))

    def theirs(h: Any) -> Any:
        adamw = optax.adamw(h["lr"], b1=h["b1"], weight_decay=1e-2)
        return optax.chain(optax.clip_by_global_norm(h["clip"]), adamw)

    hyper = {"lr": 0.1, "b1": 0.8, "clip": 0.5}
    a, b = (jax.grad(partial(loss, make))(hyper) for make in (ours, theirs))
    for name in hyper:
        np.testing.assert_allclose(a[name], b[name], rtol=2e-4, atol=1e-6)


# -- what a rule can ask for and do ------------------------------------------------------------------------------------


class Totals(NamedTuple):
    best: tf.ModelPair
    norm: tf.LeafScalar
    start: tf.Array

    @staticmethod
    def init(p: Any) -> Totals:
        return Totals(1e10, 0.0, p)


@tf.rule
def everything(state: Totals, g, p, value, *, lr=0.1):  # type: ignore[no-untyped-def]
    """A rule with each sort of state, a copy of p, and the loss."""
    best = tf.verbs.minimum(state.best, value)
    norm = state.norm + tf.verbs.leaf_norm(g)
    largest = tf.verbs.leaf_max(-g)
    return -lr * (g + largest * (p - state.start)) / (norm + best), Totals(best, norm, state.start)


def test_each_sort_of_state_and_an_extra() -> None:
    rule = everything()
    tx = trainfn_jax.transform(rule)
    reference_state, params = tf.reference.init(rule, PARAMS), dict(PARAMS)
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    assert state.start["a"] is not PARAMS["a"]
    for n, g in enumerate(PLAIN_GRADS):
        value = np.float32(1.1 / (n + 1))
        want, reference_state = tf.reference.update(rule, reference_state, g, params, value=float(value))
        got, state = update(g, state, params, value=value, unknown=1)
        assert_same_bits(want, got)
        for k in SHAPES:
            assert float(state.norm[k]) == reference_state.leaves[k]["norm"]
        assert [float(x) for x in state.best] == [reference_state.model["best.high"], reference_state.model["best.low"]]
        params = {k: np.asarray(p + want[k]) for k, p in params.items()}


def test_a_missing_extra_is_named() -> None:
    tx = trainfn_jax.transform(everything())
    with pytest.raises(TypeError, match=r"value=\.\.\."):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_an_extra_is_one_number() -> None:
    tx = trainfn_jax.transform(everything())
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=r"value must be one number, not an array of shape \(3,\)"):
        tx.update(PARAMS, state, PARAMS, value=jnp.ones(3))
    a, b = (tx.update(PARAMS, state, PARAMS, value=x)[0] for x in (0.5, jnp.full((1, 1), 0.5)))
    assert_same_bits(a, b)


def test_a_loss_given_as_a_number_keeps_its_bits() -> None:
    @tf.rule
    def weighted(value, g):  # type: ignore[no-untyped-def]
        return -g * (1 - value) ** 20

    grads = {"w": np.float32([1, 3, 7, 11, 13])}
    expected, _ = reference.update(weighted(), reference.init(weighted(), grads), grads, grads, value=0.37)
    tx = trainfn_jax.transform(weighted())
    for loss in (0.37, np.float64(0.37)):
        assert_same_bits(expected, tx.update(grads, tx.init(grads), grads, value=loss)[0])


def test_zeros_of_both_signs_are_two_hyperparameters() -> None:
    @tf.rule
    def filled(g, *, c):  # type: ignore[no-untyped-def]
        return full_like(g, c)

    grads = {"a": np.ones(2, np.float32), "b": np.ones(2, np.float32)}
    for given in ({"a": 0.0, "b": 0.0}, {"a": -0.0, "b": -0.0}, {"a": 0.0, "b": -0.0}):
        tx = trainfn_jax.transform(filled(c=lambda leaf, given=given: given[leaf.name]))
        updates, _ = tx.update(grads, tx.init(grads), grads)
        assert [bool(np.signbit(updates[k][0])) for k in "ab"] == [bool(np.signbit(given[k])) for k in "ab"]


def test_a_skipped_update_changes_nothing() -> None:
    tx = trainfn_jax.transform(tf.skip_if_not_finite(tf.adamw(lr=0.1)))
    params, state = one_step(tx, PARAMS, tx.init(PARAMS), {k: numbers(1, s) for k, s in SHAPES.items()})
    bad = {**{k: jnp.ones(s) for k, s in SHAPES.items()}, "c": jnp.full(300, jnp.inf)}
    updates, after = jax.jit(tx.update)(bad, state, params)
    assert all(np.all(np.signbit(u)) and not np.any(u) for u in updates.values())
    assert_same_bits(dict(enumerate(jax.tree.leaves(state))), dict(enumerate(jax.tree.leaves(after))))  # type: ignore[arg-type]


# -- optax's contract --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_one_compilation_and_stable_dtypes(dtype: Any) -> None:
    tx = trainfn_jax.transform(tf.chain(tf.clip_by_global_norm(), tf.adam(lr=tf.linear(0.1, 0.0, 9))))
    params = {"a": jnp.asarray(PARAMS["a"], dtype)}
    state = before = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(3):
        updates, state = update(params, state, params)
        assert jax.tree.map(lambda x: x.aval, state) == jax.tree.map(lambda x: x.aval, before)
        assert updates["a"].dtype == dtype
    assert update._cache_size() == 1
    lax.cond(True, lambda s: tx.update(params, s, params)[1], lambda s: s, state)


@pytest.mark.parametrize("x64", [False, True])
def test_numbers_from_outside_have_the_dtype_jax_gives_them(x64: bool) -> None:
    """NumPy's float64 and Python's floats: in init, eager, jitted, scanned and where jit is disabled."""
    tx = trainfn_jax.transform(tf.chain(everything(), tf.adamw()))
    params = {"numpy": np.linspace(0.1, 1, 3), "python": 2.0}
    with jax.enable_x64(x64):
        state = tx.init(params)
        update = partial(tx.update, value=1.0)
        results = [update(params, state, params), jax.jit(update)(params, state, params)]
        results += [jax.jit(lambda p: update(p, tx.init(p), p))(params)]
        results += [(params, lax.scan(lambda s, _: (update(params, s, params)[1], None), state, length=2)[0])]
        with jax.disable_jit():
            results += [update(params, tx.init(params), params)]
        like = optax.adamw(0.1).init(params)[0].mu
        for updates, after in results:
            for tree in (state.start, state.nu, after.start, after.mu, *([] if updates is params else [updates])):
                assert {k: x.dtype for k, x in tree.items()} == {k: x.dtype for k, x in like.items()}
        assert jax.tree.map(lambda x: x.aval, state) == jax.tree.map(lambda x: x.aval, results[-2][1])


def test_equal_rules_share_what_is_compiled() -> None:
    from trainfn_jax.step import step

    def update_once() -> None:
        tx = trainfn_jax.transform(tf.lion(lr=jnp.float32(0.123), b1=0.77))
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)

    update_once()
    size = step._cache_size()
    update_once()
    assert step._cache_size() == size


def test_init_needs_shapes_only_and_never_aliases() -> None:
    tx = trainfn_jax.transform(tf.adamw())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)
    assert jax.tree.structure(tx.init(shapes)) == jax.tree.structure(tx.init(PARAMS))
    assert jax.eval_shape(tx.init, PARAMS).mu["a"].shape == (5, 13)
    doubled = optax.tree.map_params(tx, lambda x: x + 1, tx.init(PARAMS))
    assert np.all(doubled.mu["a"] == 1)
    assert doubled.count == 0
    copying = trainfn_jax.transform(everything())
    with pytest.raises(TypeError, match="eval_shape"):
        copying.init(shapes)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = copying.init(params)
    jax.jit(lambda p, s: (p, s), donate_argnums=(0, 1))(params, state)  # refuses buffers that occur twice


@pytest.mark.parametrize(
    ("rule", "copies"),
    [(tf.optimistic_gradient_descent(), 1), (tf.madgrad(), 0), (tf.prodigy(), 0)],
    ids=["overwritten", "kept", "reduced"],
)
def test_state_is_updated_in_its_own_memory(rule: Any, copies: int) -> None:
    """What another output reads before is copied once; what stays as it is, and what reductions read, is not."""
    tx, size = trainfn_jax.transform(rule), 1 << 16
    params = {"w": jnp.ones(size)}
    step = jax.jit(partial(one_step, tx), donate_argnums=(0, 1))
    temporary = step.lower(params, tx.init(params), params).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 4 * size * (copies + 0.1)


def test_leaves_that_take_no_part() -> None:
    tx = trainfn_jax.transform(tf.adamw(lr=0.1))
    params = {"a": jnp.ones(3), "none": None, "masked": optax.MaskedNode(), "frozen": jnp.ones(2)}
    state = tx.init(params)
    grads = {**params, "frozen": None}
    updates, after = jax.jit(tx.update)(grads, state, params)
    assert updates["none"] is None
    assert updates["frozen"] is None
    assert np.all(after.mu["a"] != 0)
    assert np.all(after.mu["frozen"] == 0)
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.parametrize("tree", [{}, (), {"a": None}])
def test_a_model_without_a_gradient(tree: Any) -> None:
    tx = trainfn_jax.transform(tf.chain(tf.clip_by_global_norm(1.0), tf.adamw()))
    updates, state = jax.jit(tx.update)(tree, tx.init(tree), tree)
    assert updates == tree
    assert state.count == 1


def test_a_label_that_no_leaf_has() -> None:
    tx = optax.multi_transform({"used": optax.sgd(1.0), "unused": trainfn_jax.transform(tf.adamw())}, {"a": "used"})
    params = {"a": jnp.ones(2)}
    assert tx.update(params, tx.init(params), params)[0]["a"].tolist() == [-1.0, -1.0]


def test_state_is_found_and_pickled() -> None:
    tx = trainfn_jax.transform(tf.chain(tf.sgd(momentum=0.9), tf.adamw()))
    state = tx.init(PARAMS)
    assert state._fields == ("count", "trace", "mu", "nu", "nu_max")  # nu_max has no leaves
    assert optax.tree.get(state, "nu") is state.nu
    copy = pickle.loads(pickle.dumps(state))
    assert type(copy) is type(state)
    assert jax.tree.structure(copy) == jax.tree.structure(state)
    assert type(trainfn_jax.transform(tf.adamw(lr=2)).init(PARAMS)) is type(trainfn_jax.adamw(1).init(PARAMS))


def test_complex_leaves_are_pairs() -> None:
    rule = tf.adam(lr=0.1)
    tx = trainfn_jax.transform(rule)
    z = {"z": jnp.asarray([1 + 2j, -0.5 + 0j], jnp.complex64)}
    pairs = {"z": np.asarray(z["z"]).view(np.float32).reshape(2, 2)}
    updates, state = jax.jit(tx.update)(z, tx.init(z), z)
    want, reference_state = tf.reference.update(rule, tf.reference.init(rule, pairs), pairs, pairs)
    assert updates["z"].dtype == state.nu["z"].dtype == jnp.complex64
    assert_same_bits(want, {"z": np.asarray(updates["z"]).view(np.float32).reshape(2, 2)})
    assert_same_bits(
        {"v": reference_state.leaves["z"]["v"]}, {"v": np.asarray(state.nu["z"]).view(np.float32).reshape(2, 2)}
    )


def test_functions_of_a_complex_leaf_see_its_own_shape() -> None:
    seen = []

    @tf.rule
    def moved(g: tf.Array, *, lr: float = 0.0) -> Any:
        return -lr * g

    def lr(leaf: tf.Leaf) -> float:
        seen.append(leaf)
        return 0.5

    tx = trainfn_jax.transform(moved(lr=lr))
    z = {"z": jnp.ones(2, jnp.complex64)}
    assert np.all(tx.update(z, tx.init(z))[0]["z"] == -0.5)
    assert set(seen) == {tf.Leaf("z", (2,))}


def test_the_count_saturates() -> None:
    tx = trainfn_jax.transform(tf.adam())
    state = tx.init(PARAMS)._replace(count=jnp.int32(2**31 - 1))
    assert tx.update(PARAMS, state)[1].count == 2**31 - 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda tx, s: tx.update(PARAMS, s), r"reads the parameters"),
        (lambda tx, s: tx.update({**PARAMS, "x": PARAMS["a"]}, s, PARAMS), r"'x' is missing in the parameters"),
        (lambda tx, s: tx.update(PARAMS, s, {k: PARAMS[k] for k in "ab"}), r"'c' is missing in the parameters"),
        (lambda tx, s: tx.update({**PARAMS, "a": jnp.ones(3)}, s, PARAMS), r"leaf 'a'.*\(3,\).*\(5, 13\)"),
        (lambda tx, s: tx.update(PARAMS, s._replace(mu={**s.mu, "a": jnp.ones(3)}), PARAMS), r"leaf 'a'.*state's m"),
        (lambda tx, s: tx.update(PARAMS, (), PARAMS), r"fields count, mu, nu"),
        (lambda tx, s: tx.init({"i": jnp.arange(3)}), r"leaf 'i'.*int32"),
        (lambda tx, s: tx.update({**PARAMS, "c": jnp.arange(300)}, s, PARAMS), r"leaf 'c'.*int32"),
        (lambda tx, s: tx.init({"f": jnp.ones(3, jnp.float8_e4m3fn)}), r"leaf 'f'.*float8_e4m3fn"),
        (lambda tx, s: trainfn_jax.transform(tf.sgd(lr=jnp.float32(-1))), r"sgd: lr = -1.0 must be at least 0"),
        (lambda tx, s: trainfn_jax.transform(tf.adamw), r"adamw\(\)"),
        (lambda tx, s: trainfn_jax.transform(3), r"takes a trainfn rule"),
        (lambda tx, s: trainfn_jax.transform(tf.sgd(jnp.ones(2))).update(PARAMS, s), r"(?s)fields|shape \(2,\)"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    tx = trainfn_jax.transform(tf.adamw())
    with pytest.raises((TypeError, ValueError), match=message):
        call(tx, tx.init(PARAMS))
