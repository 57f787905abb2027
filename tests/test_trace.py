"""Tracing: what a rule may do, what it is told when it does something else, and what a program says of itself."""

from __future__ import annotations

import cProfile
import math
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest

import trainfn as tf
from tests.executions import run_reference
from trainfn import Leaf, TraceError, verbs
from trainfn.lowering import PRIMITIVES, lower
from trainfn.verbs import global_max, global_sum, leaf_sum, where


def _program(body: Any) -> Any:
    @tf.rule
    def probe(step, g, p, *, lr=0.1):  # type: ignore[no-untyped-def]
        return body(step, g, p, lr)

    return probe().program(Leaf("layer.weight", (3, 4)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda step, g, p, lr: g if g > 0 else p, r"where\(condition, a, b\)"),
        (lambda step, g, p, lr: g if lr > 0 else p, r"where\(condition, a, b\)"),
        (lambda step, g, p, lr: max(g, p), "minimum and maximum"),
        (lambda step, g, p, lr: 0 < g < 1, "where"),
        (lambda step, g, p, lr: float(g) * g, "has no number"),
        (lambda step, g, p, lr: math.sqrt(step) * g, "use the verbs sqrt"),
        (lambda step, g, p, lr: int(step) * g, "floor"),
        (lambda step, g, p, lr: sum(g for _ in range(step)), "Static"),
        (lambda step, g, p, lr: np.sqrt(g), r"numpy.sqrt .* Use trainfn.verbs.sqrt"),
        (lambda step, g, p, lr: np.sin(g), "numpy.sin .* There is no verb for it"),
        (lambda step, g, p, lr: np.maximum(g, 0), "Use trainfn.verbs.maximum"),
        (lambda step, g, p, lr: np.sum(g), "Use trainfn.verbs.leaf_sum"),
        (lambda step, g, p, lr: np.asarray(g), "no numbers"),
        (lambda step, g, p, lr: np.ones((3, 4)) * g, "outside the rule"),
        (lambda step, g, p, lr: g**2, r"square\(x\)"),
        (lambda step, g, p, lr: verbs.exp(g), "function of Scalars"),
        (lambda step, g, p, lr: g % 2, r"floor\(x / y\)"),
        (lambda step, g, p, lr: g // 2, r"floor\(x / y\)"),
        (lambda step, g, p, lr: (g > 0) * g, r"where\(c, 1, 0\)"),
        (lambda step, g, p, lr: where(g, 1, 0), "needs a condition first"),
        (lambda step, g, p, lr: g & p, "unsupported operand|compare it first"),
        (lambda step, g, p, lr: leaf_sum(lr) * g, "takes an Array"),
        (lambda step, g, p, lr: [x for x in g], "whole leaf at once"),  # noqa: C416
        (lambda step, g, p, lr: len(g) * g, "shape"),
        (lambda step, g, p, lr: g + "1", "'1'"),
        (lambda step, g, p, lr: g.sum(), "Use trainfn.verbs.leaf_sum"),
        (lambda step, g, p, lr: g.cumsum(), "There is no verb for it"),
        (lambda step, g, p, lr: g[0], "cannot be indexed"),
        (lambda step, g, p, lr: g @ p, "leaf_dot"),
        (lambda step, g, p, lr: round(step) * g, "floor"),
        (lambda step, g, p, lr: np.ones(3) * g, r"Write x \* y"),
        (lambda step, g, p, lr: g * True, "Python bool"),
        (lambda step, g, p, lr: None, "the update is .* where an Array"),
        (lambda step, g, p, lr: g > 0, "the update is .* where an Array"),
        (lambda step, g, p, lr: (g, p), "the update is .* where an Array"),
        (lambda step, g, p, lr: verbs.apply_if(g > 0, g), "one condition for the whole model"),
        (lambda step, g, p, lr: g if lr > 0 else p, r"declared as an option: `name: Static\[int\]"),
        (lambda step, g, p, lr: 2**g, r"\*\* was used on <traced array g>"),
        (lambda step, g, p, lr: verbs.global_norm(lr) * g, "global_norm takes an Array .* not <traced scalar lr>"),
        (lambda step, g, p, lr: leaf_sum(g > 0) * g, r"Count with where\(c, 1.0, 0.0\)"),
        (lambda step, g, p, lr: g.mean(), r"Write leaf_sum\(x\) / x.size"),
        (lambda step, g, p, lr: g.mul_(lr), r"Write x \* y"),
        (lambda step, g, p, lr: np.mean(g), r"Write leaf_sum\(x\) / x.size"),
        (lambda step, g, p, lr: g.__setitem__(0, 1), r"where\(g > 1, 1, g\)"),
        (lambda step, g, p, lr: f"{g:.3f}", "no number to format"),
        (lambda step, g, p, lr: 1 - (g > 0), r"where\(c, 1, 0\)"),
        (lambda step, g, p, lr: where((g > 0) == (p > 0), g, p), "combine conditions with &"),
        (lambda step, g, p, lr: where(~g, g, p), "compare it first"),
        (lambda step, g, p, lr: where(True & (g > 0), g, p), "Python bool True"),
        (lambda step, g, p, lr: 5 % step * g, "% is not a verb"),
        (lambda step, g, p, lr: tf.linear(0, 1, 5) * g, "give the schedule as a hyperparameter"),
        (lambda step, g, p, lr: verbs.full_like(g, p), "full_like takes a number .* not <traced array p>"),
        (lambda step, g, p, lr: verbs.zeros_like(3), "zeros_like takes an Array"),
        (lambda step, g, p, lr: np.zeros(3), r"zeros_like\(p\)"),
        (lambda step, g, p, lr: (g, p), "has a parameter `state`"),
    ],
)
def test_what_cannot_be_traced_is_refused_with_a_remedy(body: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        _program(body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda torch, g, p: torch.sqrt(g), "torch.sqrt was called on <traced array g>.* Use trainfn.verbs.sqrt"),
        (lambda torch, g, p: torch.cat([p, g]), "torch.cat was called on <traced array p>"),
        (lambda torch, g, p: torch.tensor(2.0) * g, "Write it as a Python number"),
    ],
)
def test_functions_of_torch_are_refused_with_the_verb(body: Any, message: str) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TraceError, match=f"rule probe: .*{message}"):
        _program(lambda step, g, p, lr: body(torch, g, p))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda jnp, g, p: jnp.sqrt(g), "Use trainfn.verbs.sqrt"),
        (lambda jnp, g, p: jnp.sum(g), "Use trainfn.verbs.leaf_sum"),
        (lambda jnp, g, p: jnp.mean(g), r"Write leaf_sum\(x\) / x.size"),
        (lambda jnp, g, p: jnp.maximum(g, p), "Use trainfn.verbs.maximum"),
        (lambda jnp, g, p: jnp.where(g > 0, g, p), "Use trainfn.verbs.where"),
    ],
)
def test_functions_of_jax_are_refused_with_the_verb(body: Any, message: str) -> None:
    jnp = pytest.importorskip("jax.numpy")
    with pytest.raises(TraceError, match=f"rule probe: a function of another library .*{message}"):
        _program(lambda step, g, p, lr: body(jnp, g, p))


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (lambda s, g, p, lr: np.sin(p), "array p"),
        (lambda s, g, p, lr: np.sin(s.kept), "array state.kept"),
        (lambda s, g, p, lr: np.sin(lr), "scalar lr"),
        (lambda s, g, p, lr: np.sin(s.total), "scalar state.total"),
        (lambda s, g, p, lr: np.sin(lr * g + 2), r"array lr\*g \+ 2"),
        (lambda s, g, p, lr: np.sin(leaf_sum(g)), r"scalar leaf_sum\(g\)"),
    ],
)
def test_errors_name_the_rule_and_the_value(body: Any, value: str) -> None:
    @tf.rule
    def named(state: Both, g, p, *, lr=0.1):  # type: ignore[no-untyped-def]
        return body(state, g, p, lr)

    with pytest.raises(TraceError, match=f"^rule named: numpy.sin was called on <traced {value}>"):
        named().program()


def test_an_error_inside_a_wrapper_names_the_rule_it_is_in() -> None:
    rule = tf.skip_if_not_finite(tf.rule(lambda g: g.sum())())
    with pytest.raises(TraceError, match=r"^rule <lambda>: "):
        rule.program()


def test_other_errors_in_a_rule_get_a_note() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _program(lambda step, g, p, lr: g * (1 / 0))
    assert caught.value.__notes__ == ["while tracing rule probe for leaf 'layer.weight' of shape (3, 4)"]


def test_a_method_that_is_none_is_missing_to_hasattr_and_a_trace_error() -> None:
    seen = []
    _program(lambda step, g, p, lr: seen.append(hasattr(g, "mean")) or g)
    assert seen == [False]
    with pytest.raises(tf.NoSuchMethod):
        _program(lambda step, g, p, lr: g.mean())
    assert issubclass(tf.NoSuchMethod, TraceError)


def test_a_value_kept_from_another_trace_is_refused() -> None:
    kept: list[Any] = []

    @tf.rule
    def leaky(g):  # type: ignore[no-untyped-def]
        kept.append(g)
        return kept[0] + g * g.ndim

    leaky().program(Leaf("a", (1,)))
    with pytest.raises(TraceError, match="belongs into its state"):
        leaky().program(Leaf("b", (2, 2)))


def test_leaves_are_traced_once_unless_they_differ_in_what_the_rule_asks() -> None:
    traced: list[str] = []

    @tf.rule
    def by_rank(g):  # type: ignore[no-untyped-def]
        traced.append("again")
        return 2.0 * g if g.ndim > 1 else g * (1.0 if g.size > 3 else 3.0)

    leaves = [Leaf("a", (4,)), Leaf("b", (4,)), Leaf("c", (2, 3)), Leaf("d", (7, 5)), Leaf("e", (2,)), Leaf("f", (2,))]
    programs = [by_rank().program(leaf) for leaf in leaves]
    assert programs[0] is programs[1]
    assert programs[2] is programs[3]
    assert programs[4] is programs[5]
    assert len(traced) == 3
    assert len({str(program) for program in programs}) == 3


def test_rules_may_branch_on_the_leaf() -> None:
    @tf.rule
    def by_shape(g):  # type: ignore[no-untyped-def]
        return g if g.ndim >= 2 and g.shape[0] > 1 and "embed" not in g.name else -g

    matrix, vector = (by_shape().program(Leaf("w", shape)) for shape in [(2, 3), (3,)])
    assert matrix != vector
    assert by_shape().program(Leaf("v", (7, 5))) == matrix


def test_equal_texts_are_computed_once() -> None:
    program = _program(lambda step, g, p, lr: (g * p + 1) * (g * p + 1))
    assert [n.op for n in program.nodes].count("mul") == 2
    assert _program(lambda step, g, p, lr: 0.0 * g + -0.0 * g) != _program(lambda step, g, p, lr: 0.0 * g + 0.0 * g)


def test_division_by_a_scalar_is_multiplication_by_its_reciprocal() -> None:
    program = _program(lambda step, g, p, lr: g / (step + 1))
    ops = {n.op: n.sort.value for n in program.nodes if n.op in ("mul", "div")}
    assert ops == {"div": "scalar", "mul": "array"}
    assert _program(lambda step, g, p, lr: g / p) != program


def test_verbs_take_plain_numbers() -> None:
    assert verbs.sqrt(9.0) == 3.0
    assert verbs.maximum(1, 2) == 2.0
    assert verbs.where(1 < 2, 5.0, 7.0) == 5.0
    assert math.isnan(verbs.maximum(math.nan, 1.0))
    assert math.isnan(verbs.maximum(1.0, math.nan))
    assert math.copysign(1, verbs.sign(-0.0)) == -1
    assert verbs.isfinite(math.inf) is False


@pytest.mark.parametrize("x", ["4", np.ones(3), tf.constant, None])
def test_verbs_refuse_what_is_no_number(x: Any) -> None:
    with pytest.raises(TraceError, match="sqrt takes what a rule is given and Python numbers"):
        verbs.sqrt(x)


def test_numpy_scalars_mix_with_traced_values() -> None:
    assert _program(lambda step, g, p, lr: where(np.float64(2.0) < g, g, p)) == _program(
        lambda step, g, p, lr: where(g > 2.0, g, p)
    )
    assert _program(lambda step, g, p, lr: np.array(2.0) * g) == _program(lambda step, g, p, lr: 2.0 * g)
    assert _program(lambda step, g, p, lr: np.float64(2.0) * g) == _program(lambda step, g, p, lr: 2.0 * g)


def test_programs_that_differ_in_the_sign_of_a_zero_are_told_apart() -> None:
    """One is not run for the other, which a cache had before."""

    @tf.rule
    def zeros(g: Any, *, negative: tf.Static[bool]) -> Any:
        return where(g > 1e30, g, -0.0 if negative else 0.0)

    params, grads = {"w": np.float32([-0.0])}, [{"w": np.float32([1.0])}]
    for negative in (False, True):
        (after,) = run_reference(zeros(negative=negative), params, grads)
        assert np.signbit(after["w/p"]) == negative


def test_lowered_programs_use_primitives_only() -> None:
    known = {op for ops in PRIMITIVES.values() for op in ops} | {"input", "const"}
    rule = tf.skip_if_not_finite(tf.chain(tf.clip_by_value(), tf.clip_by_global_norm(), tf.lion(), tf.radam()))
    assert {node.op for node in lower(rule.program()).nodes} <= known


def test_a_program_prints_as_formulas_with_its_cost() -> None:
    text = str(tf.chain(tf.clip_by_global_norm(1.0), tf.adamw()))
    assert "m' = b1*m + (1 - b1)*g" in text
    assert "m_hat = m'*(1/(1 - b1**t))" in text
    assert "pass 1 of 2: 1 words and 2 flops per parameter" in text
    assert "pass 2 of 2: 7 words" in text
    assert "in all: 8 words (32 bytes in float32)" in text


def _formulas(program: Any) -> list[tuple[str, str]]:
    return [
        (name, text) for name, _, text in (line.strip().partition(" = ") for line in str(program).split("\n")) if text
    ]


class Counted(NamedTuple):
    n: tf.LeafScalar
    total: tf.ModelPair
    kept: tf.Array
    start: tf.Array


@tf.rule
def shadowing(state: Counted, g, p, *, momentum=0.9):  # type: ignore[no-untyped-def]
    """Local variables that are called like states, inputs and other links' variables."""
    n = momentum * state.n + leaf_sum(g)
    g = g + 3
    total = state.total + global_sum(g)
    return g * n * total, Counted(n, total, g, p)


def test_each_name_in_the_formulas_is_one_value() -> None:
    lines = _formulas(shadowing())
    assert ("n'", "momentum*n + t8") in lines
    assert ("k'", "g + 3") not in lines
    assert ("kept'", "g + 3") in lines
    assert ("total'", "total + t13") in lines
    assert ("update", "kept'*n'*total'") in lines
    assert ("start'", "p") in lines  # what is only copied is a formula too
    assert not any("single" in text or ".high" in text for _, text in lines)
    assert dict(_formulas(shadowing().init_program())) == {"n'": "0", "total'": "0", "kept'": "0", "start'": "0"}


def test_links_with_equal_variables_are_told_apart() -> None:
    lines = _formulas(tf.chain(tf.clip_by_global_norm(), tf.adam(), tf.adamw()))
    assert ("m_hat", "adam.m'*(1/(1 - adam.b1**t))") in lines
    assert ("m_hat_2", "m'*(1/(1 - b1**t))") in lines
    assert len(dict(lines)) == len(lines)
    assert not {"g", "p", "m", "v"} & dict(lines).keys()


def test_powers_and_signs_are_printed_as_they_bind() -> None:
    @tf.rule
    def powers(step, g, *, lr=0.1):  # type: ignore[no-untyped-def]
        return g * ((-2.0) ** step + (lr**step) ** 2 + 2 ** (-step) - (lr - step))

    assert "(-2)**step + (lr**step)**2 + 2**-step - (lr - step)" in str(powers()).replace("(-step)", "-step")


def test_words_of_a_step() -> None:
    def words(rule: tf.Rule) -> int:
        program = lower(rule.program().keep(n for n in rule.program().output if n != "update"))
        return program.words

    assert words(tf.sgd()) == 3  # reads p, g; writes p
    assert words(tf.sgd(momentum=0.9)) == 5
    assert words(tf.adamw()) == 7
    # A reproducible norm is a maximum and a sum: two readings of g.
    assert words(tf.chain(tf.clip_by_global_norm(), tf.adamw())) == 9


class Both(NamedTuple):
    positives: tf.LeafScalar
    total: tf.ModelPair
    kept: tf.Array
    left_out: tf.Array | None


@tf.rule
def every_sort(step, state: Both, g, p):  # type: ignore[no-untyped-def]
    """A rule with state of every sort."""
    total = state.total + global_sum(g)
    positives = state.positives + leaf_sum(where(g > 0, 1.0, 0.0))
    return g * positives + total * 0, Both(positives, total, state.kept + g, None)


def test_state_of_every_sort() -> None:
    from trainfn import reference

    rule = every_sort()
    params = {"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.float32)}
    state = reference.init(rule, params)
    grads = {"a": np.float32([1, -1, 2]), "b": np.full((2, 2), 1e-9, np.float32)}
    for _ in range(3):
        _, state = reference.update(rule, state, grads, params)
    assert state.leaves["a"]["positives"] == 6.0
    assert state.leaves["b"]["positives"] == 12.0
    total = state.model["total.high"] + state.model["total.low"]
    assert total == pytest.approx(3 * (2 + 4 * float(np.float32(1e-9))), rel=1e-14)
    assert float(np.float32(total)) != total  # float32 alone would not have held it
    assert "left_out" not in state.leaves["a"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda s, g: g, "must return the update and the next state"),
        (lambda s, g: (g, (s.positives, s.total, s.kept, None)), "must return the update and the next state"),
        (lambda s, g: (g, s._replace(positives=g)), "reduce it first"),
        (lambda s, g: (g, s._replace(kept=None)), "None"),
    ],
)
def test_wrong_states_are_refused(returned: Any, message: str) -> None:
    @tf.rule
    def wrong(state: Both, g):  # type: ignore[no-untyped-def]
        return returned(state, g)

    with pytest.raises(TraceError, match=message):
        wrong().program()


@pytest.mark.parametrize(
    ("init", "message"),
    [
        (lambda p: One(np.zeros(3)), r"the initial state field m is array\(.*zeros_like\(p\)"),
        (lambda p: (p,), r"One.init must return One\(...\); it returned \(<traced array p>,\)"),
        (lambda p: None, "One.init must .*; it returned None"),
        (lambda p, q: One(p), "One.init asks for q; .* hyperparameters it names: lr"),
    ],
)
def test_wrong_initial_states_are_refused(init: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(One, "init", staticmethod(init), raising=False)

    @tf.rule
    def wrong(state: One, g, *, lr=0.1):  # type: ignore[no-untyped-def]
        return g, state

    with pytest.raises(TraceError, match=f"^rule wrong: {message}"):
        wrong().init_program()


class One(NamedTuple):
    m: tf.Array


def test_the_initial_state_may_have_arguments_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    init = staticmethod(lambda p, lr, scale=2.0: One(verbs.full_like(p, lr * scale)))
    monkeypatch.setattr(One, "init", init, raising=False)

    @tf.rule
    def scaled(state: One, g, *, lr=0.1):  # type: ignore[no-untyped-def]
        return g, state

    assert "m' = lr*2" in str(scaled().init_program())


def test_leaves_must_agree_on_what_is_reduced_over_the_model() -> None:
    from trainfn import reference

    @tf.rule
    def disagreeing(g):  # type: ignore[no-untyped-def]
        return g / global_max(g) if g.ndim == 1 else g

    params = {"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.float32)}
    with pytest.raises(ValueError, match="in every branch"):
        reference.update(disagreeing(), reference.init(disagreeing(), params), params, params)


def test_a_rule_can_be_traced_under_a_profiler() -> None:
    @tf.rule
    def cubed(g):  # type: ignore[no-untyped-def]
        squared = g * g
        return squared * g + squared

    with cProfile.Profile() as profile:
        program = cubed().program(Leaf("w", (3,)))
        assert sys.getprofile() is profile
    assert "squared = g*g" in str(program)
    assert sys.getprofile() is None
