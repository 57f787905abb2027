"""Policies: which leaf gets which rule and which number, the same bits everywhere, and errors for tables with holes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import trainfn as tf
from tests.bits import assert_same_bits
from tests.executions import EXECUTIONS, run_reference
from tests.inputs import numbers
from trainfn import reference
from trainfn.rule import resolve

SHAPES = {"embed.weight": (9, 4), "0.weight": (4, 5), "0.bias": (5,), "1.weight": (5, 3), "1.bias": (3,)}


def is_matrix(leaf: tf.Leaf) -> bool:
    return leaf.ndim == 2


RULES = {
    "by name and rank": lambda: tf.chain(
        tf.clip_by_global_norm(0.5),
        tf.partition({"embed*": tf.sgd(lr=0.1, momentum=0.9), "*.bias": tf.lion(lr=0.01)}, otherwise=tf.adamw(lr=0.1)),
    ),
    "reductions of its own": lambda: tf.partition(
        {is_matrix: tf.chain(tf.clip_by_global_norm(0.1), tf.prodigy(d0=1e-2))}, otherwise=tf.dog(lr=0.1)
    ),
    "two of one kind": lambda: tf.skip_if_not_finite(
        tf.partition({"*.bias": tf.adam(lr=0.1, b1=0.5), "*.weight": tf.adam(lr=tf.cosine(0.1, steps=5))})
    ),
    "norms of the model after norms of parts": lambda: tf.chain(
        tf.partition({is_matrix: tf.clip_by_global_norm(0.1)}, otherwise=tf.clip_by_global_norm(0.2)),
        tf.partition({"0.*": tf.clip_by_global_norm(0.3)}, otherwise=tf.clip_by_global_norm(0.01)),
        tf.clip_by_global_norm(0.05),
        tf.sgd(lr=1.0),
    ),
    "nested": lambda: tf.partition(
        {"embed*": tf.frozen()},
        otherwise=tf.ema(
            tf.partition({is_matrix: tf.clip_by_global_norm(1.0)}, otherwise=tf.clip_by_global_norm(0.1)), decay=0.9
        ),
    ),
}


def inputs(steps: int = 3) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    params = {k: numbers(i, s, decades=2) for i, (k, s) in enumerate(SHAPES.items())}
    return params, [
        {k: numbers(40 * n + i, s, decades=3) for i, (k, s) in enumerate(SHAPES.items())} for n in range(1, steps + 1)
    ]


@pytest.mark.parametrize("execution", [name for name in EXECUTIONS if name not in ("reference", "jax_eager")])
@pytest.mark.parametrize("name", RULES)
def test_same_bits(name: str, execution: str) -> None:
    rule = RULES[name]()
    params, grads = inputs()
    expected = run_reference(rule, params, grads)
    actual = EXECUTIONS[execution](rule, params, grads)
    for n, (a, b) in enumerate(zip(expected, actual, strict=True)):
        assert_same_bits(a, b, f"{name} on {execution}, step {n}")


def test_each_leaf_is_updated_as_by_its_own_rule() -> None:
    """Reductions over the model are over the leaves that have the rule."""
    rules = {"embed": tf.dog(lr=0.5), "0": tf.chain(tf.clip_by_global_norm(0.1), tf.sgd(lr=0.1)), "1": tf.adamw(lr=0.1)}
    whole = tf.partition({f"{part}.*": r for part, r in rules.items()})
    params, grads = inputs()
    together = run_reference(whole, params, grads)[-1]
    for part, rule in rules.items():
        own = [k for k in params if k.startswith(f"{part}.")]
        alone = run_reference(rule, {k: params[k] for k in own}, [{k: g[k] for k in own} for g in grads])[-1]
        assert_same_bits(
            {k: together[f"{k}/p"] for k in own}, {k: alone[f"{k}/p"] for k in own}, f"the leaves of {part}"
        )


class OfArray(NamedTuple):
    x: tf.Array


class OfLeaf(NamedTuple):
    x: tf.LeafScalar


@tf.rule
def summed(state: OfArray, g: Any) -> Any:
    x = state.x + g
    return -x, OfArray(x)


@tf.rule
def counted(state: OfLeaf, g: Any) -> Any:
    return -g / (state.x + 1), OfLeaf(state.x + 1)


@pytest.mark.parametrize(
    ("first", "second"),
    [(lambda: tf.dog(lr=0.5), lambda: tf.dog(lr=0.5)), (summed, counted)],
    ids=["numbers_of_the_model", "one_word_for_unlike_things"],
)
@pytest.mark.parametrize("execution", ["reference", "torch_fused", "jax_jit"])
def test_states_of_one_name_are_kept_apart(first: Any, second: Any, execution: str) -> None:
    params, grads = inputs()
    whole = tf.partition({"0.*": first(), "1.*": second()}, otherwise=tf.frozen())
    together = EXECUTIONS[execution](whole, params, grads)[-1]
    for part, rule in (("0", first()), ("1", second())):
        own = [k for k in params if k.startswith(f"{part}.")]
        alone = run_reference(rule, {k: params[k] for k in own}, [{k: g[k] for k in own} for g in grads])[-1]
        assert_same_bits(
            {k: together[f"{k}/p"] for k in own}, {k: alone[f"{k}/p"] for k in own}, f"the leaves of {part}"
        )
    assert len({f.name for f in whole.fields}) == len(whole.fields)


def test_numbers_summed_over_the_model_may_be_of_each_leaf() -> None:
    """A decay of its own enters prodigy's distance by way of the gradients, which are summed."""
    rule = tf.chain(tf.coupled_weight_decay(tf.by_leaf({"*.bias": 0.0}, otherwise=0.5)), tf.prodigy())
    for name in ("reference", "torch_fused", "jax_jit"):
        assert len(EXECUTIONS[name](rule, *inputs(1))) == 1


def test_reductions_after_a_partition_are_over_the_whole_model_again() -> None:
    rule = RULES["norms of the model after norms of parts"]()
    params, grads = inputs(1)

    def clipped(some: dict[str, Any], norm: float) -> dict[str, Any]:
        length = np.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in some.values()))
        return {k: g * min(norm / length, 1.0) for k, g in some.items()}

    def part(some: dict[str, Any], which: Any) -> dict[str, Any]:
        return {k: g for k, g in some.items() if which(k)}

    g = clipped(part(grads[0], lambda k: k.endswith("weight")), 0.1)
    g |= clipped(part(grads[0], lambda k: k.endswith("bias")), 0.2)
    g = clipped(part(g, lambda k: k.startswith("0.")), 0.3) | clipped(part(g, lambda k: k[0] != "0"), 0.01)
    expected = {k: params[k] - x for k, x in clipped(g, 0.05).items()}
    after = run_reference(rule, params, grads)[0]
    for k, x in expected.items():
        np.testing.assert_allclose(after[f"{k}/p"], x, rtol=1e-5, atol=1e-7)


def test_leaf_functions_are_asked_about_the_leaves_of_their_rule() -> None:
    named = tf.adamw(lr=tf.by_leaf({"0.weight": 0.1, "0.bias": 0.2}), b2=tf.by_leaf({"0.*": 0.9}))
    rule = tf.partition(
        {"0.*": named, "1.*": tf.partition({"*weight": tf.lion(), "*bias": tf.sgd(lr=0.3)})}, otherwise=tf.frozen()
    )
    params, grads = inputs(1)
    state = reference.init(rule, params)
    updates, _ = reference.update(rule, state, grads[0], params)
    assert_same_bits({"u": updates["embed.weight"]}, {"u": np.zeros_like(params["embed.weight"])}, "frozen")
    assert resolve(rule, tf.Leaf("0.bias", (5,)))["lr"] == 0.2
    assert resolve(rule, tf.Leaf("1.bias", (3,)))["lr"] == 0.3
    assert_same_bits({"u": updates["1.bias"]}, {"u": np.float32(-0.3) * grads[0]["1.bias"]}, "nested")


def test_hyperparameters_of_one_name_are_one_with_a_value_for_each_leaf() -> None:
    rule = tf.partition({"embed*": tf.sgd(lr=0.1, momentum=0.9)}, otherwise=tf.adamw(lr=0.2, weight_decay=0.3))
    embedding, other = (resolve(rule, tf.Leaf(name, (3, 3))) for name in ("embed.weight", "head"))
    assert (embedding["lr"], other["lr"]) == (0.1, 0.2)
    assert set(rule.hyper) == {"lr", "momentum", "b1", "b2", "eps", "weight_decay"}


def test_a_group_of_torch_has_the_rate_of_its_leaves() -> None:
    import torch

    import trainfn_torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    rule = tf.partition({"0.*": tf.sgd(lr=0.1, momentum=0.9)}, otherwise=tf.adamw(lr=0.2))
    optimizer = trainfn_torch.Optimizer(module.named_parameters(), rule)
    assert [(g["param_names"], g["lr"]) for g in optimizer.param_groups] == [
        (["0.weight", "0.bias"], 0.1),
        (["1.weight", "1.bias"], 0.2),
    ]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.1]
    states = [set(optimizer.state[p]) for p in module.parameters()]
    assert states == [{"step", "momentum_buffer"}] * 2 + [{"step", "exp_avg", "exp_avg_sq"}] * 2
    again = trainfn_torch.Optimizer(module.named_parameters(), rule)
    again.load_state_dict(optimizer.state_dict())
    assert [g["lr"] for g in again.param_groups] == [0.05, 0.1]


def test_layers_decay_from_the_last_to_the_first() -> None:
    decayed = tf.layer_decay(1.0, 0.5, ["embed*", "0.*", "1.*"])
    assert [decayed(tf.Leaf(name, shape)) for name, shape in SHAPES.items()] == [0.25, 0.5, 0.5, 1.0, 1.0]
    scheduled = tf.layer_decay(tf.cosine(1.0, steps=10), 0.5, ["embed*", "0.*", "1.*"])
    assert scheduled(tf.Leaf("0.bias", (5,)))(0) == 0.5


def test_patterns_may_stand_together() -> None:
    decay = tf.by_leaf({("*.bias", "embed*"): 0.0}, otherwise=0.1)
    assert [decay(tf.Leaf(name, shape)) for name, shape in SHAPES.items()] == [0.0, 0.1, 0.0, 0.1, 0.0]


# -- what bad input gets -----------------------------------------------------------------------------------------------


def test_a_leaf_that_is_no_case_is_named() -> None:
    with pytest.raises(ValueError, match=r"leaf '0.bias' .* is none of '\*.weight': give otherwise"):
        reference.init(tf.sgd(lr=tf.by_leaf({"*.weight": 0.1})), inputs()[0])


def _start_torch(rule: tf.Rule, params: Any) -> None:
    import torch

    import trainfn_torch

    trainfn_torch.Optimizer([(k, torch.tensor(p, requires_grad=True)) for k, p in params.items()], rule)


def _start_jax(rule: tf.Rule, params: Any) -> None:
    import trainfn_jax

    trainfn_jax.transform(rule).init(params)


START: dict[str, Any] = {"reference": reference.init, "torch": _start_torch, "jax": _start_jax}


@pytest.mark.parametrize("what", ["rule", "number"])
@pytest.mark.parametrize("library", START)
def test_a_pattern_that_matches_nothing_is_named(library: str, what: str) -> None:
    cases = {"head.*": 0.1}
    rule = (
        tf.partition({name: tf.sgd(lr=lr) for name, lr in cases.items()}, otherwise=tf.adam())
        if what == "rule"
        else tf.adam(lr=tf.by_leaf(cases, otherwise=0.1))
    )
    with pytest.raises(ValueError, match=r"'head.\*' is no leaf of this model, whose leaves are "):
        START[library](rule, inputs()[0])


@pytest.mark.parametrize("library", ["reference", "jax"])
def test_a_misspelt_pattern_is_named_rather_than_the_leaf_it_misses(library: str) -> None:
    rules = (
        tf.sgd(lr=tf.layer_decay(1.0, 0.5, ["embed*", "9.*"])),
        tf.partition({"embed*": tf.sgd(), "9.*": tf.adam()}),
    )
    for rule in rules:
        with pytest.raises(ValueError, match=r"'9\.\*' is no leaf of this model"):
            START[library](rule, inputs()[0])


def test_layers_are_one_or_more() -> None:
    for layers in ([], "embed*", ["0.*", "0.*"]):
        with pytest.raises(ValueError, match="layer_decay takes a sequence of layers"):
            tf.layer_decay(1.0, 0.5, layers)


def test_patterns_need_names_in_torch() -> None:
    import torch

    import trainfn_torch

    with pytest.raises(ValueError, match="named_parameters"):
        trainfn_torch.Optimizer([torch.ones(2, requires_grad=True)], tf.partition({"w*": tf.sgd()}, tf.adam()))


@pytest.mark.parametrize("library", START)
def test_a_leaf_that_is_two_cases_is_named(library: str) -> None:
    """When the optimizer is made, not at its first step."""
    rule = tf.partition({"*.weight": tf.sgd(), is_matrix: tf.lion()}, otherwise=tf.adam())
    with pytest.raises(ValueError, match=r"leaf '.*' .* is '\*.weight' and is_matrix, which overlap"):
        START[library](rule, inputs()[0])


@pytest.mark.parametrize("library", START)
def test_numbers_of_the_model_are_computed_from_one_number(library: str) -> None:
    """Prodigy's distance is computed from lr: two of them would be two distances."""
    rule = tf.prodigy(lr=tf.by_leaf({"*.bias": 0.5}, otherwise=1.0))
    name = "torch_fused" if library == "torch" else "jax_jit" if library == "jax" else library
    with pytest.raises(
        ValueError, match=r"lr is another number for leaf '.*' than for leaf '.*', and [rd].high, which"
    ):
        EXECUTIONS[name](rule, *inputs(1))
    EXECUTIONS[name](tf.prodigy(weight_decay=tf.by_leaf({"*.bias": 0.5}, otherwise=1.0)), *inputs(1))


def test_what_decides_for_the_whole_model_stands_around_a_partition() -> None:
    rule = tf.partition({is_matrix: tf.skip_if_not_finite(tf.sgd())}, otherwise=tf.adam())
    with pytest.raises(tf.TraceError, match="put that around the partition"):
        rule.program(tf.Leaf("w", (2, 2)))


def test_an_optimizer_with_a_partition_is_pickled_if_its_cases_can_be() -> None:
    import pickle

    import torch

    import trainfn_torch

    def made(case: Any) -> Any:
        named = [("w", torch.ones(2, 2, requires_grad=True)), ("b", torch.ones(2, requires_grad=True))]
        return trainfn_torch.Optimizer(named, tf.partition({case: tf.sgd(lr=0.1)}, otherwise=tf.adamw(lr=0.2)))

    for case in (is_matrix, "w"):
        again = pickle.loads(pickle.dumps(made(case)))
        for p in again.parameters():
            p.grad = torch.ones_like(p)
        again.step()
        assert float(again.parameters()[0][0, 0].detach()) == pytest.approx(0.9)
    with pytest.raises(pickle.PicklingError, match="the cases of a partition, <lambda>, otherwise, cannot be pickled"):
        pickle.dumps(made(lambda leaf: leaf.ndim == 2))


def test_rules_without_their_hyperparameters_are_refused() -> None:
    with pytest.raises(TypeError, match=r"partition takes rules .* Write sgd\(\) for its defaults"):
        tf.partition({"*": tf.sgd})  # type: ignore[dict-item]


def test_a_partition_is_printed_case_by_case() -> None:
    rule = tf.partition({"w*": tf.sgd(lr=0.1)}, otherwise=tf.sign_sgd(lr=0.1))
    assert repr(rule).startswith("partition({'w*': sgd(lr=0.1, ")
    first, second = str(rule).split("\n\n")
    assert first.startswith("for 'w*'\n")
    assert "update = -lr*g" in first
    assert second.startswith("for otherwise\n")
    assert "sign(g)" in second
