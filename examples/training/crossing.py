"""A run that begins in torch, goes on in JAX, and ends in torch: one recipe, one format of checkpoints.

python -m examples.training.crossing [DIRECTORY]
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from flax import nnx

import trainfn_jax.training
import trainfn_torch.training
from examples.training import flax_nnx, own_loop_torch
from examples.training.digits import pictures
from examples.training.trainer_torch import RECIPE
from trainfn.convert import inverse
from trainfn.training.crossing import cross
from trainfn.training.loop import Every, Result
from trainfn_torch.convert import flax_layout

# What each layer of the torch model is called in the flax model.
NAMES = {"0": "first", "2": "last"}


def main(directory: str = "runs/crossing") -> Result:
    place, data, held_out = Path(directory), pictures(0, 1000), pictures(1, 200)
    layout = flax_layout(own_loop_torch.model(), lambda name: NAMES[name])

    def in_torch(updates: int, run: str) -> Result:
        recipe, net = replace(RECIPE, updates=updates), own_loop_torch.model()
        return trainfn_torch.training.fit(
            net, own_loop_torch.loss_fn, data, recipe, evaluation=held_out, directory=place / run, every=Every(20, 50)
        )

    first = in_torch(80, "torch")
    cross(place / "torch", place / "jax", RECIPE, layout)
    second = trainfn_jax.training.fit(
        flax_nnx.Net(nnx.Rngs(0)),
        flax_nnx.loss_fn,
        data,
        replace(RECIPE, updates=140),
        evaluation=held_out,
        directory=place / "jax",
        every=Every(20, 50),
    )
    cross(place / "jax", place / "torch again", RECIPE, inverse(layout))
    third = in_torch(200, "torch again")
    for name, result in (("torch", first), ("JAX", second), ("torch", third)):
        print(f"{name}: at update {result.updates} evaluation loss {result.numbers['eval/loss']:.3f}")
    return third


if __name__ == "__main__":
    main(*sys.argv[1:])
