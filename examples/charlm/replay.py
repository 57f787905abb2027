"""Are two optimizers the same function? Feed both the same gradients and compare every bit that comes out.

Two training runs can't answer that: matrix products round differently in torch and XLA, so their gradients differ from the first
update on. Here the gradients recorded from one run are replayed through a torch optimizer and, under `jax.jit`, through an
optax transformation, each in its own layout, and after every update the parameters and the optimizer's state are
compared as integers. Equal parameters alone would prove little: an update far smaller than its parameter is lost in rounding.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax
import torch

from .config import Config
from .data import Corpus
from .train_flax import on_device
from .train_torch import build, numpy_of
from .weights import Named, table, to_flax, to_torch


class Snapshot(NamedTuple):
    """Everything an optimizer holds after an update, by torch's names and in torch's layouts."""

    parameters: Named
    m: Named  # torch: exp_avg, optax: mu
    v: Named  # torch: exp_avg_sq, optax: nu
    steps: Named  # how many updates each parameter has had


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
    def update(params: Any, state: Any, gradient: Any) -> tuple[Any, Any]:
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = on_device(to_flax(initial, rows))
    state = transform.init(params)
    for gradient in gradients:
        params, state = update(params, state, on_device(to_flax(gradient, rows)))
        # A chain may hold several counters; they all count the same updates.
        (count,) = {int(value) for _, value in optax.tree_utils.tree_get_all_with_path(state, "count")}
        yield Snapshot(
            to_torch(params, rows),
            to_torch(optax.tree_utils.tree_get(state, "mu"), rows),
            to_torch(optax.tree_utils.tree_get(state, "nu"), rows),
            {row.torch: np.array(count) for row in rows},
        )


@dataclass
class Agreement:
    """For each kind of array: how many of its words differ after each update, and how many there are."""

    words: dict[str, int] = field(default_factory=dict)
    differing: dict[str, list[int]] = field(default_factory=dict)

    @property
    def updates(self) -> int:
        return len(next(iter(self.differing.values()), []))

    @property
    def total_words(self) -> int:
        return self.updates * sum(self.words.values())

    @property
    def total_differing(self) -> int:
        return sum(map(sum, self.differing.values()))

    def add(self, ours: Snapshot, theirs: Snapshot) -> None:
        for kind in Snapshot._fields:
            a, b = getattr(ours, kind), getattr(theirs, kind)
            self.words[kind] = sum(array.size for array in a.values())
            self.differing.setdefault(kind, []).append(sum(differing_words(a[name], b[name]) for name in a))


def compare(left: Iterable[Snapshot], right: Iterable[Snapshot]) -> Agreement:
    agreement = Agreement()
    for ours, theirs in zip(left, right, strict=True):
        agreement.add(ours, theirs)
    return agreement


def differing_words(a: np.ndarray, b: np.ndarray) -> int:
    """How many elements differ in any bit: -0.0 is not 0.0, and a NaN equals a NaN with the same bits."""
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"cannot compare {a.dtype}{list(a.shape)} with {b.dtype}{list(b.shape)}")
    integers = np.dtype(f"u{a.dtype.itemsize}")
    return int(np.count_nonzero(np.ascontiguousarray(a).view(integers) != np.ascontiguousarray(b).view(integers)))
