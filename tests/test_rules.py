"""Binding hyperparameters: defaults, names in a chain, leaf functions, and what bad values get."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import pydoc
from typing import Any, NamedTuple

import numpy as np
import optax
import pytest

import trainfn as tf
from tests.bits import assert_same_bits
from tests.catalogue import ROWS, Row
from tests.executions import EXECUTIONS, run_reference
from tests.inputs import numbers
from trainfn import reference
from trainfn.rule import resolve
from trainfn.verbs import apply_if, full_like, global_norm, global_sum, leaf_sum


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf.adamw(lr=-1e-3), "adamw: lr = -0.001 must be at least 0"),
        (lambda: tf.adamw(lr=math.nan), r"adamw: lr = nan must be .*; it is not a number \(NaN\)"),
        (lambda: tf.adamw(lr=math.inf), "adamw: lr = inf must be at least 0 and finite"),
        (lambda: tf.adamw(weight_decay=math.inf), "weight_decay = inf must be at least 0 and finite"),
        (lambda: tf.adamw(eps=math.inf), "eps = inf"),
        (lambda: tf.sgd(momentum=0.9, dampening=-math.inf), "dampening = -inf must be finite"),
        (lambda: tf.adamw(lr=np.array(-1.0)), "adamw: lr = -1.0 must be at least 0"),
        (lambda: tf.adamw(lr=10**400), "adamw: lr is a whole number beyond what a float can hold"),
        (lambda: tf.adamw(lr=np.ones(2)), r"lr has shape \(2,\): a hyperparameter is one number"),
        (lambda: tf.adamw(lr=np.bool_(True)), "lr = np.True_ is no hyperparameter"),
        (lambda: tf.adamw(lr=np.complex64(1)), "is no hyperparameter"),
        (lambda: tf.adamw(lr=tf.adam), "lr = <rule adam.* is no hyperparameter"),
        (lambda: tf.adamw(lr=tf.adam()), "is no hyperparameter"),
        (lambda: tf.adamw(lr=tf.loss_scale), "is no hyperparameter"),
        (
            lambda: tf.adamw(lr=tf.warmup_cosine),
            r"adamw: lr = warmup_cosine .* call it, as in warmup_cosine\(peak, warmup",
        ),
        (
            lambda: tf.adamw(lr=tf.sequence),
            r"adamw: lr = sequence .* call it, as in sequence\(\*schedules, boundaries\)",
        ),
        (lambda: resolve(tf.adamw(lr=lambda leaf: tf.linear), tf.Leaf("w")), r"leaf 'w': lr = linear .* call it"),
        (
            lambda: resolve(tf.adamw(lr=lambda leaf: lambda step: 0.1), tf.Leaf("w")),
            "function for lr returned .*@trainfn.sch",
        ),
        (lambda: tf.adamw(b1=1.0), r"b1 = 1.0 must be in \[0, 1\)"),
        (lambda: tf.adamw(b2=-0.1), r"b2 = -0.1 must be in \[0, 1\)"),
        (lambda: tf.adamw(eps=-1e-8), "eps"),
        (lambda: tf.sgd(momentum=1.5), "momentum = 1.5"),
        (lambda: tf.clip_by_global_norm(0.0), "max_norm = 0.0 must be above 0"),
        (lambda: tf.adamw(beta1=0.9), "adamw has no hyperparameter beta1; it has lr, b1, b2, .* beta1 is b1 here"),
        (lambda: tf.adamw(learning_rate=1e-3), "no hyperparameter learning_rate; .* learning_rate is lr here"),
        (lambda: tf.adamw(betas=(0.9, 0.99), epsilon=1e-8), "betas is b1, b2 here. epsilon is eps here"),
        (lambda: tf.lion(weight_decay_rate=0.1), "weight_decay_rate is weight_decay here"),
        (lambda: tf.sgd(momentun=0.9), "Did you mean momentum\\?"),
        (lambda: tf.scale(wd=0.9), r"scale has no hyperparameter wd; it has by\.$"),
        (lambda: tf.sgd(momentum=True), "sgd: momentum = True must be a number, a schedule or a leaf function"),
        (lambda: tf.sgd(momentum="0.9"), "sgd: momentum = '0.9' must be a number"),
        (lambda: tf.shampoo(max_size=2.5), "the option max_size = 2.5 must be a whole number"),
        (lambda: tf.adam(amsgrad=1), "the option amsgrad = 1 must be True or False"),
        (lambda: tf.adamw(1e-3, lr=1e-3), "lr was given twice"),
        (lambda: tf.lion(1, 2, 3, 4, False, 6), "6 were given"),
        (lambda: tf.adamw(iter([np.ones(3)]), lr=0.1), r"not a model's parameters: .*Optimizer\(params, adamw\("),
        (lambda: tf.adamw({"w": np.ones(3)}), r"not a model's parameters: .*transform\(adamw\(\.\.\.\)\)\.init"),
        (lambda: tf.adamw(lr="0.1"), r"lr = '0.1' must be a number.* make one: float\('0.1'\)"),
        (lambda: tf.adamw(lr=None), "lr = None"),
        (lambda: tf.adamw(lr=True), "lr = True"),
        (lambda: tf.adamw(lr=tf.reduce_on_plateau()), "lr = reduce_on_plateau follows a metric"),
        (lambda: tf.adamw(lr=object()), "neither a number, a schedule nor a function"),
        (lambda: tf.adamw(lr=1j), "neither a number"),
        (lambda: tf.sgd(momentum=0.9, nesterov="yes"), "nesterov = 'yes' must be True or False"),
        (lambda: tf.rmsprop(centered=tf.constant(1.0)), "centered .* must be True or False"),
        (lambda: tf.sgd(nesterov=True).program(), "nesterov needs momentum"),
        (lambda: tf.aggmo(betas=(0.9, 1.0)).program(), r"betas = \(0.9, 1.0\) must be one to 5 numbers in \[0, 1\)"),
        (lambda: tf.aggmo(betas=(0.5,) * 6).program(), "must be one to 5 numbers"),
        (lambda: tf.aggmo(betas=()).program(), "must be one to 5 numbers"),
        (lambda: tf.adam(b1=None, nesterov=True).program(), "which b1=None leaves out: give a b1"),
        (lambda: tf.adamw(b2=None), "b2 = None must be a number"),
        (lambda: tf.decoupled_weight_decay(0.1).hyper, "takes its lr from a rule before it"),
        (lambda: tf.adamw(lr=[0.1]), r"lr = \[0.1\]"),
        (lambda: tf.chain(), "at least one"),
        (lambda: tf.chain(tf.adamw), r"Write adamw\(\) for its defaults"),
        (lambda: tf.chain(tf.adamw(), 3), "chain takes rules"),
        (lambda: tf.chain([tf.adamw()]), r"Give each by itself, as in chain\(\*rules\)"),
        (lambda: tf.chain(optax.identity()), r"trainfn_jax.chain takes transformations"),
        (lambda: tf.skip_if_not_finite(), "stands around another rule"),
        (lambda: tf.skip_if_not_finite(tf.adamw), "stands around another rule"),
        (lambda: resolve(tf.adamw(lr=lambda leaf: -1.0), tf.Leaf("w", (2,))), "leaf 'w': lr = -1.0"),
        (lambda: resolve(tf.adamw(lr=lambda leaf: "x"), tf.Leaf("w", (2,))), "leaf 'w': lr = 'x'"),
    ],
)
def test_bad_hyperparameters(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_an_error_in_a_leaf_function_names_the_leaf() -> None:
    rule = tf.adamw(weight_decay=lambda leaf: leaf.nmae)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError) as caught:
        resolve(rule, tf.Leaf("head.bias", (2,)))
    assert "weight_decay about leaf 'head.bias' of shape (2,)" in caught.value.__notes__[0]


def _optax_schedule() -> Any:
    return pytest.importorskip("optax").cosine_decay_schedule(0.1, 10)


@pytest.mark.parametrize("make", [lambda: lambda step: 0.1 * step, lambda: lambda: 0.1, _optax_schedule])
def test_a_function_of_the_step_is_told_how_to_become_a_schedule(make: Any) -> None:
    with pytest.raises(TypeError) as caught:
        resolve(tf.adamw(lr=make()), tf.Leaf("w", (2,)))
    note = caught.value.__notes__[0]
    assert "adamw's function for lr about leaf 'w'" in note
    assert "put @trainfn.schedule above it" in note
    assert "as in warmup_cosine(" in note


def test_infinite_bounds_clip_nothing() -> None:
    assert tf.clip_by_global_norm(math.inf).hyper["max_norm"] == math.inf
    assert tf.clip_by_value(math.inf).hyper["max_value"] == math.inf


@pytest.mark.parametrize("name", ["init", "update", "step"])
def test_a_rule_is_not_run_by_its_methods(name: str) -> None:
    assert not hasattr(tf.adamw(), name)
    with pytest.raises(AttributeError, match=r"trainfn_jax.transform\(rule\) makes"):
        getattr(tf.adamw(), name)
    with pytest.raises(AttributeError, match="'Rule' object has no attribute 'hypre'"):
        tf.adamw().hypre  # noqa: B018


def test_a_definition_shows_what_it_takes() -> None:
    assert repr(tf.lion) == "<rule lion(lr=0.0001, b1=0.9, b2=0.99, weight_decay=0.001, refined=False)>"
    assert str(inspect.signature(tf.skip_if_not_finite)) == "(inner)"
    assert "(lr=0.001, b1=0.9" in pydoc.render_doc(tf.adam)


class Unresolved(NamedTuple):
    m: NowhereDefined  # type: ignore[name-defined]  # noqa: F821


def test_annotations_that_name_nothing() -> None:
    with pytest.raises(NameError) as caught:
        _rule(lambda state, g: (g, state), state=Unresolved)
    assert "annotations of rule <lambda>" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="makes a rule of a function"):
        tf.rule(np.sqrt)


PARAMS = {"w": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda r: r.init(tf.adamw, PARAMS), "a rule with its hyperparameters is due"),
        (lambda r: r.init(tf.adamw(), PARAMS["w"]), "params is a dictionary"),
        (lambda r: r.init(tf.adamw(), {"w": [1.0]}), "parameter 'w' is a list"),
        (lambda r: r.init(tf.adamw(), {"w": np.arange(3)}), "parameter 'w' is of dtype int64"),
        (lambda r: r.update(tf.sgd(), None, PARAMS, PARAMS), "the state is what init"),
        (
            lambda r: r.update(tf.sgd(), r.init(tf.sgd(), PARAMS), {}, PARAMS),
            r"names of the gradients: \[\]",
        ),
        (lambda r: r.update(tf.sgd(), r.init(tf.sgd(), {}), PARAMS, PARAMS), r"names of the state: \[\]"),
        (lambda r: r.update(tf.sgd(), r.init(tf.sgd(), PARAMS), {"w": np.ones((2, 3))}, PARAMS), r"has shape \(2, 3\)"),
        (
            lambda r: r.update(tf.sgd(), r.init(tf.sgd(), PARAMS), {"w": np.ones(np.shape(PARAMS["w"]), int)}, PARAMS),
            "the gradient of 'w' is of dtype int64",
        ),
        (lambda r: r.update(tf.sgd(), r.init(tf.sgd(), PARAMS), PARAMS, PARAMS, loss=1.0), "knows no loss"),
    ],
)
def test_what_the_reference_cannot_run_on_is_named(make: Any, message: str) -> None:
    from trainfn import reference

    with pytest.raises((TypeError, ValueError), match=message):
        make(reference)


def test_a_rule_is_tried_by_hand_as_its_decorator_says() -> None:
    example = [line[8:] for line in str(tf.rule.__doc__).split("\n") if line.startswith(" " * 8)]
    scope = {"numpy": np, "myrule": tf.lion, "grads": PARAMS}
    exec("\n".join(example), scope)
    assert scope["updates"]["w"].shape == (3,)


def test_bad_definitions() -> None:
    with pytest.raises(TypeError, match=r"lr is nothing a rule can ask for.* Hyperparameters stand after"):
        tf.rule(lambda g, lr: g)
    with pytest.raises(TypeError, match="annotate `state`"):
        tf.rule(lambda state, g: (g, state))


class Calls(NamedTuple):
    k: tf.ModelScalar

    @staticmethod
    def init(p: Any) -> Calls:
        return Calls(1.0)  # type: ignore[arg-type]


@tf.rule
def called(state: Calls, g, *, lr=0.1):  # type: ignore[no-untyped-def]
    return -lr * state.k * g, Calls(state.k + 1)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_number_of_the_model_called_as_a_hyperparameter_is(execution: str) -> None:
    """torch keeps both in one dictionary."""
    rule = tf.accumulate(called(), k=2)
    assert "called.k" in {f.name for f in rule.fields}
    params = {"w": np.zeros(2, np.float32)}
    grads = [{"w": np.ones(2, np.float32)}] * 4
    expected = run_reference(rule, params, grads)
    assert_same_bits(EXECUTIONS[execution](rule, params, grads)[-1], expected[-1])
    assert expected[-1]["w/p"][0] == pytest.approx(-0.1 * 2 / 3 - 0.2 * 2 / 4, rel=1e-6)  # weights 1, 2 and 3, 1


def test_names_in_a_chain() -> None:
    lr = tf.cosine(peak=1e-3, steps=10)
    inherited = tf.chain(tf.adam(lr=lr), tf.decoupled_weight_decay(0.1))
    assert list(inherited.hyper) == ["lr", "b1", "b2", "eps", "weight_decay"]
    assert inherited.hyper["lr"] is lr
    apart = tf.chain(tf.adam(lr=0.1), tf.decoupled_weight_decay(0.1, lr=0.5))
    assert (apart.hyper["adam.lr"], apart.hyper["lr"]) == (0.1, 0.5)
    # Equal numbers are a coincidence: keys do not depend on values.
    for eps in (1e-6, 1e-8):
        assert "clip_by_global_norm.eps" in tf.chain(tf.clip_by_global_norm(1.0, eps=1e-6), tf.adamw(eps=eps)).hyper
    twice = tf.chain(tf.radam(), tf.radam())
    assert [f.name for f in twice.fields] == ["radam.m", "radam.v", "m", "v"]


def test_an_inherited_hyperparameter_survives_copies() -> None:
    rule = tf.chain(tf.sgd(lr=0.1), tf.decoupled_weight_decay(0.1))
    for copied in (copy.deepcopy(rule), pickle.loads(pickle.dumps(rule))):
        assert list(copied.hyper) == list(rule.hyper)


def _state_called(field: str, sort: type) -> Any:
    return NamedTuple("State", [(field, sort)])  # type: ignore[misc]


def _rule(function: Any, **annotations: Any) -> Any:
    function.__annotations__ = annotations
    return tf.rule(function)


@pytest.mark.parametrize(
    ("define", "message"),
    [
        (lambda: tf.rule(_takes_step), "step is a word of its own"),
        (lambda: _rule(lambda state, g, *, lr: (g, state), state=_state_called("step", tf.Array)), "step is a word"),
        (
            lambda: _rule(lambda state, g, *, lr: (g, state), state=_state_called("lr", tf.ModelScalar)),
            "lr names a hyper",
        ),
    ],
)
def test_reserved_names(define: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        define()


def _takes_step(g, *, step=5.0):  # type: ignore[no-untyped-def]
    return -step * g


def test_what_belongs_to_the_model_is_not_computed_from_one_leaf() -> None:
    state = _state_called("d", tf.ModelScalar)
    one_leaf = _rule(lambda state, g: (g, type(state)(state.d + leaf_sum(g))), state=state)
    with pytest.raises(tf.TraceError, match="computed from one leaf"):
        one_leaf().program()
    with pytest.raises(tf.TraceError, match="condition of one leaf"):
        tf.rule(lambda g: apply_if(leaf_sum(g) > 2, g))().program()
    whole_model = _rule(lambda state, g: (g, type(state)(state.d + global_sum(g))), state=state)
    assert whole_model().program()


def test_leaf_functions_are_asked_for_each_leaf() -> None:
    rule = tf.adamw(weight_decay=lambda leaf: 0.1 if leaf.ndim >= 2 else 0.0)
    decays = [resolve(rule, tf.Leaf("x", shape))["weight_decay"] for shape in [(2, 2), (2,)]]
    assert decays == [0.1, 0.0]


def test_a_wrapper_must_call_its_inner_rule_once() -> None:
    @tf.rule
    def twice(inner, g):  # type: ignore[no-untyped-def]
        return inner(g) + inner(g)

    with pytest.raises(tf.TraceError, match="2 times"):
        twice(tf.sgd()).program()
    with pytest.raises(tf.TraceError, match=r"rule <lambda>: inner takes the gradient, .* given 2 values"):
        tf.rule(lambda inner, g, p: inner(g, p))(tf.sgd()).program()


def test_static_options_choose_the_program() -> None:
    @tf.rule
    def repeated(g, *, times: tf.Static[int] = 3):  # type: ignore[no-untyped-def]
        for _ in range(times):
            g = g * 0.5
        return g

    assert len(repeated(times=5).program().nodes) == len(repeated().program().nodes) + 2

    @tf.rule
    def written(g, *, option: tf.Static[Any] = None):  # type: ignore[no-untyped-def]
        return g * {"True": 2.0, "1": 3.0, "1.0": 4.0, "0.0": 5.0, "-0.0": 6.0}[repr(option)]

    for option, factor in ((1, 3), (True, 2), (1.0, 4), (-0.0, 6), (0.0, 5)):
        assert f"g*{factor}" in str(written(option=option).program())


def test_what_only_the_start_of_the_state_depends_on() -> None:
    class Level(NamedTuple):
        x: tf.Array

        @staticmethod
        def init(p: Any) -> Any:
            return Level(full_like(p, 1.0 if p.ndim > 1 else 2.0))

    def keeping(state: Any, g: Any) -> Any:
        return g, state

    keeping.__annotations__["state"] = Level
    params = {"w": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float32)}
    leaves = reference.init(tf.rule(keeping)(), params).leaves
    assert [float(leaves[name]["x"].flat[0]) for name in "wb"] == [1.0, 2.0]


def _params_and_grads(steps: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    shapes = {"w": (5, 3), "b": (4,)}
    params = {k: numbers(i, s) for i, (k, s) in enumerate(shapes.items())}
    return params, [{k: numbers(10 * n + i, s) for i, (k, s) in enumerate(shapes.items())} for n in range(steps)]


@pytest.mark.parametrize("row", [r for r in ROWS if "lr" in r.rule().hyper and r.hyper], ids=lambda r: r.name)
def test_nothing_moves_at_lr_zero_and_gradient_zero(row: Row) -> None:
    params, grads = _params_and_grads(2)
    zeros = [{k: np.zeros_like(g) for k, g in step.items()} for step in grads]
    without_lr = {} if row.hyper.get("lr_in_decay", True) else {"weight_decay": 0.0}  # decays whatever lr is
    for step in run_reference(row.rule(lr=0.0, **without_lr), params, zeros):
        assert_same_bits(params, {k: step[f"{k}/p"] for k in params}, row.name)


def test_cube_roots_are_close_for_all_magnitudes() -> None:
    from trainfn.rules.madgrad import cube_root

    x = np.abs(np.concatenate([numbers(1, (500,), decades=37), 3e38 * numbers(2, (500,), decades=37), [0.0, 0.0]]))
    x = x.astype(np.float32)
    rule = tf.rule(lambda g: cube_root(g))()
    roots = reference.update(rule, reference.init(rule, {"x": x}), {"x": x}, {"x": x})[0]["x"]
    exact = np.cbrt(reference.load(x).astype(np.float64))
    assert np.all(np.abs(roots - exact) <= 3 * np.spacing(exact.astype(np.float32)))


def test_a_skipped_update_changes_nothing() -> None:
    params, grads = _params_and_grads(4)
    grads[2]["b"][1] = np.inf
    rule = tf.skip_if_not_finite(tf.adamw(lr=tf.linear(1e-2, 0.0, 4)))
    before, skipped, after = run_reference(rule, params, grads)[1:]
    assert_same_bits(before, skipped)
    assert (before["count"], after["count"]) == (2, 3)
    straight = run_reference(rule, params, [grads[0], grads[1], grads[3]])
    assert_same_bits(straight[-1], after)


class Tracked(NamedTuple):
    m: tf.Array
    norm: tf.ModelScalar | None


@tf.rule
def tracking(state: Tracked, g: Any, *, lr: Any = 0.1, track: tf.Static[bool] = False) -> Any:
    m = state.m + g
    return -lr * m, Tracked(m, global_norm(m) if track else None)


@pytest.mark.parametrize("track", [True, False])
def test_a_number_of_the_model_may_be_absent(track: bool) -> None:
    import torch

    import trainfn_jax
    import trainfn_torch

    rule, g = tracking(track=track), {"p": np.ones(4, np.float32)}
    _, state = reference.update(rule, reference.init(rule, g), g, g)
    assert state.model == ({"norm": 2.0} if track else {})
    tx = trainfn_jax.transform(rule)
    _, after = tx.update(g, tx.init(g), g)
    assert after.norm == (2.0 if track else 0.0)
    p = torch.ones(4, requires_grad=True)
    p.grad = torch.ones(4)
    optimizer = trainfn_torch.Optimizer([p], rule)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.param_groups[0].get("norm") == (2.0 if track else None)


class Grown(NamedTuple):
    x: tf.ModelPair
    y: tf.LeafPair


@tf.rule
def growing(state: Grown, g: Any, *, by: Any = 1.0) -> Any:
    return -g, Grown(state.x * by + global_norm(g), state.y * by - leaf_sum(g))


@pytest.mark.parametrize("g", [0.5, math.inf, math.nan])
def test_a_pair_that_overflowed_stays_infinite(g: float) -> None:
    """The rest of an infinity is no number that makes it NaN: inf - inf, or what float64 still held beyond float32."""
    rule, grads = growing(by=1e30), [{"p": np.full(4, g, np.float32)}] * 4
    expected = run_reference(rule, grads[0], grads)
    for name, infinity in (("x", math.inf), ("p/y", -math.inf)):
        assert_same_bits({"": np.float32(g * infinity)}, {"": expected[-1][f"{name}.high"]})
    for execution in ("torch_fused", "torch_foreach", "jax_jit"):
        for a, b in zip(expected, EXECUTIONS[execution](rule, grads[0], grads), strict=True):
            assert_same_bits(a, b, execution)


def test_schedules_see_updates_of_the_model_from_zero() -> None:
    params, grads = _params_and_grads(3)
    scheduled = run_reference(tf.sgd(lr=tf.linear(0.5, 0.125, 3)), params, grads)
    for n, step in enumerate(scheduled):
        by_hand = run_reference(tf.sgd(lr=tf.linear(0.5, 0.125, 3)(n)), params, grads[n : n + 1])
        assert_same_bits({"p": by_hand[0]["w/p"]}, {"p": step["w/p"]})
        params = {k: step[f"{k}/p"] for k in params}


def test_extras_are_supplied_by_the_loop() -> None:
    from trainfn import reference

    @tf.rule
    def polyak(g, value, *, lr=1.0):  # type: ignore[no-untyped-def]
        return -lr * value * g

    params, grads = _params_and_grads(1)
    rule = polyak()
    assert rule.extras == ("value",)
    updates, _ = reference.update(rule, reference.init(rule, params), grads[0], params, value=2.0)
    assert_same_bits({"w": np.float32(-2.0) * grads[0]["w"]}, {"w": updates["w"]})
    with pytest.raises(KeyError, match="'value', which was not given"):
        reference.update(rule, reference.init(rule, params), grads[0], params)
