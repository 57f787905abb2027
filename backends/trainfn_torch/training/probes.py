"""Looking at a training before it is run: what learning rate, precision and batch it takes, and whether it can learn.

Each of these leaves the model, its gradients and torch's random numbers as they were.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainfn.rule import Rule
from trainfn.training.recipe import PRECISIONS
from trainfn.wrappers.guard import guard, loss_scaled
from trainfn_torch.optimizer import Optimizer
from trainfn_torch.tensors import plain
from trainfn_torch.training.step import LossFn, Step


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """The model afterwards as it was: parameters, buffers, gradients, mode; and torch's random numbers."""
    tensors = [*model.parameters(), *model.buffers()]
    copies = [x.detach().clone() for x in tensors]
    grads = [p.grad for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    for p in model.parameters():
        p.grad = None
    device = plain(tensors[0]).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            with torch.no_grad():
                for x, copy in zip(tensors, copies, strict=True):
                    x.copy_(copy)
            for p, grad in zip(model.parameters(), grads, strict=True):
                p.grad = grad
            for module, mode in modes:
                module.training = mode


def _step(model: nn.Module, loss_fn: LossFn, rule: Rule, precision: str, terms: int, **numbers: float) -> Step:
    """With numbers in the place of what the rule has, which may be schedules."""
    whole = loss_scaled(rule) if precision == "float16" else guard(rule)
    optimizer = Optimizer([{"params": list(model.named_parameters()), **numbers}], whole)
    return Step(model, optimizer, loss_fn, precision=precision, terms=terms)


# -- learning rate -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RangeTest:
    """lrs: the learning rates that were tried; losses: those of the batches, before each update; smooth: their running
    mean; suggestion: where it falls fastest, or None if it never fell."""

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    suggestion: float | None


def lr_range_test(
    model: nn.Module,
    loss_fn: LossFn,
    batches: Callable[[int], Sequence[Any]],
    rule: Rule,
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    precision: str = "float32",
    terms: int = 1,
) -> RangeTest:
    """Train with a learning rate that grows from `low` to `high` by a factor a step (Smith, arXiv:1506.01186v6).

    batches: from the number of a step to the parts of its batch.
    It ends early where the mean is four times its least, or not finite.  The suggestion is the learning rate at which
    the mean loss falls fastest against the logarithm of the learning rate.
    """
    if not 0 < low < high < math.inf:
        raise ValueError(f"lr_range_test: low = {low} and high = {high} must be numbers with 0 < low < high.")
    if steps < 10:
        raise ValueError(f"lr_range_test: steps = {steps} must be at least 10: a slope is asked for.")
    if "lr" not in rule.hyper:
        raise ValueError(f"lr_range_test: {rule.name} has no lr.")
    lrs: list[float] = []
    losses: list[float] = []
    smooth: list[float] = []
    mean = 0.0
    with preserved(model):
        model.train()
        step = _step(model, loss_fn, rule, precision, terms, lr=low)
        for n in range(steps):
            lr = low * (high / low) ** (n / (steps - 1))
            for group in step.optimizer.param_groups:
                group["lr"] = lr
            step(batches(n))
            loss = step.read()["train/loss"]
            mean = 0.9 * mean + 0.1 * loss
            current = mean / (1 - 0.9 ** (n + 1))
            if not math.isfinite(current) or (smooth and current > 4 * min(smooth)):
                break
            lrs.append(lr)
            losses.append(loss)
            smooth.append(current)
    return RangeTest(tuple(lrs), tuple(losses), tuple(smooth), _steepest(lrs, smooth))


def _steepest(lrs: Sequence[float], losses: Sequence[float]) -> float | None:
    """Where the losses fall fastest, up to their least, seen over five neighbours."""
    end = losses.index(min(losses)) + 1 if losses else 0
    slopes = {
        i: statistics.linear_regression([math.log(x) for x in lrs[i - 2 : i + 3]], losses[i - 2 : i + 3]).slope
        for i in range(2, end - 2)
    }
    best = min(slopes, key=slopes.__getitem__, default=None)
    return None if best is None or slopes[best] >= 0 else lrs[best]


# -- gradients ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gradient:
    """Of one parameter: the norms of its gradient and of itself, how many elements of the gradient are NaN or infinite,
    and what is wrong with it, or ""."""

    name: str
    norm: float
    of_parameter: float
    nans: int
    infinities: int
    problem: str

    @property
    def ratio(self) -> float:
        """The gradient's norm over the parameter's."""
        return self.norm / self.of_parameter if self.of_parameter else math.inf


def gradient_report(model: nn.Module, loss_fn: LossFn, part: Any, *, large: float = 1e3) -> list[Gradient]:
    """What gradients a part of a batch gives, parameter by parameter, in the model's order.

    large: a norm from which a gradient is said to be so.  `table` prints a report.
    """
    found = []
    with preserved(model):
        model.train()
        loss, weight = loss_fn(model, part)
        (loss / weight).backward()
        for name, p in model.named_parameters():
            g, own = p.grad, float(plain(p).detach().norm())
            if not p.requires_grad:
                found.append(Gradient(name, 0.0, own, 0, 0, "frozen: it asks for no gradient"))
            elif g is None:
                found.append(Gradient(name, 0.0, own, 0, 0, "not used: the loss does not depend on it"))
            else:
                nans, infinities = int(g.isnan().sum()), int(g.isinf().sum())
                norm = float(g.float().norm())
                found.append(Gradient(name, norm, own, nans, infinities, _problem(norm, nans, infinities, large)))
    return found


def _problem(norm: float, nans: int, infinities: int, large: float) -> str:
    if nans or infinities:
        return f"{nans} NaN and {infinities} infinite elements"
    if norm == 0:
        return "zero: nothing reaches it"
    return f"large: its norm is above {large:g}" if norm > large else ""


def table(report: Sequence[Gradient]) -> str:
    """A report as text, a line for each parameter."""
    width = max((len(x.name) for x in report), default=0)
    lines = [f"{'parameter':<{width}}  {'gradient':>10}  {'/ parameter':>11}"]
    lines += [f"{x.name:<{width}}  {x.norm:>10.3g}  {x.ratio:>11.3g}  {x.problem}".rstrip() for x in report]
    return "\n".join(lines)


# -- one batch ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether a model learned one batch by heart, why, and the losses of the updates."""

    passed: bool
    reason: str
    losses: tuple[float, ...]


def overfit_one_batch(
    model: nn.Module,
    loss_fn: LossFn,
    parts: Sequence[Any],
    rule: Rule,
    *,
    updates: int = 200,
    share: float = 0.1,
    precision: str = "float32",
    terms: int = 1,
) -> Verdict:
    """Train on the same batch again and again: a model that cannot learn that has a fault.

    It passes as soon as the loss is at most `share` of the first one's.
    """
    losses: list[float] = []
    with preserved(model):
        model.train()
        step = _step(model, loss_fn, rule, precision, terms)
        for _ in range(updates):
            step(parts)
            numbers = step.read()
            losses.append(numbers["train/loss"])
            if losses[-1] <= share * losses[0]:
                return Verdict(True, f"learned after {len(losses)} updates", tuple(losses))
            if not math.isfinite(losses[-1]):
                return Verdict(False, f"the loss is {losses[-1]} after {len(losses) - 1} updates", tuple(losses))
    return Verdict(False, _why(losses, numbers["train/skipped"], numbers["train/grad_norm"]), tuple(losses))


def _why(losses: Sequence[float], skipped: float, norm: float) -> str:
    least = min(losses)
    if skipped >= len(losses) / 2:
        return f"{skipped:.0f} of {len(losses)} updates were skipped: gradients are not finite"
    if norm == 0:
        return "no gradient reaches the parameters: is the loss detached from them, or are they frozen?"
    if losses[-1] > losses[0]:
        return f"the loss rose, from {losses[0]:.3g} to {losses[-1]:.3g}: the learning rate is too large"
    if least > 0.9 * losses[0]:
        return (
            f"the loss stays at {least:.3g}, from {losses[0]:.3g}: labels that do not belong to inputs, or too small a "
            "learning rate"
        )
    return f"the loss fell from {losses[0]:.3g} to {least:.3g} only: more updates, less regularisation, a larger model"


# -- precision and size ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Precision:
    """seconds: of an update, the median; samples_per_second; loss: after the updates; peak_bytes: of a GPU's memory;
    problem: why it was left out, or ""."""

    name: str
    seconds: float
    samples_per_second: float
    loss: float
    peak_bytes: int | None
    problem: str


def compare_precisions(
    model: nn.Module, loss_fn: LossFn, parts: Sequence[Any], rule: Rule, *, samples: int, updates: int = 20
) -> list[Precision]:
    """Time updates of the model in each precision, from the same parameters; what does not work here is left out."""
    return [_timed(name, model, loss_fn, parts, rule, samples, updates) for name in PRECISIONS]


def _timed(
    name: str, model: nn.Module, loss_fn: LossFn, parts: Sequence[Any], rule: Rule, samples: int, updates: int
) -> Precision:
    seconds, loss, peak = [], math.nan, None
    try:
        with preserved(model):
            model.train()
            step = _step(model, loss_fn, rule, name, samples)
            is_cuda = step.device.type == "cuda"
            for _ in range(3 + updates):
                if is_cuda:
                    torch.cuda.reset_peak_memory_stats(step.device)
                begin = time.perf_counter()
                step(parts)
                loss = step.read()["train/loss"]  # which waits for the device
                seconds.append(time.perf_counter() - begin)
                peak = torch.cuda.max_memory_allocated(step.device) if is_cuda else None
    except (RuntimeError, TypeError, NotImplementedError) as error:
        return Precision(name, math.nan, math.nan, math.nan, None, str(error).partition("\n")[0])
    median = statistics.median(seconds[3:])
    return Precision(name, median, samples / median, loss, peak, "")


def largest_micro_batch(
    model: nn.Module,
    loss_fn: LossFn,
    part_of: Callable[[int], Any],
    rule: Rule,
    *,
    precision: str = "float32",
    most: int = 2**16,
) -> int:
    """The largest number of samples for one backward pass and an update that memory has room for, a power of two.

    part_of: from a number of samples to a part of that size.
    """
    size = 1
    if not _fits(model, loss_fn, part_of, rule, precision, size):
        raise MemoryError("not even a part of one sample fits into memory: take a smaller model, or checkpointing.")
    while 2 * size <= most and _fits(model, loss_fn, part_of, rule, precision, 2 * size):
        size *= 2
    return size


def _fits(
    model: nn.Module, loss_fn: LossFn, part_of: Callable[[int], Any], rule: Rule, precision: str, size: int
) -> bool:
    try:
        with preserved(model):
            model.train()
            step = _step(model, loss_fn, rule, precision, size)
            for _ in range(2):  # the first one makes the optimizer's state
                step([part_of(size)])
            step.read()
    except (MemoryError, torch.OutOfMemoryError):
        return False
    except RuntimeError as error:  # what torch raises on a CPU
        if "memory" not in str(error):
            raise
        return False
    return True
