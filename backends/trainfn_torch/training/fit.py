"""A whole run of a torch model: from a recipe, data and a loss to a trained model, resumed where it was interrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset, default_collate

from trainfn.training.data import Indices
from trainfn.training.loop import Every, Loop, Result, Stopping
from trainfn.training.metrics import Sink
from trainfn.training.recipe import Recipe
from trainfn.training.sources import InOrder, Prefetched, Prepared, Samples, Source, Stream, is_indexed
from trainfn_torch.training.engine import Engine, ranks_of, seed_epoch
from trainfn_torch.training.step import LossFn


def fit(
    model: nn.Module,
    loss_fn: LossFn,
    data: Any,
    recipe: Recipe,
    *,
    evaluation: Any = None,
    directory: str | PathLike[str] | None = None,
    sinks: Sequence[Sink] = (),
    every: Every = Every(),  # noqa: B008
    stopping: Stopping = Stopping(),  # noqa: B008
) -> Result:
    """Train a model in place.

        recipe = Recipe(adamw(lr=warmup_cosine(peak=3e-3, warmup=100, steps=2000)), updates=2000, batch_size=32)
        fit(model, loss_fn, (inputs, targets), recipe, directory="runs/first")

    model: on the device where it is to be trained, its parameters in float32.  In DistributedDataParallel, or after
        `fully_shard`, each rank takes its share of the batches, and rank 0 writes.
    loss_fn: from the model and a part of a batch to the sum of its losses and their number.
    data: samples: a tensor, or a tuple, list or dict of tensors or arrays of one length, or a Dataset; or an iterable
        of batches, such as a DataLoader, of which each is one update's.  The order of samples is a function of the
        recipe's seed.
    evaluation: data of the same sort, whose loss is measured every `every.evaluate` batches and at the end.
    directory: where metrics and checkpoints are kept; a run that was interrupted goes on from there, to the same bits.
        None keeps nothing.
    sinks: where numbers go beside `directory/metrics.jsonl`.
    every, stopping: when things happen, and when the run ends early.
    """
    device = next(model.parameters()).device
    take = _collated if isinstance(data, Dataset) else None

    def send(part: Any) -> Any:
        return _on(device, part)

    rank, ranks = ranks_of(model)
    source: Source
    if is_indexed(data):
        source = Prefetched(Prepared(Samples(data, recipe, take, rank, ranks), send))
    else:
        source = Prepared(Stream(data, lambda epoch: seed_epoch(recipe.seed, epoch)), send)
    size = recipe.micro_batch_size or recipe.batch_size
    in_order = () if evaluation is None else InOrder(evaluation, size, send, take, rank, ranks)
    engine = Engine(model, loss_fn, recipe, in_order)
    place = None if directory is None else Path(directory)
    try:
        return Loop(engine, source, recipe, directory=place, sinks=sinks, every=every, stopping=stopping).run()
    finally:
        source.close()


def _collated(data: Any, indices: Indices) -> Any:
    """Samples of a Dataset as a batch; a tensor takes all indices at once."""
    return default_collate([data[int(i)] for i in indices])


def _on(device: torch.device, part: Any) -> Any:
    """Arrays and tensors of a part of a batch as tensors on a device, without waiting for it."""
    if isinstance(part, Mapping):
        return {k: _on(device, x) for k, x in part.items()}
    if isinstance(part, tuple | list):
        return type(part)(_on(device, x) for x in part)
    if isinstance(part, np.ndarray):
        part = torch.from_numpy(part)
    if not isinstance(part, torch.Tensor) or part.device == device:
        return part
    if device.type == "cuda" and not part.is_pinned():
        part = part.pin_memory()
    return part.to(device, non_blocking=True)
