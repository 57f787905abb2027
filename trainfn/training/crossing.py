"""A run that goes on in the other framework: its checkpoint under the other model's names and in its layout.

    cross("runs/torch", "runs/jax", recipe, flax_layout(model), buffers={"1.running_mean": "BatchNorm_0/mean", ...})

Parameters, optimizer state, schedule, loss scale, averages, counters and the position in the data come along.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from trainfn.convert import Layout, Snapshot, rearranged
from trainfn.rule import Rule
from trainfn.training.checkpoints import Checkpoint, Checkpoints
from trainfn.training.recipe import Recipe


def crossed(
    checkpoint: Checkpoint, recipe: Recipe, layout: Layout, buffers: Layout | None = None, rule: Rule | None = None
) -> Checkpoint:
    """The checkpoint for a model whose parameters have a layout's names and order of axes.

    buffers: the layout of what a model carries along besides, such as batch statistics; without it there may be none.
        torch's counts of batches are left out, which no other framework has.
    rule: the rule for the new names, where it asks for names or axes: `Snapshot.renamed` says when.
    """
    known = Snapshot.of_arrays(
        recipe.guarded(), checkpoint.arrays["optimizer"], checkpoint.numbers["engine"]["optimizer"]
    )
    renamed = known.renamed(layout, rule)
    carried = {k: x for k, x in checkpoint.arrays["buffers"].items() if not k.endswith("num_batches_tracked")}
    arrays = {
        "params": rearranged(checkpoint.arrays["params"], layout),
        "buffers": rearranged(carried, {} if buffers is None else buffers),
        "optimizer": renamed.arrays(),
    }
    engine = {**checkpoint.numbers["engine"], "optimizer": renamed.header()}
    return Checkpoint(checkpoint.step, arrays, {**checkpoint.numbers, "engine": engine})


def cross(
    run: str | os.PathLike[str],
    other: str | os.PathLike[str],
    recipe: Recipe,
    layout: Layout,
    buffers: Layout | None = None,
) -> None:
    """Make the directory of a run, for `fit` in the other framework to go on from, of the last checkpoint of one.

    The other directory must not hold a run yet.
    """
    there = Path(other)
    if (there / "checkpoints").exists():
        raise FileExistsError(f"{there} holds a run already: take another directory.")
    with Checkpoints(Path(run) / "checkpoints") as checkpoints:
        made = crossed(checkpoints.load(), recipe, layout, buffers)
    with Checkpoints(there / "checkpoints") as checkpoints:
        checkpoints.save(made)
    shutil.copyfile(Path(run) / "metrics.jsonl", there / "metrics.jsonl")
