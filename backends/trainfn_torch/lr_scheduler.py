"""torch.optim.lr_scheduler in closed form, for any torch optimizer.

    scheduler = trainfn_torch.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=1000)

Each class is torch's, with its arguments, checks and state_dict, and computes the learning rate as a schedule of
trainfn at `last_epoch` instead of from the one before.  So a resumed run, a jump with step(epoch), and a learning rate
that is a float32 tensor all get the same value as an uninterrupted one; what else writes to group["lr"] is overwritten
at the next step.  Where torch's formula is not what its documentation says, these do what it says:

    CosineAnnealingWarmRestarts   step(epoch) finds the cycle by counting, not by a logarithm that is one off at times
    OneCycleLR                    stays at its minimum after the last step, and may rise in no steps at all
    ConstantLR, LinearLR          are over at once with total_iters = 0
    SequentialLR                  resumes where it was; so do those inside it
    ChainedScheduler              multiplies the factors of its schedulers, each of its own epoch

ReduceLROnPlateau, which has no closed form, is torch's own.

`get_scheduler` is that of Hugging Face's transformers, and GreedyLR its scheduler of that name.

RuleLR is for a loop that insists on a scheduler where the rule has a schedule already: it writes nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler as LRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau as ReduceLROnPlateau

from trainfn import schedules
from trainfn.schedules import Schedule

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "GreedyLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "RuleLR",
    "SequentialLR",
    "StepLR",
    "get_scheduler",
]


class _ClosedForm(LRScheduler):
    """A scheduler whose learning rates are functions of the epoch."""

    def schedule(self, base: float, group: int) -> Schedule:
        """Of a group, whose learning rate was `base` when the scheduler was made."""
        raise NotImplementedError

    def at(self, epoch: float) -> list[float]:
        """The learning rate of each group at an epoch."""
        return [self.schedule(float(base), i)(epoch) for i, base in enumerate(self.base_lrs)]

    def get_lr(self) -> list[Any]:
        """The learning rate of each group at `last_epoch`."""
        return list(self.at(self.last_epoch))

    _get_closed_form_lr = get_lr  # what step(epoch) calls


class LambdaLR(_ClosedForm, lr_scheduler.LambdaLR):
    """base lr_lambda(epoch)."""

    def at(self, epoch: float) -> list[float]:
        return [float(base) * f(epoch) for f, base in zip(self.lr_lambdas, self.base_lrs, strict=True)]  # type: ignore[arg-type]


class MultiplicativeLR(_ClosedForm, lr_scheduler.MultiplicativeLR):
    """base lr_lambda(1) lr_lambda(2) ... lr_lambda(epoch)."""

    def at(self, epoch: float) -> list[float]:
        factors = [math.prod(f(n) for n in range(1, int(epoch) + 1)) for f in self.lr_lambdas]
        return [float(base) * factor for factor, base in zip(factors, self.base_lrs, strict=True)]


class StepLR(_ClosedForm, lr_scheduler.StepLR):
    """`trainfn.step_decay`."""

    def schedule(self, base: float, group: int) -> Schedule:
        return schedules.step_decay(base, factor=self.gamma, every=self.step_size)


class MultiStepLR(_ClosedForm, lr_scheduler.MultiStepLR):
    """`trainfn.multistep`; here, as in torch, milestones may come in any order, and one twice counts twice."""

    def schedule(self, base: float, group: int) -> Schedule:
        return schedules.multistep(base, factor=self.gamma, milestones=sorted(self.milestones.elements()))


class ConstantLR(_ClosedForm, lr_scheduler.ConstantLR):
    """`trainfn.piecewise_constant`."""

    def schedule(self, base: float, group: int) -> Schedule:
        if not self.total_iters:
            return schedules.constant(base)
        return schedules.piecewise_constant([base * self.factor, base], boundaries=[self.total_iters])


class LinearLR(_ClosedForm, lr_scheduler.LinearLR):
    """`trainfn.linear`."""

    def schedule(self, base: float, group: int) -> Schedule:
        if not self.total_iters:
            return schedules.constant(base * self.end_factor)
        return schedules.linear(base * self.start_factor, base * self.end_factor, steps=self.total_iters)


class ExponentialLR(_ClosedForm, lr_scheduler.ExponentialLR):
    """`trainfn.exponential`."""

    def schedule(self, base: float, group: int) -> Schedule:
        return schedules.exponential(base, decay=self.gamma)


class PolynomialLR(_ClosedForm, lr_scheduler.PolynomialLR):
    """`trainfn.polynomial`."""

    def schedule(self, base: float, group: int) -> Schedule:
        return schedules.polynomial(base, 0.0, steps=self.total_iters, power=self.power)


class CosineAnnealingLR(_ClosedForm, lr_scheduler.CosineAnnealingLR):
    """`trainfn.cosine`, periodic: after T_max it climbs again."""

    def schedule(self, base: float, group: int) -> Schedule:
        return schedules.cosine(base, steps=self.T_max, floor=self.eta_min, periodic=True)


class CosineAnnealingWarmRestarts(_ClosedForm, lr_scheduler.CosineAnnealingWarmRestarts):
    """`trainfn.warm_restarts`; step(epoch) takes parts of epochs, too."""

    def schedule(self, base: float, group: int) -> Schedule:
        return schedules.warm_restarts(base, first=self.T_0, growth=self.T_mult, floor=self.eta_min)

    def step(self, epoch: float | None = None) -> None:
        epoch = self.last_epoch + 1 if epoch is None else epoch
        if epoch < 0:
            raise ValueError(f"step(epoch) takes an epoch from 0 on, not {epoch}.")
        self.T_i, begin = self.T_0, 0
        while epoch >= begin + self.T_i:
            begin, self.T_i = begin + self.T_i, self.T_i * self.T_mult
        self.T_cur = epoch - begin  # type: ignore[assignment]  # a part of an epoch, too
        self._update_lr(epoch)  # type: ignore[arg-type]
        self.last_epoch = math.floor(epoch)


class _WithMomentum(_ClosedForm):
    """A scheduler that moves momentum, or the first of the betas, against the learning rate."""

    cycle_momentum: bool
    use_beta1: bool

    def momentum_at(self, epoch: float, group: dict[str, Any]) -> float:
        """Of a group, which holds `base_momentum` and `max_momentum`."""
        raise NotImplementedError

    def get_lr(self) -> list[Any]:
        """The learning rate of each group at `last_epoch`; its momentum is written into it."""
        for group in self.optimizer.param_groups if self.cycle_momentum else ():
            momentum = self.momentum_at(self.last_epoch, group)
            if self.use_beta1:
                group["betas"] = (momentum, *group["betas"][1:])
            else:
                group["momentum"] = momentum
        return super().get_lr()

    _get_closed_form_lr = get_lr


class CyclicLR(_WithMomentum, lr_scheduler.CyclicLR):
    """`trainfn.cyclical`; a `scale_fn` of one's own is called as torch calls it, with the cycle counted from 1."""

    def at(self, epoch: float) -> list[float]:
        ends = zip(self.base_lrs, self.max_lrs, strict=True)
        return [self._cycle(epoch, float(low), float(peak)) for low, peak in ends]

    def momentum_at(self, epoch: float, group: dict[str, Any]) -> float:
        return self._cycle(epoch, group["max_momentum"], group["base_momentum"])

    def _cycle(self, epoch: float, low: float, peak: float) -> float:
        up = self.total_size * self.step_ratio
        shape = {"up": up, "down": self.total_size - up}
        if self._scale_fn_custom is None:
            return float(schedules.cyclical(low, peak, **shape, mode=self.mode, gamma=self.gamma)(epoch))
        n = math.floor(1 + epoch / self.total_size) if self.scale_mode == "cycle" else epoch
        return float(schedules.cyclical(low, low + (peak - low) * self.scale_fn(n), **shape)(epoch))


class OneCycleLR(_WithMomentum, lr_scheduler.OneCycleLR):
    """`trainfn.one_cycle` and `trainfn.one_cycle_momentum`."""

    def schedule(self, base: float, group: int) -> Schedule:
        held = self.optimizer.param_groups[group]
        peak, least = float(held["max_lr"]), float(held["min_lr"])
        return schedules.one_cycle(peak, div=peak / base, final_div=base / least, **self._phases)

    def momentum_at(self, epoch: float, group: dict[str, Any]) -> float:
        momentum = schedules.one_cycle_momentum(high=group["max_momentum"], low=group["base_momentum"], **self._phases)
        return float(momentum(epoch))

    @property
    def _phases(self) -> dict[str, Any]:
        first = self._schedule_phases[0]["end_step"]
        return {
            "steps": self.total_steps,
            "pct_start": (first + 1) / self.total_steps,
            "shape": {"cos": "cosine"}.get(self._anneal_func_type, self._anneal_func_type),
            "three_phase": len(self._schedule_phases) == 3,
        }


class SequentialLR(_ClosedForm, lr_scheduler.SequentialLR):
    """`trainfn.sequence` of schedulers of this module, each of which counts its epochs from its milestone."""

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ) -> None:
        _check_closed("SequentialLR", schedulers)
        if sorted(set(milestones)) != list(milestones):
            raise ValueError(f"SequentialLR: milestones {milestones} must rise.")
        lr_scheduler.SequentialLR.__init__(self, optimizer, schedulers, milestones, last_epoch)
        self._write()

    def step(self) -> None:  # type: ignore[override]
        """Go on to the next epoch."""
        self.last_epoch += 1
        self._write()

    def _write(self) -> None:
        k = bisect_right(self._milestones, self.last_epoch)
        current = self._schedulers[k]
        current._update_lr(self.last_epoch - (self._milestones[k - 1] if k else 0))
        self._last_lr = current.get_last_lr()

    def at(self, epoch: float) -> list[float]:
        k = bisect_right(self._milestones, epoch)
        part: Any = self._schedulers[k]
        return list(part.at(epoch - (self._milestones[k - 1] if k else 0)))


class ChainedScheduler(_ClosedForm, lr_scheduler.ChainedScheduler):
    """`trainfn.product` of the factors by which schedulers of this module change the learning rate."""

    def __init__(self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None) -> None:
        _check_closed("ChainedScheduler", schedulers)
        lr_scheduler.ChainedScheduler.__init__(self, schedulers, optimizer)
        self._write()

    def step(self) -> None:  # type: ignore[override]
        """Go on to the next epoch of each scheduler."""
        for scheduler in self._schedulers:
            scheduler._update_lr(scheduler.last_epoch + 1)
        self._write()

    def _write(self) -> None:
        bases = [float(group["initial_lr"]) for group in self.optimizer.param_groups]
        values = [s.at(s.last_epoch) for s in self._schedulers]  # type: ignore[attr-defined]
        for i, (group, base) in enumerate(zip(self.optimizer.param_groups, bases, strict=True)):
            factors = [value[i] / base for value in values] if base else [1.0]
            lr_scheduler._update_param_group_val(group, "lr", base * math.prod(factors))
        self._last_lr = lr_scheduler._param_groups_val_list(self.optimizer, "lr")


def _check_closed(owner: str, schedulers: Sequence[Any]) -> None:
    for scheduler in schedulers:
        if not isinstance(scheduler, _ClosedForm):
            raise TypeError(
                f"{owner} joins schedulers of trainfn_torch.lr_scheduler; {type(scheduler).__name__} of "
                f"{type(scheduler).__module__} has no closed form."
            )


# -- transformers' -----------------------------------------------------------------------------------------------------


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> LRScheduler:
    """The scheduler that transformers' get_scheduler gives for these arguments, in closed form.

    `trainfn.get_schedule` has the names, the formulas, and where they depart from upstream's.  As there, learning rates
    among the arguments, min_lr and lr_end, are those of the optimizer's default lr: a group whose lr is another part of
    it has the same part of the whole curve.
    """
    _check_optimizer(optimizer)
    name, specific = getattr(name, "value", name), dict(scheduler_specific_kwargs or {})
    if name == "reduce_lr_on_plateau":
        return ReduceLROnPlateau(optimizer, **specific)
    if name == "greedy":
        return GreedyLR(optimizer, **specific)
    lr = float(optimizer.defaults["lr"])
    if not lr > 0:
        raise ValueError(f"get_scheduler: the optimizer's lr is {lr}: give it the height of the schedule, above 0.")
    return _ScheduleLR(optimizer, schedules.get_schedule(name, lr, num_warmup_steps, num_training_steps, **specific))


class _ScheduleLR(_ClosedForm, lr_scheduler.LambdaLR):
    """A schedule of the optimizer's default lr.  A LambdaLR, as upstream's, so that states go over."""

    def at(self, epoch: float) -> list[float]:
        lr = float(self.optimizer.defaults["lr"])
        return [f(epoch) * (float(base) / lr) for f, base in zip(self.lr_lambdas, self.base_lrs, strict=True)]  # type: ignore[arg-type]


class GreedyLR(LRScheduler):
    """`trainfn.greedy`, which says what the arguments mean: a machine for each group, which resets by itself.

    cooldown, warmup: metrics that do not count after the learning rate fell, and after it rose.
    min_lr, max_lr: numbers, or one for each group.
    smooth: the metric is the mean of the last `window_size`.
    reset_start: falls in a row that find the learning rate at min_lr, until all begins anew.

    Upstream's `verbose` is left out, and states are not exchanged with it.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: str = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_lr: float | Sequence[float] = 1e-3,
        max_lr: float | Sequence[float] = 1.0,
        eps: float = 1e-8,
        smooth: bool = False,
        window_size: int = 50,
        reset_start: int = 500,
    ) -> None:
        _check_optimizer(optimizer)
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"GreedyLR: threshold_mode = {threshold_mode!r} must be 'rel' or 'abs'.")
        self.optimizer = optimizer
        self.last_epoch = 0
        self._window: deque[float] = deque(maxlen=window_size if smooth else 1)
        self._machines = [
            schedules.greedy(
                peak=float(group["lr"]),
                mode=mode,
                factor=factor,
                patience=patience,
                threshold=threshold,
                relative=threshold_mode == "rel",
                rest_after_fall=cooldown,
                rest_after_rise=warmup,
                floor=low,
                ceiling=high,
                eps=eps,
                reset=reset_start,
            )
            for group, low, high in zip(
                optimizer.param_groups,
                _for_each_group("min_lr", min_lr, optimizer),
                _for_each_group("max_lr", max_lr, optimizer),
                strict=True,
            )
        ]
        self._states = [machine.init() for machine in self._machines]
        self._last_lr = lr_scheduler._param_groups_val_list(optimizer, "lr")

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        """Take note of a metric."""
        if metrics is None:
            raise TypeError("GreedyLR.step takes the metric of the epoch, and None was given.")
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._window.append(float(metrics))
        metric = math.fsum(self._window) / len(self._window)
        steps = [machine(state, metric) for machine, state in zip(self._machines, self._states, strict=True)]
        self._states = [state for state, _ in steps]
        self._write([lr for _, lr in steps])
        if all(state == machine.init() for machine, state in zip(self._machines, self._states, strict=True)):
            self._window.clear()  # all began anew

    def _write(self, rates: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            lr_scheduler._update_param_group_val(group, "lr", lr)
        self._last_lr = lr_scheduler._param_groups_val_list(self.optimizer, "lr")

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: numbers only."""
        return {
            "last_epoch": self.last_epoch,
            "window": list(self._window),
            "states": [state._asdict() for state in self._states],
            "last_lr": list(map(float, self._last_lr)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of `state_dict`."""
        self.last_epoch = state_dict["last_epoch"]
        self._window = deque(state_dict["window"], self._window.maxlen)
        self._states = [m.state(**state) for m, state in zip(self._machines, state_dict["states"], strict=True)]
        self._write(state_dict["last_lr"])


# -- a rule's own schedule ---------------------------------------------------------------------------------------------


class RuleLR(LRScheduler):
    """Leaves the learning rate to the rule, and tells what it is.

        Trainer(..., optimizers=(optimizer, RuleLR(optimizer)))

    For training loops that take no optimizer without a scheduler, or that log `get_last_lr()`, which is the learning
    rate that stood in each group at the last `step`.  Nothing is written.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        _check_optimizer(optimizer)
        self.optimizer = optimizer  # torch's own __init__ would leave an initial_lr in the groups
        self.last_epoch = 0
        self._last_lr = self.get_lr()

    def step(self, epoch: int | None = None) -> None:
        """Take note of the learning rates of the next update."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._last_lr = self.get_lr()

    def get_lr(self) -> list[Any]:
        """The learning rate of each group now."""
        return lr_scheduler._param_groups_val_list(self.optimizer, "lr")


def _check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")


def _for_each_group(name: str, value: Any, optimizer: Optimizer) -> list[float]:
    groups = len(optimizer.param_groups)
    values = list(value) if isinstance(value, Sequence) else [value] * groups
    if len(values) != groups:
        raise ValueError(f"GreedyLR: {name} has {len(values)} numbers for {groups} groups.")
    return values
