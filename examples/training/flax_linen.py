"""`fit` of a linen module with batch statistics and dropout: a function of all that it carries along."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from flax import linen as nn

from examples.training.digits import pictures
from examples.training.trainer_torch import RECIPE
from trainfn.training.loop import Every, Result
from trainfn_jax.training import Functional, fit


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: Any, *, trains: bool) -> Any:
        x = nn.Dense(64, dtype=jnp.bfloat16)(x)
        x = nn.gelu(nn.BatchNorm(use_running_average=not trains)(x))
        x = nn.Dropout(0.1, deterministic=not trains)(x)
        return nn.Dense(4, dtype=jnp.bfloat16)(x).astype(jnp.float32)


def main(directory: str | None = None) -> Result:
    net = Net()
    variables = net.init(jax.random.key(0), jnp.zeros((1, 64)), trains=False)

    def total(logits: Any, labels: Any) -> tuple[Any, int]:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum(), len(labels)

    def loss_fn(params: Any, stats: Any, part: Any, key: Any) -> Any:
        x, y = part
        both, rngs = {"params": params, "batch_stats": stats}, {"dropout": key}
        logits, changed = net.apply(both, x, trains=True, rngs=rngs, mutable=["batch_stats"])
        return total(logits, y), changed["batch_stats"]

    def evaluate(params: Any, stats: Any, part: Any) -> Any:
        return total(net.apply({"params": params, "batch_stats": stats}, part[0], trains=False), part[1])

    model = Functional(variables["params"], loss_fn, rest=variables["batch_stats"], evaluate=evaluate)
    data, held_out = pictures(0, 1000), pictures(1, 200)
    result = fit(model, None, data, RECIPE, evaluation=held_out, directory=directory, every=Every(20, 100))
    print(f"linen: {result.updates} updates, evaluation loss {result.numbers['eval/loss']:.3f}")
    return result


if __name__ == "__main__":
    main()
