"""Saving, loading, copying: what goes out comes back, whoever saved it, and nothing half-done stays behind."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from tests.torch.optimizer_runs import Reference, give_gradients, parameters, snapshot
from tests.torch.test_optimizer import BY_SHAPE, DECAY, keeps_numbers, optimizer_of
from trainfn.schedules import linear
from trainfn.trace import LeafScalar, ModelScalar
from trainfn.verbs import global_norm, leaf_sum
from trainfn_torch.names import Names

Made = Callable[[], tf.Rule]


def by_name(leaf: tf.Leaf) -> float:
    return 0.0 if leaf.name == "bias" else 0.1


def trained(made: tf.Rule, steps: int = 3, key: int = 1) -> tuple[dict[str, Any], trainfn_torch.Optimizer]:
    params = parameters(key)
    optimizer = optimizer_of(params, made)
    for n in range(steps):
        give_gradients(params, n)
        optimizer.step()
    return params, optimizer


def through_a_file(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_continue_alike(a: Any, b: Any, params_a: Any, params_b: Any) -> None:
    for n in range(10, 13):
        for optimizer, params in ((a, params_a), (b, params_b)):
            give_gradients(params, n)
            optimizer.step()
    assert_same_bits({k: p.detach() for k, p in params_a.items()}, {k: p.detach() for k, p in params_b.items()})
    assert_same_bits(snapshot(a), snapshot(b))


@pytest.mark.parametrize("made", [tf.adamw(lr=DECAY), BY_SHAPE, keeps_numbers(), tf.sgd(), tf.rmsprop(momentum=0.5)])
def test_a_saved_state_continues(made: tf.Rule) -> None:
    params, optimizer = trained(made)
    saved = through_a_file(optimizer.state_dict())
    again = {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}
    loaded = optimizer_of(again, made)
    loaded.load_state_dict(saved)
    assert_same_bits(snapshot(optimizer), snapshot(loaded))
    assert_continue_alike(optimizer, loaded, params, again)


def test_loading_copies_and_keeps_dtypes() -> None:
    params, optimizer = trained(tf.adamw())
    state = optimizer.state[params["weight"]]
    state["exp_avg"] = state["exp_avg"].to(torch.bfloat16)
    saved = optimizer.state_dict()
    loaded = optimizer_of(params, tf.adamw())
    loaded.load_state_dict(saved)
    entries = loaded.state[params["weight"]]
    assert entries["exp_avg"].dtype is torch.bfloat16
    for name, x in entries.items():
        assert x.data_ptr() != state[name].data_ptr()
    assert loaded.param_groups[0]["updates"].data_ptr() != optimizer.param_groups[0]["updates"].data_ptr()


def test_what_was_loaded_is_not_what_was_saved() -> None:
    """Scalars of state are copies, too: a state_dict holds the tensors of the optimizer it came from."""
    params, optimizer = trained(keeps_numbers())
    again = {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}
    loaded = optimizer_of(again, keeps_numbers())
    loaded.load_state_dict(optimizer.state_dict())
    before = snapshot(optimizer)
    give_gradients(again, 7)
    loaded.step()
    assert_same_bits(before, snapshot(optimizer))


def test_a_state_without_a_count_was_updated_as_often_as_its_oldest_parameter() -> None:
    """torch.optim saves none; a parameter that rested lags behind the model."""
    params = parameters()
    theirs = torch.optim.AdamW(params.values())
    for n, only in enumerate([["weight"], None, ["bias"], ["weight"]]):
        give_gradients(params, n, only)
        theirs.step()
    ours = optimizer_of(params, tf.adamw(lr=DECAY))
    ours.load_state_dict(theirs.state_dict())
    assert [float(ours.state[p]["step"]) for p in params.values()] == [3, 2, 1]
    assert float(ours.param_groups[0]["updates"]) == 3
    assert ours.param_groups[0]["lr"] == DECAY(3)


def test_a_state_of_one_group_loads_into_split_groups_by_name() -> None:
    params, one = trained(tf.adamw(lr=0.25))
    reordered = {name: torch.nn.Parameter(params[name].detach().clone()) for name in ("scale", "weight", "bias")}
    split = optimizer_of(reordered, BY_SHAPE)
    split.load_state_dict(one.state_dict())
    for name, p in reordered.items():
        assert_same_bits({name: one.state[params[name]]["exp_avg"]}, {name: split.state[p]["exp_avg"]})
    # What the user set is loaded; what the rule decides leaf by leaf stays the rule's.
    assert [(g["param_names"], g["lr"], g["weight_decay"]) for g in split.param_groups] == [
        (["scale", "bias"], 0.25, 0.0),
        (["weight"], 0.25, 0.1),
    ]


def test_a_state_of_split_groups_splits_one_group_where_its_numbers_differ() -> None:
    params, split = trained(BY_SHAPE)
    one = optimizer_of(params, tf.adamw())
    one.load_state_dict(split.state_dict())
    assert [(g["param_names"], g["weight_decay"]) for g in one.param_groups] == [
        (["weight"], 0.1),
        (["bias", "scale"], 0.0),
    ]
    again = {name: torch.nn.Parameter(p.detach().clone()) for name, p in params.items()}
    rejoined = optimizer_of(again, tf.adamw())
    rejoined.load_state_dict(split.state_dict())
    assert_continue_alike(split, rejoined, params, again)


def test_without_names_the_order_of_the_parameters_decides() -> None:
    named, _ = trained(tf.adamw())
    params = {name: named[name] for name in ("bias", "weight", "scale")}
    one = optimizer_of(params, tf.adamw())
    one.step()
    split = trainfn_torch.Optimizer(params.values(), BY_SHAPE)
    assert len(split.param_groups[0]["params"]) == 2  # bias and scale: not the order in which they were given
    state = one.state_dict()
    del state["param_groups"][0]["param_names"]
    split.load_state_dict(state)
    for p in params.values():
        assert_same_bits({"m": one.state[p]["exp_avg"]}, {"m": split.state[p]["exp_avg"]})


def test_wrappers_prefixes_do_not_matter() -> None:
    params, optimizer = trained(tf.adamw())
    state = optimizer.state_dict()
    state["param_groups"][0]["param_names"] = [f"module._orig_mod.{n}" for n in ("weight", "bias", "scale")]
    loaded = optimizer_of(dict(reversed(params.items())), tf.adamw())
    loaded.load_state_dict(state)
    assert_same_bits({"m": optimizer.state[params["bias"]]["exp_avg"]}, {"m": loaded.state[params["bias"]]["exp_avg"]})


def _without(state: Any, name: str) -> None:
    for entry in state["state"].values():
        del entry[name]


def _reshaped(state: Any) -> None:
    state["state"][0]["exp_avg"] = torch.zeros(2, 2)


def _renamed(state: Any) -> None:
    state["param_groups"][0]["param_names"][1] = "offset"


def _bad_number(state: Any) -> None:
    state["param_groups"][0]["lr"] = -1.0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: _without(state, "exp_avg"), "the state of parameter 'weight' does not belong to adamw"),
        (_reshaped, r"parameter 'weight': exp_avg has shape \(2, 2\) where \(3, 5\) is due"),
        (_renamed, "it lacks bias; this optimizer lacks offset"),
        (_bad_number, "lr = -1.0 must be at least 0"),
        (lambda state: state["param_groups"][0].update(betas=(0.5,)), "must be a tuple of 2"),
        *(
            (lambda state, x=x: state["state"][1].update(exp_avg=x), r"'bias': exp_avg is a torch.\w+ tensor of dtype")
            for x in (torch.zeros(5, dtype=torch.int64), torch.zeros(5) * 1j, torch.zeros(5).to_sparse())
        ),
    ],
)
def test_a_state_that_does_not_fit_is_named_and_changes_nothing(spoil: Any, message: str) -> None:
    _, optimizer = trained(tf.adamw())
    saved = copy.deepcopy(optimizer.state_dict())
    spoil(saved)
    before = snapshot(optimizer)
    with pytest.raises((ValueError, TypeError), match=message):
        optimizer.load_state_dict(saved)
    assert_same_bits(before, snapshot(optimizer))


def test_a_state_of_another_rule_or_option_is_refused() -> None:
    _, momentum = trained(tf.sgd(momentum=0.9))
    params, adamw = trained(tf.adamw())
    with pytest.raises(ValueError, match=r"does not belong to adamw: it has step, momentum_buffer"):
        adamw.load_state_dict(momentum.state_dict())
    plain = trainfn_torch.optim.SGD(params.values(), momentum=0.9)
    nesterov = torch.optim.SGD(params.values(), momentum=0.9, nesterov=True)
    with pytest.raises(ValueError, match="saved with nesterov = True"):
        plain.load_state_dict(nesterov.state_dict())


def test_an_empty_group_without_names_is_saved_and_loaded() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = trainfn_torch.Optimizer([{"params": []}, {"params": [p]}], tf.adamw())
    p.grad = torch.ones(2)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert float(optimizer.state[p]["step"]) == 1.0


NO_STATES = [
    *({}, {"state": {}}, {"model": 1}, [], None),
    *({"state": {}, "param_groups": [{"lr": 1.0}]}, {"state": None, "param_groups": []}),
]


@pytest.mark.parametrize("saved", NO_STATES)
def test_what_is_no_state_dict_is_refused(saved: Any) -> None:
    _, optimizer = trained(tf.adamw())
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match="this is no optimizer's state_dict"):
        optimizer.load_state_dict(saved)
    assert_same_bits(before, snapshot(optimizer))


def test_numbers_the_rule_would_ignore_are_refused_by_name() -> None:
    params, optimizer = trained(tf.sgd())
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"betas = \(0.9, 0.999\), eps = 1e-08, weight_decay = .*sgd has not"):
        optimizer.load_state_dict(optimizer_of(params, tf.adamw()).state_dict())
    assert_same_bits(before, snapshot(optimizer))
    adam = trainfn_torch.Optimizer(params.values(), tf.adam())
    theirs = torch.optim.Adam(params.values(), weight_decay=0.1)
    for _ in range(2):  # without state, and with it
        with pytest.raises(
            ValueError, match=r"weight_decay = 0.1, which adam has not.*coupled_weight_decay.*optim.Adam"
        ):
            adam.load_state_dict(theirs.state_dict())
        give_gradients(params, 1)
        theirs.step()
    assert "weight_decay" not in adam.param_groups[0]
    trainfn_torch.optim.Adam(params.values()).load_state_dict(theirs.state_dict())


def test_keys_that_change_no_result_are_loaded_from_torch() -> None:
    params = parameters()
    theirs = torch.optim.Adam(params.items(), foreach=True, capturable=False, maximize=True)
    torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.1, total_steps=10)
    theirs.param_groups[0].update(mine=0.0, label="head", absent=None)
    adam = optimizer_of(params, tf.adam())
    adam.load_state_dict(theirs.state_dict())
    assert (adam.param_groups[0]["maximize"], adam.param_groups[0]["label"]) == (True, "head")
    adam.param_groups[0]["layer"] = 3  # the user's own: what our groups have too is loaded
    adam.load_state_dict(adam.state_dict())
    assert adam.param_groups[0]["layer"] == 3


def test_hooks_around_saving_and_loading() -> None:
    _, optimizer = trained(tf.adamw())
    saved = optimizer.state_dict()
    order: list[str] = []

    def rescued(_: Any, state: Any) -> Any:
        order.append("pre")
        return {**state, "param_groups": saved["param_groups"]}

    optimizer.register_load_state_dict_pre_hook(rescued)
    optimizer.register_load_state_dict_post_hook(lambda _: order.append("post"))
    optimizer.load_state_dict({"state": saved["state"], "param_groups": []})
    assert order == ["pre", "post"]


def test_a_loaded_schedule_goes_on_where_it_was() -> None:
    _, optimizer = trained(tf.adamw(lr=DECAY), 4)
    fresh = optimizer_of(parameters(), tf.adamw(lr=DECAY))
    saved = optimizer.state_dict()
    saved["param_groups"][0]["lr"] = 123.0  # owned by the schedule, whatever was saved
    fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["lr"] == DECAY(4)


def test_numbers_changed_in_a_group_are_loaded_whoever_decided_them_at_first() -> None:
    made = tf.adamw(lr=DECAY, b1=linear(start=0.5, stop=0.9, steps=4), weight_decay=by_name)
    _, optimizer = trained(made, 2)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.7
        group["betas"] = (0.1, 0.6)
    fresh = optimizer_of(parameters(), made)
    fresh.load_state_dict(optimizer.state_dict())
    for group in fresh.param_groups:
        assert group["weight_decay"] == 0.7
        assert group["betas"] == (linear(start=0.5, stop=0.9, steps=4)(2), 0.6)


def test_what_a_scheduler_left_in_a_state_does_not_make_it_an_owner() -> None:
    params, optimizer = trained(tf.adamw())
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    saved = optimizer.state_dict()
    assert {"initial_lr", "max_momentum"} <= saved["param_groups"][0].keys()
    again = optimizer_of(params, tf.adamw(lr=DECAY))
    again.load_state_dict(saved)
    again.step()
    unscheduled = optimizer_of(params, tf.adamw())
    unscheduled.load_state_dict(saved)
    assert unscheduled.param_groups[0]["initial_lr"] == saved["param_groups"][0]["initial_lr"]


# -- torch.optim's states ----------------------------------------------------------------------------------------------

NAMESAKES: list[tuple[str, dict[str, Any]]] = [
    ("AdamW", {}),
    ("Adam", {"weight_decay": 0.1}),
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    ("RAdam", {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "eps": 1e-2}),
    ("Adagrad", {"lr_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "hyper"), NAMESAKES)
def test_states_are_exchanged_with_torch(name: str, hyper: Any) -> None:
    """Three optimizers on one trajectory: torch's, ours loaded from it, torch's loaded from ours."""
    theirs_of, ours_of = getattr(torch.optim, name), getattr(trainfn_torch.optim, name)
    runs: list[tuple[dict[str, Any], Any]] = []

    def follow(make: Any) -> None:
        params = {k: torch.nn.Parameter(p.detach().double()) for k, p in parameters().items()}
        if runs:
            for k, p in runs[-1][0].items():
                params[k] = torch.nn.Parameter(p.detach().clone())
        optimizer = make(params.values(), **hyper)
        if runs:
            optimizer.load_state_dict(through_a_file(runs[-1][1].state_dict()))
        runs.append((params, optimizer))

    for n, make in enumerate([theirs_of, ours_of, theirs_of]):
        follow(make)
        for m in range(4):
            for params, optimizer in runs:
                give_gradients(params, 4 * n + m)
                optimizer.step()
    for params, _ in runs[1:]:
        for k, p in params.items():
            torch.testing.assert_close(p, runs[0][0][k], rtol=1e-12, atol=1e-12)
    assert float(runs[1][1].param_groups[0]["updates"]) >= 8 or name == "SGD"  # torch's SGD keeps no count


def test_vocabulary_is_torchs() -> None:
    params = parameters()
    ours, theirs = trainfn_torch.optim.AdamW(params.values()), torch.optim.AdamW(params.values())
    shared = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize")
    assert {k: ours.defaults[k] for k in shared} == {k: theirs.defaults[k] for k in shared}
    assert Names(tf.rmsprop(momentum=0.1, centered=True)).state == {
        "v": "square_avg",
        "mean": "grad_avg",
        "buf": "momentum_buffer",
    }
    with pytest.raises(ValueError, match="Nesterov"):
        trainfn_torch.optim.SGD(params.values(), nesterov=True)


def test_what_was_decided_when_the_rule_was_made_cannot_be_changed_in_a_group() -> None:
    params = parameters()
    optimizer = trainfn_torch.optim.SGD(params.values(), lr=0.1)
    optimizer.param_groups[0]["momentum"] = 0.9
    give_gradients(params, 1)
    with pytest.raises(ValueError, match=r"momentum = 0.9 in a parameter group: .* was made with momentum = 0"):
        optimizer.step()


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [tf.adamw(lr=DECAY), BY_SHAPE, keeps_numbers()])
def test_a_deep_copy_continues_and_shares_nothing(made: tf.Rule) -> None:
    params, optimizer = trained(made)
    optimizer._step_supports_amp_scaling = False
    params_b, other = copy.deepcopy((params, optimizer))
    assert other._step_supports_amp_scaling is False
    assert other.rule is made
    assert_same_bits(snapshot(optimizer), snapshot(other))
    give_gradients(params_b, 5)
    before = snapshot(optimizer)
    other.step()
    assert_same_bits(before, snapshot(optimizer))
    give_gradients(params, 5)
    optimizer.step()
    assert_continue_alike(optimizer, other, params, params_b)
    other.add_param_group({"params": [("new", torch.nn.Parameter(torch.ones(2, 2)))]})


def test_a_copy_keeps_a_foreign_number() -> None:
    _, optimizer = trained(tf.adamw(lr=DECAY))
    optimizer.param_groups[0]["lr"] = 0.5
    params, other = copy.deepcopy((list(optimizer.state), optimizer))
    for p in params:
        p.grad = torch.zeros_like(p)
    with pytest.warns(RuntimeWarning, match="the schedule rests"):
        other.step()
    assert other.param_groups[0]["lr"] == 0.5


class Numbers(NamedTuple):
    of_model: ModelScalar
    of_leaf: LeafScalar


@tf.rule
def with_numbers(state: Numbers, g: Any, *, lr: Any = 0.1) -> Any:
    return -lr * g, Numbers(state.of_model + global_norm(g), state.of_leaf + leaf_sum(g))


def _spoiled_model(saved: Any, value: Any) -> None:
    for group in saved["param_groups"]:
        group["of_model"] = value


def _spoiled_leaf(saved: Any, value: Any) -> None:
    saved["state"][0]["of_leaf"] = value


def _spoiled_step(saved: Any, value: Any) -> None:
    saved["state"][0]["step"] = value


def _spoiled_updates(saved: Any, value: Any) -> None:
    for group in saved["param_groups"]:
        group["updates"] = value


@pytest.mark.parametrize("value", [torch.zeros(3), "x", math.nan, -3.0, math.inf])
@pytest.mark.parametrize("spoil", [_spoiled_model, _spoiled_leaf, _spoiled_step, _spoiled_updates])
def test_a_number_that_is_none_is_refused_before_anything_is_loaded(spoil: Any, value: Any) -> None:
    _, optimizer = trained(with_numbers())
    saved = copy.deepcopy(optimizer.state_dict())
    spoil(saved, value)
    optimizer.param_groups[0]["lr"] = 0.75
    before = copy.deepcopy(optimizer.state_dict())
    is_counter = spoil in (_spoiled_step, _spoiled_updates)
    if isinstance(value, float) and not is_counter:  # a number of the rule may be any
        optimizer.load_state_dict(saved)
        return
    with pytest.raises((TypeError, ValueError), match=r"number|count"):
        optimizer.load_state_dict(saved)
    assert_same_bits(flat(before), flat(optimizer.state_dict()))


def flat(saved: Any) -> dict[str, Any]:
    numbers = {f"group.{k}": np.float64(v) for k, v in saved["param_groups"][0].items() if isinstance(v, float)}
    numbers["updates"] = np.float64(saved["param_groups"][0]["updates"].item())
    return numbers | {f"{i}.{k}": x.numpy() for i, xs in saved["state"].items() for k, x in xs.items()}


def test_parameters_exchanged_in_a_group_load() -> None:
    """As where points are added to a scene: a parameter is replaced by a larger one, its state by hand."""
    params = [torch.nn.Parameter(torch.ones(n)) for n in (3, 5, 2)]
    optimizer = trainfn_torch.optim.Adam(params)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    old = weakref.ref(params[1])
    state = optimizer.state.pop(params[1])
    new = torch.nn.Parameter(torch.ones(8))
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = torch.cat([state[name], torch.zeros(3)])
    params[1] = optimizer.param_groups[0]["params"][1] = new
    optimizer.state[new] = state
    new.grad = torch.ones_like(new)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    optimizer.load_state_dict(saved)
    assert torch.equal(optimizer.state[new]["exp_avg"], saved["state"][1]["exp_avg"])
    gc.collect()
    assert old() is None


def test_pickling_with_a_function_that_pickle_cannot_find() -> None:
    params, optimizer = trained(BY_SHAPE)
    params_b, other = pickle.loads(pickle.dumps((params, optimizer)))
    assert_same_bits(snapshot(optimizer), snapshot(other))
    assert_continue_alike(optimizer, other, params, params_b)
    new = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(RuntimeError, match=r"function for weight_decay, .*lambda.* could not be pickled"):
        other.add_param_group({"params": [("new", new)]})
    other.add_param_group({"params": [("new", new)], "weight_decay": 0.2})
    assert other.param_groups[-1]["weight_decay"] == 0.2


def test_pickling_keeps_what_it_can() -> None:
    made = tf.chain(tf.clip_by_global_norm(1.0), tf.adamw(lr=DECAY, weight_decay=by_name))
    params, optimizer = trained(made)
    params_b, other = pickle.loads(pickle.dumps((params, optimizer)))
    assert other.rule.structure == made.structure
    other.add_param_group({"params": [("new", torch.nn.Parameter(torch.ones(2)))]})
    assert (other.param_groups[-1]["weight_decay"], other.param_groups[-1]["lr"]) == (0.1, DECAY(3))
    del other.param_groups[-1], other._groups[-1]
    assert_continue_alike(optimizer, other, params, params_b)


# -- any order of events -----------------------------------------------------------------------------------------------


class Events(RuleBasedStateMachine):
    """Steps, skips, saves, loads, copies, new groups and changed numbers, in any order, beside the reference."""

    @initialize(
        execution=st.sampled_from(["single", "foreach", "fused"]),
        made=st.sampled_from(
            [tf.adamw(lr=DECAY), tf.sgd(momentum=0.9), tf.chain(tf.clip_by_global_norm(0.1), tf.lion())]
        ),
    )
    def begin(self, execution: str, made: tf.Rule) -> None:
        self.execution, self.made = execution, made
        self.params = parameters()
        self.optimizer = optimizer_of(self.params, made, execution=execution)
        self.expected = Reference(made, self.params)
        self.events = 0

    @rule(only=st.sets(st.sampled_from(["weight", "bias", "scale", "new"])), skips=st.sampled_from([None, False, True]))
    def step(self, only: set[str], skips: bool | None) -> None:
        """With a gradient scaler's verdict, or without a scaler."""
        self.events += 1
        give_gradients(self.params, self.events, only)
        if skips is not None:
            self.optimizer.found_inf = torch.tensor(float(skips))
        self.optimizer.step()
        if skips is not None:
            del self.optimizer.found_inf
        if only & self.params.keys() and not skips:
            self.expected.step(self.params)
        self.expected.check(self.optimizer, self.params, f"{self.execution}, event {self.events}")

    @rule(lr=st.sampled_from([0.0, 0.25, 1e-3]))
    def change(self, lr: float) -> None:
        if "lr" not in self.optimizer._groups[0].schedules:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            links = [link for r in (self.made,) for link in r.links]
            last = links[-1].definition(**{**links[-1].hyper, "lr": lr})
            self.made = last if len(links) == 1 else tf.chain(tf.Rule(tuple(links[:-1])), last)
            self.expected.rule = self.made

    @rule(how=st.sampled_from(["save", "copy", "pickle"]))
    def save_and_load(self, how: str) -> None:
        if how == "save":
            state = through_a_file(self.optimizer.state_dict())
            new = trainfn_torch.Optimizer(
                [
                    {"params": [(n, self.params[n]) for n in group["param_names"]]}
                    for group in self.optimizer.param_groups
                ],
                self.made,
                execution=self.execution,
            )
            new.load_state_dict(state)
            self.optimizer = new
        else:
            both = (self.params, self.optimizer)
            self.params, self.optimizer = copy.deepcopy(both) if how == "copy" else pickle.loads(pickle.dumps(both))
        self.expected.check(self.optimizer, self.params, how)

    @rule()
    def add_group(self) -> None:
        if "new" not in self.params:
            self.params["new"] = parameters(7, {"new": (4,)})["new"]
            group: dict[str, Any] = {"params": [("new", self.params["new"])]}
            if "lr" not in self.optimizer._groups[0].schedules:
                group["lr"] = self.optimizer.param_groups[0]["lr"]
            self.optimizer.add_param_group(group)
            added = Reference(self.made, {"new": self.params["new"]})
            s, t = self.expected.state, added.state
            self.expected.params["new"] = added.params["new"]
            self.expected.state = s.__class__(s.count, s.model, {**s.steps, **t.steps}, {**s.leaves, **t.leaves})


Events.TestCase.settings = settings(max_examples=40, stateful_step_count=12)
TestEvents = Events.TestCase
