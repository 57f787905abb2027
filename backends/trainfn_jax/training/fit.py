"""A whole run of a JAX model: from a recipe, data and a loss to a trained model, resumed where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

from trainfn.training.loop import Every, Loop, Result, Stopping
from trainfn.training.metrics import Sink
from trainfn.training.recipe import Recipe
from trainfn.training.sources import InOrder, Prefetched, Prepared, Samples, Source, Stream, is_indexed
from trainfn_jax.training.engine import Engine
from trainfn_jax.training.models import model_of


def fit(
    model: Any,
    loss_fn: Callable[..., Any] | None,
    data: Any,
    recipe: Recipe,
    *,
    evaluation: Any = None,
    directory: str | PathLike[str] | None = None,
    sinks: Sequence[Sink] = (),
    every: Every = Every(),  # noqa: B008
    stopping: Stopping = Stopping(),  # noqa: B008
    sharding: Any = None,
) -> Result:
    """Train a model in place, as `trainfn_torch.training.fit` does, with the same recipe.

        fit(model, loss_fn, (inputs, targets), recipe, directory="runs/first")  # a module of nnx
        fit(Functional(params, loss_fn), None, (inputs, targets), recipe)       # any function, linen's apply too

    model: a module of flax's nnx, or `Functional`.
    loss_fn: of a module of nnx: from (model, part) to the sum of the part's losses and their number.
    data: samples: an array, or a tuple, list or dict of arrays of one length; or an iterable of batches of arrays, of
        which each is one update's.  The order of samples is a function of the recipe's seed.
    evaluation, directory, sinks, every, stopping: as there.
    sharding: how parts of batches lie over devices, such as NamedSharding(mesh, PartitionSpec("data")): their samples,
        in parts and in the evaluation, must be a multiple of that axis.  Parameters stay where they are given.
    """

    def send(part: Any) -> Any:
        here = jax.tree.map(np.asarray, part)
        return here if sharding is None else jax.device_put(here, sharding)

    source: Source
    if is_indexed(data):
        source = Prefetched(Prepared(Samples(data, recipe), send))
    else:
        source = Prepared(Stream(data, lambda epoch: None), send)
    size = recipe.micro_batch_size or recipe.batch_size
    in_order = () if evaluation is None else InOrder(evaluation, size, send)
    engine = Engine(model_of(model, loss_fn), recipe, in_order)
    place = None if directory is None else Path(directory)
    try:
        return Loop(engine, source, recipe, directory=place, sinks=sinks, every=every, stopping=stopping).run()
    finally:
        source.close()
        engine.finish()
