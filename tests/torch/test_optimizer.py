"""The optimizer as torch's loops use it: groups, ownership of hyperparameters, hooks, closures, odd tensors, errors."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from tests.torch.optimizer_runs import EXECUTIONS, Reference, give_gradients, parameters, snapshot
from trainfn.rule import rule
from trainfn.schedules import linear
from trainfn.trace import Array, LeafScalar, ModelPair, ModelScalar
from trainfn.verbs import apply_if, global_norm, global_sum, leaf_max, where

DECAY = linear(start=0.1, stop=0.0, steps=10)
BY_SHAPE = tf.adamw(weight_decay=lambda leaf: 0.1 if leaf.ndim > 1 else 0.0)


def optimizer_of(params: Any, *args: Any, **kwargs: Any) -> trainfn_torch.Optimizer:
    return trainfn_torch.Optimizer(list(params.items()), *args, **kwargs)


# -- bits, where the catalogue's tests do not look ---------------------------------------------------------------------


class Numbers(NamedTuple):
    m: Array
    largest: LeafScalar
    norm: ModelScalar
    sum: ModelPair


@rule
def keeps_numbers(state: Numbers, g: Any, *, lr: Any = 0.1) -> Any:
    """State of every sort."""
    norm = 0.5 * state.norm + global_norm(g)
    largest = leaf_max(abs(g)) + 0.25 * state.largest
    m = 0.9 * state.m + g
    return -lr * m / (norm + largest + 1), Numbers(m, largest, norm, state.sum + 1 / 3 + global_sum(g * 0.0))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_state_of_every_sort(execution: str) -> None:
    params = parameters()
    optimizer = optimizer_of(params, keeps_numbers(), execution=execution)
    expected = Reference(keeps_numbers(), params)
    for n in range(4):
        give_gradients(params, n)
        optimizer.step()
        expected.step(params)
    for name, p in params.items():
        assert_same_bits({"p": expected.params[name]}, {"p": p.detach().numpy()}, name)
        leaf = expected.state.leaves[name]
        assert_same_bits({"m": leaf["m"]}, {"m": optimizer.state[p]["m"].numpy()}, name)
        assert float(optimizer.state[p]["largest"]) == leaf["largest"]
    group = optimizer.param_groups[0]
    model = expected.state.model
    assert float(group["norm"]) == model["norm"] != 0.0
    assert group["sum"].tolist() == [model["sum.high"], model["sum.low"]]
    assert model["sum.low"] != 0.0


class Largest(NamedTuple):
    largest: LeafScalar


@rule
def keeps_the_largest(state: Largest, g: Any) -> Any:
    return -g, Largest(leaf_max(g))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_the_largest_of_no_numbers(execution: str) -> None:
    params = parameters(shapes={"empty": (0, 3), "one": (1,)})
    expected = Reference(keeps_the_largest(), params)
    optimizer = optimizer_of(params, keeps_the_largest(), execution=execution)
    give_gradients(params, 1)
    optimizer.step()
    expected.step(params)
    expected.check(optimizer, params)
    assert float(optimizer.state[params["empty"]]["largest"]) == -math.inf


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_sum_over_leaves_that_hold_infinities_of_both_signs(execution: str) -> None:
    made = rule(lambda g: -g * where(global_sum(g) == 0.0, 1.0, 2.0))()
    params = {name: torch.nn.Parameter(torch.zeros(1)) for name in "ab"}
    optimizer = optimizer_of(params, made, execution=execution)
    params["a"].grad, params["b"].grad = torch.tensor([math.inf]), torch.tensor([-math.inf])
    optimizer.step()
    assert [p.item() for p in params.values()] == [-math.inf, math.inf]


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_leaves_without_gradient_rest_and_schedules_count_model_updates(execution: str) -> None:
    params = parameters()
    made = tf.adamw(lr=DECAY)
    optimizer, expected = optimizer_of(params, made, execution=execution), Reference(made, params)
    for n, only in enumerate([None, ["bias"], ["weight", "scale"], ["bias"], None]):
        give_gradients(params, n, only)
        optimizer.step()
        expected.step(params)
        expected.check(optimizer, params, f"{execution}, step {n}")
    assert [float(optimizer.state[p]["step"]) for p in params.values()] == [3, 4, 3]
    assert optimizer.param_groups[0]["lr"] == DECAY(5)


def test_a_parameter_that_never_had_a_gradient_has_no_state() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw())
    give_gradients(params, 1, ["bias"])
    optimizer.step()
    assert list(optimizer.state) == [params["bias"]]
    assert list(optimizer.state[params["bias"]]) == ["step", "exp_avg", "exp_avg_sq"]
    before = snapshot(optimizer)
    give_gradients(params, 1, [])
    optimizer.step()
    assert_same_bits(before, snapshot(optimizer))


LAYOUTS = {
    "transposed": lambda x: x.t().contiguous().t(),
    "sliced": lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
}


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(execution: str, layout: str) -> None:
    plain = parameters()
    odd = {"weight": torch.nn.Parameter(LAYOUTS[layout](plain["weight"].detach())), "bias": plain["bias"]}
    made = tf.chain(tf.clip_by_global_norm(0.5), tf.adamw())
    optimizer, expected = optimizer_of(odd, made, execution=execution), Reference(made, odd)
    for n in range(3):
        give_gradients(odd, n)
        if n == 1:
            odd["weight"].grad = odd["weight"].grad.t().contiguous().t()
        optimizer.step()
        expected.step(odd)
    expected.check(optimizer, odd, layout)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_complex_parameters_are_pairs_of_numbers(execution: str) -> None:
    real = parameters(shapes={"w": (4, 3, 2)})
    twin = {"w": torch.nn.Parameter(torch.view_as_complex(real["w"].detach().clone()))}
    made = tf.adamw(weight_decay=0.1)
    ours, theirs = optimizer_of(real, made, execution=execution), optimizer_of(twin, made, execution=execution)
    for n in range(3):
        give_gradients(real, n)
        g = torch.view_as_complex(real["w"].grad.clone())
        twin["w"].grad = g.conj().resolve_conj().conj() if n else g  # a lazy conjugate, as backward makes them
        assert twin["w"].grad.is_conj() == bool(n)
        ours.step()
        theirs.step()
    assert_same_bits({"w": real["w"].detach()}, {"w": torch.view_as_real(twin["w"].detach())})
    state = theirs.state[twin["w"]]
    assert state["exp_avg"].is_complex()
    assert_same_bits({"m": ours.state[real["w"]]["exp_avg"]}, {"m": torch.view_as_real(state["exp_avg"])})


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_lazy_negation_of_a_gradient(execution: str) -> None:
    params = parameters(shapes={"w": (6,)})
    optimizer, expected = optimizer_of(params, tf.lion(), execution=execution), Reference(tf.lion(), params)
    give_gradients(params, 1)
    g = params["w"].grad.clone()
    params["w"].grad = torch.complex(torch.zeros(6), -g).conj().imag
    assert params["w"].grad.is_neg()
    optimizer.step()
    params["w"].grad = g
    expected.step(params)
    expected.check(optimizer, params)


class Labelled(torch.Tensor):
    """A subclass that only adds behaviour."""


def test_subclasses_are_seen_through() -> None:
    params = parameters()
    twin = {"weight": params["weight"].detach().clone().as_subclass(Labelled).requires_grad_()}
    params = {"weight": params["weight"]}
    ours, theirs = optimizer_of(params, tf.adamw()), optimizer_of(twin, tf.adamw())
    for n in range(2):
        give_gradients(params, n)
        twin["weight"].grad = params["weight"].grad.clone().as_subclass(Labelled)
        ours.step()
        theirs.step()
    assert_same_bits({"w": params["weight"].detach()}, {"w": twin["weight"].detach().as_subclass(torch.Tensor)})


def test_executions_mix_within_a_step() -> None:
    """A parameter with holes in memory is not for the fused kernels; the others are, and the update counts once."""
    for made in (tf.adamw(), tf.chain(tf.clip_by_global_norm(0.1), tf.adamw())):
        params = parameters()
        params["bias"] = torch.nn.Parameter(LAYOUTS["strided"](params["bias"].detach()))
        optimizer, expected = optimizer_of(params, made), Reference(made, params)
        for n in range(3):
            give_gradients(params, n)
            optimizer.step()
            expected.step(params)
        expected.check(optimizer, params, repr(made))
        assert len({slot.execution for slot in optimizer._slots.values()}) == 2


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_exchanged_memory(execution: str) -> None:
    """`p.data = ...`, and state moved away and back, as offloading does."""
    params = parameters()
    optimizer, expected = optimizer_of(params, tf.adamw(), execution=execution), Reference(tf.adamw(), params)
    for n in range(4):
        if n == 2:
            params["weight"].data = params["weight"].detach().clone()
            state = optimizer.state[params["bias"]]
            optimizer.state[params["bias"]] = {k: x.clone() for k, x in state.items()}
            state["exp_avg"].fill_(math.nan)
        if n == 3:
            state = optimizer.state[params["scale"]]
            old, state["exp_avg"] = state["exp_avg"], state["exp_avg"].clone()
            old.fill_(math.nan)
        give_gradients(params, n)
        optimizer.step()
        expected.step(params)
    expected.check(optimizer, params)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", ["complex", "subclass"])
def test_exchanged_memory_behind_a_view(execution: str, kind: str) -> None:
    """What such a parameter is updated through was made once, and is of the old memory."""
    real = parameters(shapes={"w": (4, 2)})
    w = real["w"].detach().clone()
    w = torch.view_as_complex(w) if kind == "complex" else w.as_subclass(Labelled)
    odd = {"w": w.requires_grad_()}
    ours, theirs = (optimizer_of(params, tf.adamw(), execution=execution) for params in (real, odd))
    for n in range(4):
        if n == 2:
            old, odd["w"].data = odd["w"].detach(), odd["w"].detach().clone()
            old.fill_(math.nan)
        give_gradients(real, n)
        g = real["w"].grad.clone()
        odd["w"].grad = torch.view_as_complex(g) if kind == "complex" else g.as_subclass(Labelled)
        ours.step()
        theirs.step()
    w = odd["w"].detach()
    w = torch.view_as_real(w) if kind == "complex" else w.as_subclass(torch.Tensor)
    assert_same_bits({"w": real["w"].detach()}, {"w": w})


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", [torch.float32, torch.complex64, Labelled])
def test_the_same_memory_laid_out_otherwise(execution: str, kind: Any) -> None:
    p = torch.zeros(3, 3, dtype=torch.float32 if kind is Labelled else kind)
    p = torch.nn.Parameter(p.as_subclass(Labelled) if kind is Labelled else p)
    optimizer = trainfn_torch.Optimizer([p], tf.sgd(lr=1.0, momentum=0.0), execution=execution)
    for n in range(2):
        p.grad = torch.arange(9.0).reshape(3, 3).to(p.dtype) * n
        optimizer.step()
        if n == 0:
            p.data = p.data.t()
            state = optimizer.state[p]["momentum_buffer"]
            state.data = state.data.t()
    assert torch.equal(p.detach().as_subclass(torch.Tensor), -torch.arange(9.0).reshape(3, 3).to(p.dtype))


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("kind", [torch.float32, torch.complex64, Labelled])
def test_a_state_given_other_memory(execution: str, kind: Any) -> None:
    p = torch.zeros(2, dtype=torch.float32 if kind is Labelled else kind)
    p = torch.nn.Parameter(p.as_subclass(Labelled) if kind is Labelled else p)
    optimizer = trainfn_torch.Optimizer([p], tf.sgd(lr=1.0, momentum=0.5), execution=execution)
    for n in range(2):
        p.grad = torch.zeros_like(p)
        optimizer.step()
        state = optimizer.state[p]["momentum_buffer"]
        if n == 0:
            state.data = torch.full_like(state, 4.0)
    assert torch.equal(state.as_subclass(torch.Tensor), torch.full((2,), 2.0, dtype=p.dtype))


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_autograd_notices_the_update(execution: str) -> None:
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = trainfn_torch.Optimizer([p], tf.sgd(), execution=execution)
    loss = (p * p).sum()
    p.grad = torch.ones(4)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_gradients_are_read_only(execution: str) -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.chain(tf.clip_by_global_norm(0.1), tf.adamw()), execution=execution)
    give_gradients(params, 1)
    before = {name: p.grad.clone() for name, p in params.items()}
    optimizer.step()
    assert_same_bits(before, {name: p.grad for name, p in params.items()})


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("made", [tf.adamw(), tf.sgd(momentum=0.9), tf.lion(), tf.radam(), tf.rmsprop(), tf.adagrad()])
def test_no_learning_rate_and_no_gradient_move_nothing(execution: str, made: tf.Rule) -> None:
    params = parameters()
    optimizer = optimizer_of(params, made, execution=execution)
    before = {name: p.detach().clone() for name, p in params.items()}
    optimizer.param_groups[0]["lr"] = 0.0
    for p in params.values():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert_same_bits(before, {name: p.detach() for name, p in params.items()})


def test_maximize() -> None:
    up, down = parameters(), parameters()
    ascent = optimizer_of(up, tf.adamw(weight_decay=0.0), maximize=True)
    descent = optimizer_of(down, tf.adamw(weight_decay=0.0))
    for n in range(3):
        give_gradients(up, n)
        for name, p in up.items():
            down[name].grad = -p.grad
        ascent.step()
        descent.step()
    assert_same_bits({k: p.detach() for k, p in up.items()}, {k: p.detach() for k, p in down.items()})


# -- the loop's side ---------------------------------------------------------------------------------------------------


@rule
def polyak(g: Any, value: Any) -> Any:
    """A step that needs the loss."""
    return -value * g


def test_the_loss_comes_from_the_closure_or_the_caller() -> None:
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = trainfn_torch.Optimizer([p], polyak())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 4.0
    assert p.item() == 2.0 - 4.0 * 4.0
    p.grad = torch.ones(1)
    assert optimizer.step(value=torch.tensor(3.0)) is None
    assert p.item() == -14.0 - 3.0
    with pytest.raises(ValueError, match=r"polyak needs the loss: write step\(value=loss\)"):
        optimizer.step()
    assert p.item() == -17.0


def test_hooks_run_around_the_step() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw())
    order: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: order.append(f"pre {len(optimizer.state)}"))
    optimizer.register_step_post_hook(lambda *_: order.append(f"post {len(optimizer.state)}"))
    give_gradients(params, 1)
    optimizer.step()
    assert order == ["pre 0", "post 3"]


def test_state_made_by_a_hook_is_kept() -> None:
    """Torchtitan keeps bfloat16 moments by making them before the first step."""
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw())

    def fill(*_: Any) -> None:
        for p in params.values():
            if not optimizer.state[p]:
                low = torch.zeros_like(p, dtype=torch.bfloat16)
                optimizer.state[p].update(step=torch.tensor(0.0), exp_avg=low, exp_avg_sq=low.clone())

    optimizer.register_step_pre_hook(fill)
    give_gradients(params, 1)
    optimizer.step()
    state = optimizer.state[params["weight"]]
    assert state["exp_avg"].dtype is torch.bfloat16
    assert state["exp_avg"].any()
    assert float(state["step"]) == 1


def test_numbers_in_a_group_are_the_users() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw(lr=1e-3))
    expected = Reference(tf.adamw(), params)
    group = optimizer.param_groups[0]
    for n, lr in enumerate([1e-3, 0.5, torch.tensor(0.25), 0.125]):
        group["lr"] = lr
        group["betas"] = (0.5, 0.75)
        expected.rule = tf.adamw(lr=float(lr), b1=0.5, b2=0.75)
        give_gradients(params, n)
        optimizer.step()
        expected.step(params)
        expected.check(optimizer, params, f"lr {lr}")
        assert group["lr"] is lr


def test_a_scheduled_number_is_true_whenever_it_is_read() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw(lr=DECAY, b1=linear(start=0.5, stop=0.9, steps=4)))
    group = optimizer.param_groups[0]
    for n in range(12):
        assert group["lr"] == DECAY(n)
        assert group["betas"] == (linear(start=0.5, stop=0.9, steps=4)(n), 0.999)
        give_gradients(params, n)
        optimizer.step()


def test_a_foreign_number_is_used_and_left_until_the_owned_one_returns() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.sgd(lr=DECAY))
    group = optimizer.param_groups[0]
    owned = group["lr"]
    before = {name: p.detach().clone() for name, p in params.items()}
    group["lr"] = foreign = 0.0
    give_gradients(params, 1)
    optimizer.step()
    assert group["lr"] is foreign
    assert_same_bits(before, {name: p.detach() for name, p in params.items()})
    group["lr"] = owned
    expected = Reference(tf.sgd(lr=DECAY(1)), params)
    expected.state = expected.state.__class__(1, {}, dict.fromkeys(params, 1), {k: {} for k in params})
    optimizer.step()
    expected.step(params)
    expected.check(optimizer, params)
    assert group["lr"] == DECAY(2)


def test_a_constant_schedule_does_not_own_the_users_equal_number() -> None:
    number = 0.125
    optimizer = trainfn_torch.Optimizer([torch.nn.Parameter(torch.ones(2))], tf.sgd(lr=tf.schedules.constant(number)))
    assert optimizer.param_groups[0]["lr"] == number
    assert optimizer.param_groups[0]["lr"] is not number


@pytest.mark.filterwarnings("ignore:.*was put into a parameter group")
def test_a_number_equal_to_the_scheduled_one_is_the_users_all_the_same() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw(lr=DECAY, b1=linear(start=0.5, stop=0.9, steps=4)))
    group = optimizer.param_groups[0]
    group["lr"], group["betas"] = mine = (DECAY(0) * 1.0, (0.5, 0.999))
    assert (group["lr"], group["betas"]) == (DECAY(0), (0.5, 0.999))
    for n in range(3):
        give_gradients(params, n)
        optimizer.step()
        assert (group["lr"], group["betas"]) == mine


def test_a_scheduler_that_cycles_a_scheduled_b1_is_refused_by_name() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw(b1=linear(start=0.5, stop=0.9, steps=4)))
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    give_gradients(params, 1)
    with pytest.raises(RuntimeError, match=r"b1 has two owners: the schedule linear\(.*LRScheduler"):
        optimizer.step()
    assert not optimizer.state


def test_an_lr_scheduler_on_a_scheduled_lr_is_refused_by_name() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw(lr=DECAY))
    torch.optim.lr_scheduler.StepLR(optimizer, 3)
    give_gradients(params, 1)
    with pytest.raises(RuntimeError, match=r"lr has two owners: the schedule linear\(.*LRScheduler"):
        optimizer.step()
    assert not optimizer.state


# -- groups ------------------------------------------------------------------------------------------------------------


def test_leaf_functions_split_a_group() -> None:
    params = parameters()
    optimizer = optimizer_of(params, BY_SHAPE)
    assert [(g["param_names"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (["weight"], 0.1),
        (["bias", "scale"], 0.0),
    ]
    expected = Reference(BY_SHAPE, params)
    for n in range(3):
        give_gradients(params, n)
        optimizer.step()
        expected.step(params)
    expected.check(optimizer, params)


def test_a_group_beats_the_leaf_function_beats_the_default() -> None:
    params = parameters()
    groups = [{"params": [params["weight"]], "weight_decay": 0.3, "b1": 0.5}, {"params": [params["bias"]]}]
    optimizer = trainfn_torch.Optimizer(groups, BY_SHAPE)
    optimizer.add_param_group({"params": [params["scale"]], "lr": lambda leaf: 0.25, "betas": (0.1, 0.2)})
    assert [(g["weight_decay"], g["lr"], g["betas"]) for g in optimizer.param_groups] == [
        (0.3, 1e-3, (0.5, 0.999)),
        (0.0, 1e-3, (0.9, 0.999)),
        (0.0, 0.25, (0.1, 0.2)),
    ]


def test_a_group_may_have_its_own_schedule() -> None:
    params = parameters()
    optimizer = optimizer_of({"weight": params["weight"]}, tf.sgd(lr=1.0))
    give_gradients(params, 1)
    optimizer.step()
    optimizer.add_param_group({"params": [("bias", params["bias"])], "lr": DECAY})
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, DECAY(1)]
    optimizer.step()
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, DECAY(2)]
    assert optimizer.param_groups[0]["updates"] is optimizer.param_groups[1]["updates"]


def test_leaf_functions_that_return_schedules_do_not_split_needlessly() -> None:
    made = tf.sgd(lr=lambda leaf: linear(start=1.0, stop=0.0, steps=10 if leaf.ndim > 1 else 5))
    optimizer = optimizer_of(parameters(), made)
    assert [g["param_names"] for g in optimizer.param_groups] == [["weight"], ["bias", "scale"]]


def test_schedules_that_differ_in_anything_are_not_one_group() -> None:
    def made(lr: float) -> Any:
        @tf.schedule
        def closed_over(step):  # type: ignore[no-untyped-def]
            return lr + 0 * step

        return closed_over()

    close = torch.tensor(0.1), torch.tensor(0.10001)  # printed alike
    for rates in ((made(0.1), made(0.5)), tuple(map(tf.constant, close)), (0.0, -0.0)):
        optimizer = optimizer_of(parameters(), tf.sgd(lr=lambda leaf, rates=rates: rates[leaf.ndim > 1]))
        assert len(optimizer.param_groups) == 2


def test_groups_changed_by_hand_are_named() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.sgd(lr=lambda leaf: 0.1 + leaf.ndim))
    give_gradients(params, 1)
    optimizer.param_groups.pop()
    with pytest.raises(ValueError, match="there are 2 parameter groups and 3 were made: add one with add_param_group"):
        optimizer.step()


def test_the_users_own_group_dictionary_is_used() -> None:
    group = {"params": list(parameters().values()), "name": "all"}
    assert trainfn_torch.Optimizer([group], tf.adamw()).param_groups[0] is group


BAD_NUMBERS = [
    ({"lr": -1.0}, ValueError, "adamw: lr = -1.0 must be at least 0"),
    ({"lr": math.nan}, ValueError, "lr = nan"),
    ({"lr": torch.tensor(-1.0)}, ValueError, "adamw: lr = -1.0 must be at least 0"),
    ({"betas": (0.9, torch.tensor([math.nan]))}, ValueError, "b2 = nan"),
    ({"lr": "fast"}, TypeError, "lr = 'fast' is no hyperparameter"),
    ({"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element"),
    ({"betas": (0.9,)}, ValueError, r"betas = \(0.9,\) must be a tuple of 2: b1, b2"),
    ({"betas": (0.9, 1.0)}, ValueError, "b2 = 1.0 must be in"),
    ({"learning_rate": 0.1}, ValueError, "adamw has no hyperparameter learning_rate"),
    ({"weigth_decay": 0.1}, ValueError, "did you mean weight_decay"),
]


@pytest.mark.parametrize(("given", "kind", "message"), BAD_NUMBERS)
def test_bad_numbers_in_a_new_group_are_named_and_change_nothing(given: Any, kind: Any, message: str) -> None:
    params = parameters()
    optimizer = optimizer_of({"weight": params["weight"]}, tf.adamw())
    with pytest.raises(kind, match=message):
        optimizer.add_param_group({"params": [("bias", params["bias"])], **given})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [("bias", params["bias"])]})
    assert len(optimizer.param_groups) == 2


@pytest.mark.parametrize(("given", "kind", "message"), BAD_NUMBERS[:-2])
def test_bad_numbers_put_into_a_group_are_named_and_change_nothing(given: Any, kind: Any, message: str) -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw())
    give_gradients(params, 1)
    before = {name: p.detach().clone() for name, p in params.items()}
    optimizer.param_groups[0].update(given)
    with pytest.raises(kind, match=message):
        optimizer.step()
    assert_same_bits(before, {name: p.detach() for name, p in params.items()})
    assert not optimizer.state


@pytest.mark.parametrize("lr", [-1.0, math.nan])
def test_a_bad_number_in_a_tensor_makes_no_optimizer(lr: float) -> None:
    with pytest.raises(ValueError, match=f"lr = {lr} must be at least 0"):
        optimizer_of(parameters(), tf.adamw(lr=torch.tensor(lr)))


@pytest.mark.parametrize("lr", [-1.0, math.nan])
def test_a_number_in_a_tensor_that_turns_bad_is_noticed(lr: float) -> None:
    params = parameters()
    rate = torch.tensor(0.1)
    optimizer = optimizer_of(params, tf.adamw(lr=rate))
    give_gradients(params, 1)
    optimizer.step()
    before = {name: p.detach().clone() for name, p in params.items()}
    rate.fill_(lr)
    with pytest.raises(ValueError, match=f"lr = {lr} must be at least 0"):
        optimizer.step()
    assert_same_bits(before, {name: p.detach() for name, p in params.items()})


def test_a_missing_number_and_a_schedule_put_into_a_group_are_errors() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw())
    give_gradients(params, 1)
    optimizer.param_groups[0]["lr"] = DECAY
    with pytest.raises(TypeError, match="Schedules and leaf functions are given to the rule"):
        optimizer.step()
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(KeyError, match="lr is missing from a parameter group"):
        optimizer.step()


def test_a_group_that_is_refused_in_part_is_refused_whole() -> None:
    params = parameters()
    optimizer = optimizer_of({"bias": params["bias"]}, BY_SHAPE)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [("weight", params["weight"]), ("again", params["bias"])]})
    assert [g["param_names"] for g in optimizer.param_groups] == [["bias"]]


def test_what_decides_the_formulas_is_refused_when_a_group_is_made() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="made with momentum = 0"):
        trainfn_torch.optim.SGD([{"params": [p], "momentum": 0.9}], lr=0.1)


def test_a_schedule_that_something_else_overwrites_says_so_once() -> None:
    """ReduceLROnPlateau leaves no mark in a group, as other schedulers do; loaders put a zero there for one step."""
    params = parameters()
    optimizer = optimizer_of(params, tf.sgd(lr=DECAY))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    for n in range(3):
        give_gradients(params, n)
        with pytest.warns(RuntimeWarning, match="lr = .* the schedule rests") if n == 2 else nullcontext():
            optimizer.step()
        plateau.step(1.0)


def test_items_of_a_list_in_a_group_may_be_changed() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw())
    optimizer.param_groups[0]["betas"] = [0.9, 0.99]
    for b1 in (0.9, 0.25):
        optimizer.param_groups[0]["betas"][0] = b1
        give_gradients(params, 1)
        before = {p: optimizer.state[p].get("exp_avg", torch.zeros_like(p)).clone() for p in params.values()}
        optimizer.step()
        for p, m in before.items():
            torch.testing.assert_close(optimizer.state[p]["exp_avg"], b1 * m + (1 - b1) * p.grad)


def test_the_first_group_may_be_empty() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = trainfn_torch.Optimizer([{"params": []}, {"params": [p]}], keeps_numbers())
    other = trainfn_torch.Optimizer([{"params": []}], keeps_numbers())
    other.add_param_group({"params": [q := torch.nn.Parameter(torch.ones(3))]})
    for x, stepped in ((p, optimizer), (q, other)):
        x.grad = torch.ones(3)
        stepped.step()
        assert all(group["norm"] is stepped.param_groups[0]["norm"] for group in stepped.param_groups)
    assert torch.equal(p, q)


def test_the_default_device_is_for_new_tensors_only() -> None:
    params = parameters()
    with torch.device("meta"):
        optimizer = optimizer_of(params, tf.adamw(lr=DECAY))
    give_gradients(params, 1)
    with torch.device("meta"):
        optimizer.step()
    assert float(optimizer.param_groups[0]["updates"]) == 1
    assert all(p.device.type == "cpu" for state in optimizer.state.values() for p in state.values())


def test_a_gate_holds_leaves_of_every_execution() -> None:
    """Though it reduces nothing: that one leaf's condition fails keeps the whole model where it is."""

    @rule
    def gated(g: Any, *, lr: Any = 0.1) -> Any:
        return apply_if(lr > 0.0, -lr * g)

    for lrs in ((0.0, 0.1), (0.1, 0.0)):
        whole, strided = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(8)[::2])
        groups = [{"params": [p], "lr": lr} for p, lr in zip((whole, strided), lrs, strict=True)]
        optimizer = trainfn_torch.Optimizer(groups, gated())
        whole.grad = strided.grad = torch.ones(4)
        optimizer.step()
        assert torch.equal(whole, torch.ones(4))
        assert torch.equal(strided, torch.ones(4))
        assert float(optimizer.param_groups[0]["updates"]) == 0
        assert [float(optimizer.state[p]["step"]) for p in (whole, strided)] == [0, 0]


def test_a_nameless_parameter_has_no_name_to_decide_by() -> None:
    """`model.parameters()` gives none: to compare with an empty string would decide wrongly, and silently."""
    p = torch.zeros(3)
    by_name = tf.adamw(weight_decay=lambda leaf: 0.0 if leaf.name.endswith("bias") else 0.1)
    with pytest.raises(ValueError, match=r"model\.named_parameters\(\)"):
        trainfn_torch.Optimizer([p], by_name)
    by_shape = trainfn_torch.Optimizer(
        [p], tf.adamw(weight_decay=lambda leaf: 0.5 if leaf.ndim < 2 and leaf.size == 3 else 0.1)
    )
    assert by_shape.param_groups[0]["weight_decay"] == 0.5
    assert trainfn_torch.Optimizer([("bias", p)], by_name).param_groups[0]["weight_decay"] == 0.0


def test_a_hyperparameter_under_another_name_is_not_ignored() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw())
    give_gradients(params, 1)
    optimizer.param_groups[0]["note"] = "anything else is the user's"
    optimizer.step()
    optimizer.param_groups[0]["b1"] = 0.5
    before = [p.clone() for p in params.values()]
    with pytest.raises(ValueError, match="b1 in a parameter group is not read; set betas"):
        optimizer.step()
    assert all(torch.equal(p, x) for p, x in zip(params.values(), before, strict=True))


def test_arguments_of_torchs_own_optimizers() -> None:
    p = torch.zeros(3)
    assert trainfn_torch.optim.AdamW([p], fused=True).execution == "fused"
    assert trainfn_torch.optim.SGD([p], foreach=True, capturable=True, differentiable=False).execution == "foreach"
    assert trainfn_torch.optim.Adam([p], foreach=None, fused=False).execution is None
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        trainfn_torch.optim.AdamW([p], fused=True, foreach=True)
    with pytest.raises(ValueError, match="leave differentiable False"):
        trainfn_torch.optim.AdamW([p], differentiable=True)
    with pytest.raises(TypeError, match=r"AdamW has no argument weight_decy; did you mean weight_decay\?"):
        trainfn_torch.optim.AdamW([p], weight_decy=0.1)
    with pytest.raises(TypeError, match="SGD has no argument qqq; it has lr, momentum"):
        trainfn_torch.optim.SGD([p], qqq=0.1)
    for betas in (0.9, (0.9,), (0.9, 0.9, 0.9)):
        with pytest.raises(ValueError, match="must be a tuple of 2: b1, b2"):
            trainfn_torch.optim.AdamW([p], betas=betas)


def test_a_count_put_into_a_group_is_used() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.sgd(lr=DECAY))
    optimizer.param_groups[0]["updates"] = torch.tensor(5.0)
    give_gradients(params, 1)
    optimizer.step()
    assert float(optimizer.param_groups[0]["updates"]) == 6
    assert optimizer.param_groups[0]["lr"] == DECAY(6)


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_torch_refuses_is_refused() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    adamw = tf.adamw()
    refused = [
        ([], ValueError),
        (p, TypeError),
        ([{"params": {p}}], TypeError),
        ([1.0], TypeError),
        ([p * 2], ValueError),
    ]
    for params, kind in refused:
        with pytest.raises(kind):
            trainfn_torch.Optimizer(params, adamw)
    with pytest.raises(ValueError, match="more than one parameter group"):
        trainfn_torch.Optimizer([{"params": [p]}, {"params": [p]}], adamw)
    with pytest.raises(ValueError, match="with/without names"):
        trainfn_torch.Optimizer([("a", p), torch.nn.Parameter(torch.ones(2))], adamw)
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = trainfn_torch.Optimizer([p, p], adamw)
    assert optimizer.param_groups[0]["params"] == [p]  # and is updated once


def test_a_rule_without_its_hyperparameters_is_no_rule() -> None:
    with pytest.raises(TypeError, match=r"Write adamw\(\) for its defaults"):
        trainfn_torch.Optimizer([torch.nn.Parameter(torch.ones(2))], tf.adamw)  # type: ignore[arg-type]


def test_a_module_is_no_parameters() -> None:
    with pytest.raises(TypeError, match=r"give it model.named_parameters\(\)"):
        trainfn_torch.Optimizer(torch.nn.Linear(2, 2), tf.adamw())


def test_integer_and_expanded_parameters_are_named() -> None:
    counts = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"parameter 'counts' has dtype torch.int64.*Leave it out"):
        optimizer_of({"counts": counts}, tf.adamw())
    wide = torch.nn.Parameter(torch.zeros(1).expand(4))
    with pytest.raises(ValueError, match=r"parameter 'wide' is expanded.*contiguous"):
        optimizer_of({"wide": wide}, tf.adamw())


@pytest.mark.parametrize("lazy", [lambda z: z.conj(), lambda z: z.conj().imag], ids=["conjugate", "negative"])
def test_a_lazy_parameter_is_named(lazy: Any) -> None:
    p = torch.nn.Parameter(lazy(torch.ones(3, dtype=torch.complex64)))
    with pytest.raises(ValueError, match=r"'z' is a lazy conjugate or negative .* p.resolve_conj\(\).resolve_neg\(\)"):
        optimizer_of({"z": p}, tf.adamw())


@pytest.mark.parametrize("made", [tf.adamw(lr=DECAY), tf.skip_if_not_finite(tf.adamw())])
def test_tensors_that_are_shapes_only(made: tf.Rule) -> None:
    """What a run will need is tried out on them."""
    for context, device in ((FakeTensorMode(), "cpu"), (nullcontext(), "meta")):
        with context:
            p = torch.nn.Parameter(torch.ones(3, device=device))
            optimizer = optimizer_of({"p": p}, made)
            for _ in range(2):
                p.grad = torch.ones(3, device=device)
                optimizer.step()
            assert optimizer.state[p]["exp_avg"].device == p.device


def test_an_empty_parameter_is_not_expanded() -> None:
    empty = torch.tensor(np.zeros((0, 4), "f4")).requires_grad_()
    assert empty.stride() == (0, 0)
    optimizer = optimizer_of({"empty": empty}, tf.adamw())
    empty.grad = torch.zeros_like(empty)
    optimizer.step()
    assert float(optimizer.state[empty]["step"]) == 1


def test_a_stride_of_zero_where_there_is_one_element_is_no_overlap() -> None:
    params = {"row": torch.nn.Parameter(torch.ones(4).as_strided((1, 4), (0, 1)))}
    assert params["row"].stride() == (0, 1)
    optimizer, expected = optimizer_of(params, tf.adamw()), Reference(tf.adamw(), params)
    give_gradients(params, 1)
    optimizer.step()
    expected.step(params)
    expected.check(optimizer, params)


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("has_new_gradient", [False, True])
@pytest.mark.parametrize("shape", [(2, 5), (15,)])
def test_a_reshaped_parameter_is_named_and_nothing_changes(
    execution: str, shape: tuple[int, ...], has_new_gradient: bool
) -> None:
    params = parameters()
    optimizer = optimizer_of(dict(reversed(params.items())), tf.adamw(), execution=execution)
    give_gradients(params, 1)
    optimizer.step()
    params["weight"].data = torch.ones(shape)
    if has_new_gradient:
        give_gradients(params, 2)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"parameter 'weight': its shape is .*, and its .* has shape \(3, 5\)"):
        optimizer.step()
    assert_same_bits(before, snapshot(optimizer))


def test_a_sparse_gradient_is_named_and_nothing_changes() -> None:
    params = parameters()
    table = torch.nn.Embedding(4, 2, sparse=True)
    params["table"] = table.weight
    optimizer = optimizer_of(params, tf.adamw())
    give_gradients({k: p for k, p in params.items() if k != "table"}, 1)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(
        RuntimeError, match=r"does not support sparse gradients, and parameter 'table' has one.*to_dense"
    ):
        optimizer.step()
    assert not optimizer.state
    params["table"].grad = params["table"].grad.to_dense()
    optimizer.step()


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_gradient_that_becomes_sparse_later_is_named_and_nothing_changes(execution: str) -> None:
    params = parameters(shapes={"table": (4, 2), "bias": (3,)})
    optimizer = optimizer_of(params, tf.adamw(), execution=execution)
    for n in range(2):
        give_gradients(params, n)
        optimizer.step()
    before = snapshot(optimizer)
    give_gradients(params, 3)
    params["table"].grad = params["table"].grad.to_sparse()
    with pytest.raises(RuntimeError, match="does not support sparse gradients, and parameter 'table' has one"):
        optimizer.step()
    assert_same_bits(before, snapshot(optimizer))


def test_a_state_that_is_not_the_rules_is_named() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw())
    optimizer.state[params["bias"]] = {"step": torch.tensor(0.0), "momentum_buffer": torch.zeros(5)}
    give_gradients(params, 1)
    with pytest.raises(ValueError, match=r"the state of parameter 'bias' does not belong to adamw"):
        optimizer.step()


@rule
def cautious(g: Any, *, lr: Any = 0.1) -> Any:
    """Skips the model's update if the sum of all gradients is negative."""
    return apply_if(global_sum(g) >= 0.0, -lr * g)


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_a_gate_holds_everything(execution: str) -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.chain(cautious(), tf.adamw()), execution=execution)
    for p in params.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = snapshot(optimizer)
    params["scale"].grad = torch.tensor(-1e9)
    optimizer.step()
    assert_same_bits(before, snapshot(optimizer))
    params["scale"].grad = torch.ones(())
    optimizer.step()
    assert float(optimizer.param_groups[0]["updates"]) == 2


# -- schedules on torch's numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64])
def test_schedules_on_torch_numbers_have_the_same_bits(dtype: torch.dtype) -> None:
    curve = tf.schedules.warmup_cosine(peak=1e-3, warmup=7, steps=100)
    steps = np.arange(0, 120)
    expected = curve(steps)
    actual = curve(torch.arange(0, 120, dtype=dtype))
    assert actual.dtype is torch.float64
    assert_same_bits({"curve": expected}, {"curve": actual.numpy()})
    for n in (0, 3, 50, 100, 119):
        one = curve(torch.tensor(n, dtype=dtype))
        assert one.shape == ()
        assert one.item() == curve(n)


def test_scalars_that_only_a_device_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On an accelerator steps, scales and verdicts are never read by the host: made believe here of the CPU."""
    from trainfn_torch import scalars

    made = tf.chain(tf.clip_by_global_norm(0.5), tf.radam())
    for execution in ("single", "foreach"):
        params = parameters()
        optimizer, expected = optimizer_of(params, made, execution=execution), Reference(made, params)
        monkeypatch.setattr(scalars, "_READ_BY_HOST", ())
        for n in range(8):
            give_gradients(params, n)
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(float(n == 4))
            for p in params.values():
                p.grad *= 4.0
            optimizer.step()
            if n != 4:
                for p in params.values():
                    p.grad /= 4.0
                expected.step(params)
        monkeypatch.undo()
        expected.check(optimizer, params, execution)


@pytest.mark.parametrize("execution", ["single", "foreach"])
def test_scheduled_numbers_that_only_a_device_knows(execution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There they are tensors that stay the same objects, true after every update and every skip."""
    from trainfn_torch import groups, scalars

    monkeypatch.setattr(groups, "known_count", lambda updates: None)
    monkeypatch.setattr(scalars, "_READ_BY_HOST", ())
    made = tf.adamw(lr=DECAY, b1=linear(start=0.5, stop=0.9, steps=4))
    params = parameters()
    optimizer, expected = optimizer_of(params, made, execution=execution), Reference(made, params)
    group = optimizer.param_groups[0]
    lr, betas = group["lr"], group["betas"]
    assert lr.dtype is torch.float64
    for n in range(5):
        give_gradients(params, n)
        optimizer.found_inf = torch.tensor(float(n == 2))
        optimizer.step()
        if n != 2:
            expected.step(params)
        count = expected.state.count
        assert group["lr"] is lr
        assert group["betas"] is betas
        assert (lr.item(), betas[0].item(), betas[1]) == (
            DECAY(count),
            linear(start=0.5, stop=0.9, steps=4)(count),
            0.999,
        )
    expected.check(optimizer, params)
    again = optimizer_of(params, made)
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[0]["lr"] is not lr
    assert again.param_groups[0]["lr"].item() == DECAY(4)


def test_leaves_of_equal_age_have_equal_steps() -> None:
    """What `foreach` goes by where steps are on an accelerator."""
    from types import SimpleNamespace

    from trainfn_torch.plan import _tell_ages

    class OnDevice:
        device = torch.device("cuda")

        def __init__(self, steps: int) -> None:
            self.steps = steps

        def __float__(self) -> float:
            return float(self.steps)

    def slot(steps: int) -> Any:
        return SimpleNamespace(leaf=SimpleNamespace(age=0, step=OnDevice(steps)))

    slots = [slot(0), slot(0), slot(3), slot(3), slot(3)]

    def step(which: list[Any]) -> None:
        _tell_ages(which)
        for one in which:
            one.leaf.step.steps += 1

    for which in (slots, slots[1:], slots[:2], slots[2:], slots, [slots[0], slots[4]], slots):
        step(which)
        for a in slots:
            for b in slots:
                assert a.leaf.age != b.leaf.age or a.leaf.step.steps == b.leaf.step.steps
    assert slots[2].leaf.age == slots[3].leaf.age != 0


def test_without_a_compiler_one_warning_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainfn_torch.kernels import compiler
    from trainfn_torch.warn import warned

    @rule
    def never_compiled_before(g: Any, *, lr: Any = 0.1) -> Any:
        return -(lr + 0.123) * g

    def none(*_: Any, **__: Any) -> Any:
        raise compiler.NoCompiler

    monkeypatch.setattr(compiler, "find_compiler", none)
    warned.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            params = parameters()
            optimizer = optimizer_of(params, never_compiled_before())
            give_gradients(params, 1)
            optimizer.step()
    assert len(caught) == 1
    assert "apt install gcc" in str(caught[0].message)
    assert caught[0].filename == __file__  # the line that made the step
    assert float(optimizer.param_groups[0]["updates"]) == 1


class Named(NamedTuple):
    betas: tf.ModelScalar


def test_a_number_of_the_model_called_as_a_key_of_torch_is_refused() -> None:
    rule = tf.chain(_named(), tf.adam())
    with pytest.raises(ValueError, match="called betas, as a key of torch's groups is: give that field"):
        trainfn_torch.Optimizer([torch.zeros(1)], rule)


def _named() -> tf.Rule:
    @tf.rule
    def named(state: Named, g):  # type: ignore[no-untyped-def]
        return g, Named(state.betas + 1)

    return named()
