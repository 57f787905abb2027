"""`fit` in torch: log, evaluation, early stopping, checkpoints. Called again it goes on from where it was interrupted.

python -m examples.training.trainer_torch [DIRECTORY]
"""

from __future__ import annotations

import sys

import trainfn as tf
from examples.training.digits import pictures
from examples.training.own_loop_torch import loss_fn, model
from trainfn.training.loop import Every, Result, Stopping
from trainfn.training.recipe import Recipe
from trainfn.training.stopping import early_stopping
from trainfn_torch.training import fit

RECIPE = Recipe(
    rule=tf.chain(
        tf.clip_by_global_norm(1.0),
        tf.ema(tf.adamw(lr=tf.warmup_cosine(peak=3e-3, warmup=10, steps=200)), decay=0.98),
    ),
    updates=200,
    batch_size=32,
    micro_batch_size=16,
    precision="bfloat16",
    drop_last=True,
)


def main(directory: str = "runs/trainer") -> Result:
    result = fit(
        model(),
        loss_fn,
        pictures(0, 1000),
        RECIPE,
        evaluation=pictures(1, 200),
        directory=directory,
        every=Every(log=20, evaluate=40, save=40),
        stopping=Stopping(rule=early_stopping(patience=3), restore_best=True),
    )
    assert result.best is not None
    print(f"{result.reason} after {result.updates} updates; best evaluation loss {result.best[0]:.3f}")
    print(f"numbers in {directory}/metrics.jsonl, checkpoints in {directory}/checkpoints")
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
