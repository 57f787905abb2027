"""Schedulers in closed form against torch's own: the same curves, states that go over, and where torch's are wrong."""

from __future__ import annotations

import copy
import enum
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler as theirs

import trainfn as tf
import trainfn_torch
from tests.catalogue.schedules import HUGGINGFACE
from trainfn_torch import lr_scheduler as ours

EPOCHS = 60
Make = Callable[[Any, Any], Any]  # of a module of schedulers and an optimizer


def _optimizer(lr: Any = 0.1, cls: Any = torch.optim.SGD) -> Any:
    groups = [{"params": [torch.zeros(2, requires_grad=True)]}, {"params": [torch.zeros(3, requires_grad=True)]}]
    groups[1]["lr"] = lr * 0.5
    return cls(groups, lr=lr, momentum=0.9)


SCHEDULERS: dict[str, Make] = {
    "lambda": lambda m, o: m.LambdaLR(o, [lambda n: 0.9**n, lambda n: 1 / (1 + n)]),
    "multiplicative": lambda m, o: m.MultiplicativeLR(o, lambda n: 0.9 if n % 2 else 0.8),
    "step": lambda m, o: m.StepLR(o, 7, 0.5),
    "multistep": lambda m, o: m.MultiStepLR(o, [30, 5, 5], 0.3),
    "constant": lambda m, o: m.ConstantLR(o, 0.25, 7),
    "linear": lambda m, o: m.LinearLR(o, 0.1, 0.8, 9),
    "exponential": lambda m, o: m.ExponentialLR(o, 0.95),
    "polynomial": lambda m, o: m.PolynomialLR(o, 20, 1.5),
    "cosine": lambda m, o: m.CosineAnnealingLR(o, 13, 1e-3),
    "restarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 5, 2, 1e-3),
    "cyclic": lambda m, o: m.CyclicLR(o, 0.01, [0.1, 0.2], 4, 7, "triangular2"),
    "cyclic_exp_range": lambda m, o: m.CyclicLR(o, 0.01, 0.1, 4, mode="exp_range", gamma=0.9, cycle_momentum=False),
    "cyclic_scaled": lambda m, o: m.CyclicLR(o, 0.01, 0.1, 4, scale_fn=lambda n: 1 / n, scale_mode="cycle"),
    "one_cycle": lambda m, o: m.OneCycleLR(o, [0.1, 0.3], total_steps=EPOCHS),
    "one_cycle_in_three": lambda m, o: m.OneCycleLR(
        o, 0.1, epochs=6, steps_per_epoch=10, pct_start=0.4, anneal_strategy="linear", three_phase=True
    ),
    "sequential": lambda m, o: m.SequentialLR(
        o, [m.LinearLR(o, 0.1, 1.0, 10), m.CosineAnnealingLR(o, 30), m.ConstantLR(o, 0.1, 5)], [10, 40]
    ),
    "chained": lambda m, o: m.ChainedScheduler([m.ConstantLR(o, 0.1, 4), m.ExponentialLR(o, 0.9)], o),
}
PLAIN = [name for name in SCHEDULERS if name not in ("sequential", "chained", "restarts")]


def _held(optimizer: Any) -> list[float]:
    return [float(group[key]) for group in optimizer.param_groups for key in ("lr", "momentum")]


def _run(scheduler: Any, epochs: int = EPOCHS) -> list[list[float]]:
    optimizer = scheduler.optimizer
    path = []
    for _ in range(epochs):
        path.append(_held(optimizer))
        optimizer.step()
        scheduler.step()
    return path


@pytest.mark.parametrize("name", SCHEDULERS)
def test_torchs_curve(name: str) -> None:
    expected = _run(SCHEDULERS[name](theirs, _optimizer()))
    path = _run(SCHEDULERS[name](ours, _optimizer()))
    for n, (a, b) in enumerate(zip(path, expected, strict=True)):
        assert a == pytest.approx(b, rel=1e-12, abs=1e-15), f"epoch {n}"


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_last_lr_is_what_the_groups_hold(name: str) -> None:
    scheduler = SCHEDULERS[name](ours, _optimizer())
    for _ in range(12):
        assert scheduler.get_last_lr() == [group["lr"] for group in scheduler.optimizer.param_groups]
        scheduler.optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("at", [1, 11, 40])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_resuming_is_exact(name: str, at: int) -> None:
    whole = _run(SCHEDULERS[name](ours, _optimizer()))
    first = SCHEDULERS[name](ours, _optimizer())
    _run(first, at)
    saved = copy.deepcopy((first.state_dict(), first.optimizer.state_dict()))
    second = SCHEDULERS[name](ours, _optimizer())
    second.load_state_dict(saved[0])
    second.optimizer.load_state_dict(saved[1])
    assert _run(second, EPOCHS - at) == whole[at:]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_states_go_over(name: str) -> None:
    """A state of torch's is continued by ours, and the other way round."""
    for before, after in ((theirs, ours), (ours, theirs)):
        first, second, whole = (SCHEDULERS[name](m, _optimizer()) for m in (before, after, before))
        _run(first, 11)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        second.optimizer.load_state_dict(first.optimizer.state_dict())
        expected = _run(whole)[11:]
        for a, b in zip(_run(second, EPOCHS - 11), expected, strict=True):
            assert a == pytest.approx(b, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", PLAIN)
def test_a_jump_and_a_rate_edited_by_hand(name: str) -> None:
    whole = _run(SCHEDULERS[name](ours, _optimizer()))
    scheduler = SCHEDULERS[name](ours, _optimizer())
    scheduler.optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch would rather not have epochs given
        scheduler.step(23)
    assert _held(scheduler.optimizer) == whole[23]
    for group in scheduler.optimizer.param_groups:
        group["lr"] = 7.0
    scheduler.step()
    assert _held(scheduler.optimizer) == whole[24]


@pytest.mark.parametrize("name", PLAIN)
def test_a_rate_that_is_a_tensor_keeps_all_of_float32(name: str) -> None:
    """torch computes each value from the one before, in float32, and drifts."""
    whole = _run(SCHEDULERS[name](ours, _optimizer(0.125)))
    optimizer = torch.optim.SGD(
        [{"params": p["params"], "lr": torch.tensor(p["lr"])} for p in _optimizer(0.125).param_groups], momentum=0.9
    )
    tensors = [group["lr"] for group in optimizer.param_groups]
    path = _run(SCHEDULERS[name](ours, optimizer))
    assert all(group["lr"] is t for group, t in zip(optimizer.param_groups, tensors, strict=True))
    assert [row[0] for row in path] == [float(torch.tensor(row[0])) for row in whole]


def test_restarts_with_parts_of_epochs_and_where_torch_is_one_off() -> None:
    scheduler = ours.CosineAnnealingWarmRestarts(_optimizer(), 1, 3)
    scheduler.optimizer.step()
    for epoch, lr in ((121, 0.1), (40, 0.1), (0.5, 0.05), (2.5, 0.05)):
        scheduler.step(epoch)
        assert scheduler.optimizer.param_groups[0]["lr"] == pytest.approx(lr, rel=1e-12)
    assert scheduler.last_epoch == 2
    scheduler.step()
    assert (scheduler.T_cur, scheduler.T_i) == (2, 3)
    with pytest.raises(ValueError, match="from 0 on, not -1"):
        scheduler.step(-1)


def test_one_cycle_stays_at_its_end() -> None:
    scheduler = ours.OneCycleLR(_optimizer(), 0.1, total_steps=10, pct_start=0.1)
    path = _run(scheduler, 30)
    assert path[0][0] == 0.1
    assert [row[0] for row in path[9:]] == pytest.approx([0.1 / 25 / 1e4] * 21, rel=1e-12)


def test_no_epochs() -> None:
    assert _run(ours.ConstantLR(_optimizer(), 0.5, 0), 2)[1][0] == 0.1
    assert _run(ours.LinearLR(_optimizer(), 0.5, 0.25, 0), 2)[1][0] == 0.025
    with pytest.raises(ValueError, match="steps = 0 must be a positive number of steps"):
        ours.PolynomialLR(_optimizer(), 0)


def test_for_our_optimizers_too() -> None:
    def make(params: Any, lr: float, momentum: float) -> Any:
        return trainfn_torch.optim.SGD(params, lr=lr, momentum=momentum)

    for name in ("cosine", "one_cycle"):
        assert _run(SCHEDULERS[name](ours, _optimizer(cls=make))) == _run(SCHEDULERS[name](ours, _optimizer()))


def test_any_schedule_is_a_factor() -> None:
    scheduler = ours.LambdaLR(_optimizer(), tf.warmup_cosine(1.0, warmup=5, steps=30))
    assert _run(scheduler, 6)[5][0] == 0.1


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_transformers_schedulers(name: str) -> None:
    """Each group has its part of the schedule of the default lr, bit by bit, also after a resume and a jump."""
    specific = HUGGINGFACE[name][0] | ({"min_lr": 0.02} if "min_lr" in HUGGINGFACE[name][0] else {})
    specific |= {"lr_end": 0.01} if name == "polynomial" else {}
    schedule = tf.get_schedule(name, 0.1, 7, 60, **specific)

    def make() -> Any:
        return ours.get_scheduler(name, _optimizer(), 7, 60, specific)

    whole = _run(make(), 70)
    assert [row[0] for row in whole] == [schedule(n) for n in range(70)]
    assert [row[2] for row in whole] == [schedule(n) * 0.5 for n in range(70)]
    first, second = make(), make()
    _run(first, 11)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert _run(second, 20) == whole[11:31]
    # What transformers returns is a LambdaLR of functions, of which torch saves nothing.
    theirs_state = {**theirs.LambdaLR(_optimizer(), lambda n: 1.0).state_dict(), "last_epoch": 11, "_step_count": 12}
    third = make()
    third.load_state_dict(theirs_state)
    third.optimizer.load_state_dict(first.optimizer.state_dict())
    assert _run(third, 20)[1:] == whole[12:31]


def test_transformers_schedulers_that_follow_a_metric() -> None:
    plateau = ours.get_scheduler("reduce_lr_on_plateau", _optimizer(), scheduler_specific_kwargs={"patience": 3})
    assert isinstance(plateau, theirs.ReduceLROnPlateau)
    assert plateau.patience == 3

    class SchedulerType(enum.StrEnum):
        GREEDY = "greedy"

    assert isinstance(ours.get_scheduler(SchedulerType.GREEDY, _optimizer()), ours.GreedyLR)


def _greedy(scheduler: Any, metrics: Any) -> list[list[float]]:
    path = []
    for metric in metrics:
        scheduler.step(metric)
        path.append([group["lr"] for group in scheduler.optimizer.param_groups])
        assert path[-1] == scheduler.get_last_lr()
    return path


@pytest.mark.parametrize("smooth", [False, True])
def test_greedy_is_the_machine_in_each_group_and_resumes(smooth: bool) -> None:
    def make() -> Any:
        return ours.GreedyLR(
            _optimizer(), patience=1, factor=0.5, min_lr=[0.02, 0.03], smooth=smooth, window_size=3, reset_start=2
        )

    metrics = [5.0, 4.0, 3.5, 3.0, 3.0, 3.5, 3.5, *[4.0] * 20, 2.0, 1.0]
    whole = _greedy(make(), metrics)
    for group, (peak, floor) in enumerate([(0.1, 0.02), (0.05, 0.03)] if not smooth else []):
        machine = tf.greedy(peak=peak, patience=1, factor=0.5, floor=floor, reset=2)
        state, path = machine.init(), []
        for metric in metrics:
            state, lr = machine(state, metric)
            path.append(lr)
        assert path == [rates[group] for rates in whole]
    assert whole[-1] != [0.1, 0.05]
    for at in (3, 12, 20):
        first, second = make(), make()
        _greedy(first, metrics[:at])
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
        assert second.get_last_lr() == whole[at - 1]
        assert _greedy(second, metrics[at:]) == whole[at:]


def test_greedy_smooths_with_the_mean_of_the_window() -> None:
    scheduler = ours.GreedyLR(_optimizer(), patience=0, smooth=True, window_size=2, cooldown=0)
    rates = [rate for rate, _ in _greedy(scheduler, [4.0, 2.0, 3.5, 1.0])]  # means 4, 3, 2.75, 2.25: better each time
    assert rates == pytest.approx([0.1 / 0.95**n for n in (1, 2, 3, 4)], rel=1e-13)


def test_a_scheduler_that_leaves_the_learning_rate_to_the_rule() -> None:
    """Between an update and `step` it tells, as torch's do, the learning rate of that update."""

    def make() -> Any:
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        return trainfn_torch.Optimizer([p], tf.sgd(lr=tf.linear(0.5, 0.0, steps=8)))

    optimizer, keys = make(), make().param_groups[0].keys()
    scheduler = ours.RuleLR(optimizer)
    for n in range(4):
        optimizer.step()
        assert scheduler.get_last_lr() == [0.5 - n / 16]
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.25
    assert optimizer.param_groups[0].keys() == keys
    resumed = ours.RuleLR(make())
    resumed.load_state_dict(scheduler.state_dict())
    assert (resumed.last_epoch, resumed.get_last_lr()) == (4, [0.25])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda o: ours.RuleLR("no optimizer"), "str is not an Optimizer"),
        (lambda o: ours.get_scheduler("cosin", o), "there is no schedule 'cosin'"),
        (lambda o: ours.get_scheduler("cosine", o, 5), "cosine needs steps, transformers' num_training_steps"),
        (lambda o: ours.get_scheduler("cosine", o, 5, 9, {"power": 2}), "unexpected keyword argument 'power'"),
        (lambda o: ours.get_scheduler("cosine", _optimizer(0.0), 5, 9), "the optimizer's lr is 0.0"),
        (lambda o: ours.get_scheduler("cosine", "no optimizer", 5, 9), "str is not an Optimizer"),
        (lambda o: ours.GreedyLR("no optimizer"), "str is not an Optimizer"),
        (lambda o: ours.GreedyLR(o).step(None), "GreedyLR.step takes the metric of the epoch, and None was given"),
        (lambda o: ours.GreedyLR(o, threshold_mode="x"), "threshold_mode = 'x' must be 'rel' or 'abs'"),
        (lambda o: ours.GreedyLR(o, min_lr=[0.1]), "min_lr has 1 numbers for 2 groups"),
        (lambda o: ours.SequentialLR(o, [theirs.StepLR(o, 3), ours.StepLR(o, 3)], [2]), "StepLR of torch.optim.lr_sch"),
        (lambda o: ours.SequentialLR(o, [ours.StepLR(o, 3) for _ in "abc"], [5, 2]), r"milestones \[5, 2\] must rise"),
        (lambda o: ours.ChainedScheduler([ours.ReduceLROnPlateau(o)]), "has no closed form"),
        (lambda o: ours.CosineAnnealingWarmRestarts(o, 5, 0), "T_mult"),
        (lambda o: ours.StepLR("no optimizer", 3), "is not an Optimizer"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make(_optimizer())
