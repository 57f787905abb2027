"""The optimizer's step inside `torch.compile`: one opaque operation in the graph.

What a step reads on the host (learning rates, counters, what a scaler says) is read when the operation runs, not when
it is traced: nothing of it becomes a constant of the graph, so a changing learning rate recompiles nothing.  The graph
sees that parameters change, which is all of the step it can see; states are the optimizer's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

if TYPE_CHECKING:
    from trainfn_torch.optimizer import Optimizer

_optimizers: WeakValueDictionary[int, Optimizer] = WeakValueDictionary()
_numbers = count()


def register(optimizer: Optimizer) -> int:
    """The number by which a graph names the optimizer."""
    number = next(_numbers)
    _optimizers[number] = optimizer
    return number


@torch.library.custom_op("trainfn::optimizer_step", mutates_args=("params",))
def _step(
    number: int,
    indices: Sequence[int],
    params: Sequence[torch.Tensor],
    grads: Sequence[torch.Tensor],
    value: torch.Tensor | None,
    weight: torch.Tensor | None,
) -> None:
    """Update the parameters of these indices; graphs may pass copies of them, which they write back.

    What a graph assigned to `p.grad` is not there yet when its operations run: the gradients come as arguments.
    """
    optimizer = _optimizers[number]
    every = optimizer.parameters()
    own = [every[i] for i in indices]
    before = [p.grad for p in every]
    copies = [(p, x) for p, x in zip(own, params, strict=True) if p.data_ptr() != x.data_ptr()]
    try:
        for p in every:
            p.grad = None
        for p, x in copies:
            p.copy_(x)
        for p, g in zip(own, grads, strict=True):
            p.grad = g
        optimizer.update(value, weight)
        for p, x in copies:
            x.copy_(p)
    finally:
        for p, old in zip(every, before, strict=True):
            p.grad = old


@_step.register_fake
def _(*arguments: object) -> None:
    """Nothing is returned."""


def step(number: int, every: Sequence[torch.Tensor], *numbers: Any) -> None:
    """The operation, as a traced step calls it on all parameters of the optimizer."""
    indices = [i for i, p in enumerate(every) if p.grad is not None]
    params = [every[i] for i in indices]
    grads = [p.grad for p in params]
    _step(number, indices, params, grads, *map(_as_tensor, numbers))


def _as_tensor(x: Any) -> torch.Tensor | None:
    return x if x is None or isinstance(x, torch.Tensor) else torch.tensor(x, dtype=torch.float64)
