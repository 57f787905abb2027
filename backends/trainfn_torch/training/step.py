"""One update of a torch model: forward and backward over the parts of a batch, and the rule, in the right order.

    optimizer = trainfn_torch.Optimizer(model.named_parameters(), loss_scaled(recipe))
    step = Step(model, optimizer, loss_fn, precision="float16")
    for batch in batches:
        step([batch])
    print(step.read()["train/loss"])

`loss_fn(model, part)` returns the *sum* of a part's losses and their number, so a batch may be taken in parts of any
sizes: sums of gradients are divided once, by the sum of the weights.  What decides whether an update happens is in the
rule (`guard`, `loss_scaled`), one program with unscaling, clipping and the update; so no step waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from trainfn_torch.checkpoint import bare
from trainfn_torch.optimizer import Optimizer
from trainfn_torch.scalars import whole
from trainfn_torch.state import UPDATES
from trainfn_torch.tensors import plain

LossFn = Callable[[Any, Any], tuple[Any, Any]]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Sums(NamedTuple):
    """Of the batches since they were last read: the sum of their losses, and of their weights."""

    loss: torch.Tensor
    weight: torch.Tensor


class Step:
    """Updates a model from batches, one call each.

    model: the module, also in DistributedDataParallel, after `fully_shard`, or compiled.
    optimizer: of the model's parameters, with a rule in `guard`, or for float16 in `loss_scaled`.
    loss_fn: from the model and a part of a batch to the sum of its losses and their number, or the sum of the weights.
    precision: "float32", or what `torch.autocast` computes in beside parameters in float32.
    terms: about how many losses a batch has.  It moves the scale of float16 from sums to means, as GradScaler has it:
        the loss is divided by the power of two below, and the weight with it.

    Buffers, such as batch normalisation's statistics, are after a skipped update what they were before it.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, loss_fn: LossFn, *, precision: str = "float32", terms: int = 1
    ) -> None:
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self._check(precision)
        first = plain(optimizer.parameters()[0])
        self.device, self._dtype = first.device, _DTYPES.get(precision)
        self._is_scaled = precision == "float16"
        self._unit = 2.0 ** (max(terms, 1).bit_length() - 1) if self._is_scaled else 1.0
        self._wide = torch.float32 if self.device.type == "mps" else torch.float64
        self._buffers = [b for b in model.buffers() if b.numel()]
        self._before = [torch.empty_like(b) for b in self._buffers]
        self.sums = self._zeros()
        self._divisor = self.sums.weight

    def _check(self, precision: str) -> None:
        if precision not in ("float32", *_DTYPES):
            raise ValueError(f"precision = {precision!r} must be 'float32', 'bfloat16' or 'float16'.")
        fields = {f.name for f in self.optimizer.rule.fields}
        due = "loss_scale" if precision == "float16" else "skipped_in_a_row"
        if due not in fields:
            wrapper = "loss_scaled" if precision == "float16" else "guard"
            raise ValueError(
                f"the optimizer's rule is {self.optimizer.rule!r}, and a Step in {precision} divides by weights and "
                f"skips what is not finite in the rule: make the optimizer with trainfn.{wrapper}(rule)."
            )
        if precision != "float16" and "loss_scale" in fields:
            raise ValueError(
                f"the optimizer's rule scales losses, and {precision} needs none: use trainfn.guard(rule)."
            )
        if not self.optimizer.parameters():
            raise ValueError("the optimizer has no parameters.")
        if precision == "float16":
            half = [name for name, p in self.model.named_parameters() if p.dtype == torch.float16]
            if half:
                raise TypeError(
                    f"parameter {half[0]!r} is float16, in which updates are lost and scaled gradients overflow: keep "
                    "parameters in float32, model.float(), and precision='float16' computes in float16 beside them."
                )

    def __call__(self, parts: Sequence[Any]) -> None:
        """One update from a batch, in the parts that memory has room for."""
        if not parts:
            raise ValueError("a batch without parts: there is nothing to learn from.")
        self.optimizer.zero_grad()
        self._keep_buffers()
        factor = self._factor()
        batch = self._zeros()
        for i, part in enumerate(parts):
            with self._synchronising(i == len(parts) - 1):
                with self._autocast():
                    loss, weight = _checked(self.loss_fn(self.model, part))
                (loss * factor).backward()
            batch = Sums(batch.loss + loss.detach().to(self._wide), batch.weight + self._number(weight))
        batch, ranks = self._over_ranks(batch)
        mean = batch.loss / batch.weight if "value" in self.optimizer.rule.extras else None
        self._divisor = factor * batch.weight / ranks
        self.optimizer.step(value=mean, weight=batch.weight / (self._unit * ranks))
        self._restore_buffers()
        self.sums = Sums(self.sums.loss + batch.loss, self.sums.weight + batch.weight)

    @torch.no_grad()
    def measure(self, parts: Iterable[Any]) -> Sums:
        """The sums of these parts' losses and of their weights, with the parameters that the rule evaluates."""
        sums, was_training = self._zeros(), self.model.training
        self.model.eval()
        try:
            with evaluated(self.model, self.optimizer), self._autocast():
                for part in parts:
                    loss, weight = _checked(self.loss_fn(self.model, part))
                    sums = Sums(sums.loss + loss.to(self._wide), sums.weight + self._number(weight))
        finally:
            self.model.train(was_training)
        return self._over_ranks(sums)[0]

    def read(self) -> dict[str, float]:
        """Numbers for a log, of the batches since they were last read."""
        return self.reading()()[0]

    def reading(self, with_norms: bool = False) -> Callable[[], tuple[dict[str, float], dict[str, float]]]:
        """Begin to fetch them; what is returned waits for them, and has the norms of the last gradients, if asked for.

        One transfer, which nobody waits for until then.
        """
        group = self.optimizer.param_groups[0]
        model = [name for name in ("skipped", "skipped_in_a_row", "grad_norm", "loss_scale") if name in group]
        values = torch.stack([*self.sums, *(group[x].to(self.sums.loss) for x in (UPDATES, *model))])
        norms = self._norms() if with_norms else {}
        fetched = _fetched(torch.cat([values, *(x.reshape(1).to(values) for x in norms.values())]))
        self.sums = self._zeros()

        def numbers() -> tuple[dict[str, float], dict[str, float]]:
            loss, weight, updates, *others = fetched()
            mean = loss / weight if weight else math.nan
            named = {f"train/{name}": x for name, x in zip(model, others, strict=False)}
            of_leaves = dict(zip(norms, others[len(model) :], strict=True))
            return {"train/loss": mean, "train/weight": weight, "train/updates": updates, **named}, of_leaves

        return numbers

    @torch.no_grad()
    def _norms(self) -> dict[str, torch.Tensor]:
        """Of the last batch's mean gradients, by parameter."""
        named = [(bare(name), plain(p.grad)) for name, p in self.model.named_parameters() if p.grad is not None]
        norms = torch._foreach_norm([g for _, g in named], dtype=torch.float32)
        return {name: norm / self._divisor for (name, _), norm in zip(named, norms, strict=True)}

    # -- what stands around forward and backward -----------------------------------------------------------------------

    def _autocast(self) -> Any:
        return nullcontext() if self._dtype is None else torch.autocast(self.device.type, self._dtype)

    def _factor(self) -> Any:
        if not self._is_scaled:
            return 1.0
        scale = self.optimizer.param_groups[0]["loss_scale"]
        return (scale if scale.device.type != "cpu" else float(scale)) / self._unit

    @contextmanager
    def _synchronising(self, is_last: bool) -> Iterator[None]:
        """Gradients of all ranks are summed with the last part's, not with each."""
        if isinstance(self.model, DistributedDataParallel) and not is_last:
            with self.model.no_sync():
                yield
        elif isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(is_last)
            yield
        else:
            yield

    def _over_ranks(self, batch: Sums) -> tuple[Sums, int]:
        """Sums over all ranks, and how many ranks gradients are means over."""
        is_shared = isinstance(self.model, DistributedDataParallel | FSDPModule)
        if not (is_shared and distributed.is_initialized()):
            return batch, 1
        both = torch.stack(batch)
        distributed.all_reduce(both)
        return Sums(both[0], both[1]), distributed.get_world_size()

    def _keep_buffers(self) -> None:
        if self._buffers:
            torch._foreach_copy_(self._before, self._buffers)

    @torch.no_grad()
    def _restore_buffers(self) -> None:
        if not self._buffers:
            return
        happened = self.optimizer.param_groups[0]["skipped_in_a_row"] == 0
        if happened.device.type == "cpu":
            if not happened:
                torch._foreach_copy_(self._buffers, self._before)
            return
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(torch.where(happened, buffer, before))

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _zeros(self) -> Sums:
        return Sums(*torch.zeros(2, dtype=self._wide, device=self.device))

    def _number(self, weight: Any) -> Any:
        return whole(weight).detach().to(self.device, self._wide) if isinstance(weight, torch.Tensor) else float(weight)


@contextmanager
def evaluated(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    """The model with the parameters that the rule evaluates, such as an average, in the place of those it trains.

    They are written there and back: whatever holds a model's memory, as `fully_shard` does, sees them.
    """
    instead = optimizer.eval_params()
    params = [(p, instead[name]) for name, p in model.named_parameters() if name in instead]
    others = [(p, x, p.detach().clone()) for p, x in params if plain(x).data_ptr() != plain(p).data_ptr()]
    try:
        for p, x, _ in others:
            p.copy_(x)
        yield
    finally:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # which it leaves to a backward pass, and there was none
        for p, _, own in others:
            p.copy_(own)


def _fetched(values: torch.Tensor) -> Callable[[], list[float]]:
    """Begin a transfer to the host; what is returned waits for it."""
    if values.device.type != "cuda":
        return values.tolist
    here = torch.empty_like(values, device="cpu", pin_memory=True)
    here.copy_(values, non_blocking=True)
    is_here = torch.cuda.Event()  # type: ignore[no-untyped-call]
    is_here.record()

    def wait() -> list[float]:
        is_here.synchronize()
        return here.tolist()

    return wait


def _checked(returned: Any) -> tuple[torch.Tensor, Any]:
    """What a loss function returned, if it is what it should."""
    is_pair = isinstance(returned, tuple) and len(returned) == 2
    if not is_pair or not isinstance(returned[0], torch.Tensor):
        raise TypeError(
            "loss_fn(model, part) must return the sum of the losses, a tensor, and their number, such as "
            f"(F.cross_entropy(..., reduction='sum'), len(part)); it returned {_spelt(returned)}."
        )
    loss, weight = returned
    if loss.numel() != 1 or (isinstance(weight, torch.Tensor) and weight.numel() != 1):
        raise ValueError(
            f"loss_fn(model, part) must return two numbers, and the loss has shape {tuple(loss.shape)}"
            f"{_shape(weight)}: sum what is left, loss.sum()."
        )
    return whole(loss).reshape(()), weight.reshape(()) if isinstance(weight, torch.Tensor) else weight


def _spelt(x: Any) -> str:
    if isinstance(x, tuple):
        return f"({', '.join(map(_spelt, x))})"
    return f"a tensor of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else f"{x!r:.60}"


def _shape(weight: Any) -> str:
    return f", the weight {tuple(weight.shape)}" if isinstance(weight, torch.Tensor) else ""
