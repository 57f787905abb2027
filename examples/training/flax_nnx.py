"""`fit` of an nnx module, in place, with the recipe that the torch examples have."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from flax import nnx

from examples.training.digits import pictures
from examples.training.trainer_torch import RECIPE
from trainfn.training.loop import Every, Result
from trainfn_jax.training import fit


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, dtype: Any = jnp.bfloat16) -> None:
        self.first = nnx.Linear(64, 64, rngs=rngs, dtype=dtype)
        self.last = nnx.Linear(64, 4, rngs=rngs, dtype=dtype)

    def __call__(self, x: Any) -> Any:
        return self.last(nnx.gelu(self.first(x), approximate=False)).astype(jnp.float32)


def loss_fn(model: Any, part: Any) -> tuple[Any, int]:
    x, y = part
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).sum(), len(y)


def main(directory: str | None = None) -> Result:
    data, held_out = pictures(0, 1000), pictures(1, 200)
    net = Net(nnx.Rngs(0))
    result = fit(net, loss_fn, data, RECIPE, evaluation=held_out, directory=directory, every=Every(20, 100))
    print(f"nnx: {result.updates} updates, evaluation loss {result.numbers['eval/loss']:.3f}")
    return result


if __name__ == "__main__":
    main()
