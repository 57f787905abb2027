"""A torch model as the loop sees it: updates, numbers, evaluation, and all that a checkpoint has to hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from trainfn import random
from trainfn.convert import Snapshot, differences
from trainfn.training.rates import learning_rates
from trainfn.training.recipe import Recipe
from trainfn_torch import convert
from trainfn_torch.checkpoint import bare, copy_array
from trainfn_torch.optimizer import Optimizer
from trainfn_torch.training.step import LossFn, Step, Sums

# Folded in, so that random numbers of one seed that are for one thing are not those for another.
_BATCH, _EPOCH = 0xBA7C, 0xE90C


class Engine:
    """Makes updates of a model from batches.

    evaluation: batches to evaluate on, which are gone through each time.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, recipe: Recipe, evaluation: Iterable[Any] = ()) -> None:
        self.model, self.recipe, self._evaluation = model, recipe, evaluation
        self.rank, self.ranks = ranks_of(model)
        self.optimizer = Optimizer(model.named_parameters(), recipe.guarded())
        self.step = Step(model, self.optimizer, loss_fn, precision=recipe.precision, terms=recipe.batch_size)
        shapes = {bare(name): tuple(p.shape) for name, p in model.named_parameters()}
        self.learning_rate = learning_rates(recipe.rule, shapes)

    def update(self, n: int, parts: Sequence[Any], is_logged: bool) -> None:
        seed_batch(self.recipe.seed, n, self.rank)
        self.model.train()
        self.step(parts)

    def read(self) -> Callable[[], tuple[Mapping[str, float], Mapping[str, float]]]:
        """The numbers of the batches since it was last called, and the norms of the last one's gradients."""
        return self.step.reading(with_norms=True)

    def applied(self) -> int:
        return int(self.optimizer.param_groups[0]["updates"])

    def agree(self, flag: bool) -> bool:
        if self.ranks == 1:
            return flag
        flags = torch.tensor(float(flag), device=self.step.device)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags)

    def evaluate(self) -> Mapping[str, float]:
        """The mean loss of the evaluation's batches."""
        loss, weight = torch.stack(self.step.measure(self._evaluation)).tolist()
        return {"eval/loss": loss / weight if weight else float("nan")}

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        known = convert.snapshot(self.optimizer)
        arrays = {
            "params": convert.arrays(self.model.named_parameters()),
            "buffers": convert.arrays(self._buffers()),
            "optimizer": known.arrays(),
        }
        return arrays, {"optimizer": known.header(), "sums": torch.stack(self.step.sums).tolist()}

    @torch.no_grad()
    def load(self, arrays: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
        _copy("parameters", self.model.named_parameters(), arrays["params"])
        buffers = arrays["buffers"]  # a run that comes from JAX has counted no batches, which only torch does
        _copy("buffers", [x for x in self._buffers() if x[0] in buffers or not _is_count(x[0])], buffers)
        known = Snapshot.of_arrays(self.optimizer.rule, arrays["optimizer"], numbers["optimizer"])
        convert.load(self.optimizer, known)
        self.step.sums = Sums(*(torch.full_like(self.step.sums.loss, x) for x in numbers["sums"]))

    def _buffers(self) -> list[tuple[str, torch.Tensor]]:
        parameters = dict(self.model.named_parameters())
        saved = self.model.state_dict(keep_vars=True)
        return [(name, x) for name, x in saved.items() if name not in parameters and isinstance(x, torch.Tensor)]


def ranks_of(model: nn.Module) -> tuple[int, int]:
    """Which of the processes that train a model together this is, and how many there are."""
    is_shared = isinstance(model, DistributedDataParallel | FSDPModule)
    if not (is_shared and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def seed_batch(seed: int, n: int, rank: int) -> None:
    """Begin torch's random numbers of batch n: what a model draws is a function of the run's seed, n and the rank."""
    _seed(seed, _BATCH, n, rank)


def seed_epoch(seed: int, epoch: int) -> None:
    """Begin those with which a loader shuffles an epoch."""
    _seed(seed, _EPOCH, epoch)


def _seed(seed: int, *purpose: int) -> None:
    high, low = reduce(random.fold_in, purpose, random.key(seed))
    torch.manual_seed(int(high) << 31 | int(low) >> 1)


def _is_count(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _copy(what: str, named: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    here = {bare(name): x for name, x in named}
    missing, unknown = sorted(here.keys() - arrays.keys()), sorted(arrays.keys() - here.keys())
    if missing or unknown:
        raise ValueError(
            f"the checkpoint is of another model: of {what} "
            + differences("it lacks", missing, "the model lacks", unknown)
        )
    unlike = [name for name, x in here.items() if tuple(x.shape) != arrays[name].shape]
    if unlike:
        name = unlike[0]
        raise ValueError(
            f"the checkpoint is of another model: {name!r} has shape {arrays[name].shape} there and "
            f"{tuple(here[name].shape)} here."
        )
    for name, x in here.items():
        x.copy_(copy_array(convert.tensor(arrays[name]), x))
