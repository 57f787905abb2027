"""Are two optimizers the same function? Feed both the same gradients and compare every bit that comes out.

Two training runs can't answer that: matrix products round differently in torch and XLA, so their gradients
differ from the first update on. Here the gradients recorded from one run are replayed through a torch
optimizer, through an optax transformation under `jax.jit`, and through numpy, which is what a rule means; torch
and numpy in torch's layout, JAX in flax's. After every update the parameters and the optimizer's state are
compared as integers, and of numpy and JAX the updates themselves (a torch optimizer writes into its parameters
and shows no update). Equal parameters alone would prove little: an update far smaller than its parameter is lost
in rounding.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax
import numpy as np
import optax
import torch

from trainfn import Rule, reference

from .bits import Snapshot
from .config import Config
from .data import Corpus
from .train_flax import on_device
from .train_torch import build, numpy_of
from .weights import Named, table, to_flax, to_torch


class TorchOptimizer(Protocol):
    state: Any

    def step(self) -> object: ...


MakeTorchOptimizer = Callable[[Iterable[tuple[str, torch.nn.Parameter]]], TorchOptimizer]


def replay_torch(
    config: Config, corpus: Corpus, initial: Named, gradients: list[Named], make: MakeTorchOptimizer
) -> Iterator[Snapshot]:
    parameters = dict(build(config, corpus, initial).named_parameters())
    optimizer = make(parameters.items())
    for gradient in gradients:
        for name, p in parameters.items():
            p.grad = torch.tensor(gradient[name])  # a copy: clip_grad_norm_ writes into it
        optimizer.step()
        state = {name: optimizer.state[p] for name, p in parameters.items()}
        yield Snapshot(
            numpy_of(parameters.items()),
            numpy_of((name, s["exp_avg"]) for name, s in state.items()),
            numpy_of((name, s["exp_avg_sq"]) for name, s in state.items()),
            {name: np.array(int(s["step"])) for name, s in state.items()},
        )


def replay_flax(
    config: Config, initial: Named, gradients: list[Named], transform: optax.GradientTransformation
) -> Iterator[Snapshot]:
    rows = table(config.layers)

    @jax.jit
    def update(params: Any, state: Any, gradient: Any) -> tuple[Any, Any, Any]:
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, updates

    params = on_device(to_flax(initial, rows))
    state = transform.init(params)
    for gradient in gradients:
        params, state, updates = update(params, state, on_device(to_flax(gradient, rows)))
        # A chain of optax's may hold several counters; they all count the same updates.
        (count,) = {int(value) for _, value in optax.tree_utils.tree_get_all_with_path(state, "count")}
        yield Snapshot(
            to_torch(params, rows),
            to_torch(optax.tree_utils.tree_get(state, "mu"), rows),
            to_torch(optax.tree_utils.tree_get(state, "nu"), rows),
            {row.torch: np.array(count) for row in rows},
            to_torch(updates, rows),
        )


def replay_numpy(initial: Named, gradients: list[Named], rule: Rule) -> Iterator[Snapshot]:
    params = initial
    state = reference.init(rule, params)
    for gradient in gradients:
        updates, state = reference.update(rule, state, gradient, params)
        params = {name: p + updates[name] for name, p in params.items()}
        yield Snapshot(
            params,
            {name: leaf["m"] for name, leaf in state.leaves.items()},
            {name: leaf["v"] for name, leaf in state.leaves.items()},
            {name: np.array(steps) for name, steps in state.steps.items()},
            updates,
        )
