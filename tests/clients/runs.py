"""A small model, its batches, and optimizers: what the tests of clients share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

import trainfn as tf
import trainfn_torch

# A clip, a schedule, a decay that splits groups, an average: all that a rule may keep beside moments.
RULE = tf.ema(
    tf.chain(
        tf.clip_by_global_norm(0.1),
        tf.adamw(
            lr=tf.warmup_cosine(peak=0.05, warmup=2, steps=9),
            weight_decay=lambda leaf: 0.1 if leaf.ndim > 1 else 0.0,
        ),
    ),
    decay=0.9,
)

# An optimizer and a scheduler of one library, `torch` or `trainfn_torch`.  eps is such that a gradient which would be
# zero without rounding errors, as that of a bias before a softmax, moves nothing that a comparison would see.
NAMESAKES: tuple[Callable[[Any, Any], tuple[Any, Any]], ...] = (
    lambda library, params: one_cycle(library, library.optim.AdamW(params, lr=0.01, eps=1e-4)),
    lambda library, params: warm_restarts(library, library.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True)),
    lambda library, params: exponential(library, library.optim.RMSprop(params, lr=0.01, eps=1e-4, momentum=0.5)),
)


def schedulers(library: Any) -> Any:
    return library.optim.lr_scheduler if library is torch else library.lr_scheduler


def one_cycle(library: Any, optimizer: Any) -> tuple[Any, Any]:
    return optimizer, schedulers(library).OneCycleLR(optimizer, max_lr=0.05, total_steps=12)


def warm_restarts(library: Any, optimizer: Any) -> tuple[Any, Any]:
    return optimizer, schedulers(library).CosineAnnealingWarmRestarts(optimizer, T_0=3)


def exponential(library: Any, optimizer: Any) -> tuple[Any, Any]:
    return optimizer, schedulers(library).ExponentialLR(optimizer, 0.8)


def network(seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def batch(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(n), dtype=dtype)


def loss_of(model: Any, x: torch.Tensor) -> torch.Tensor:
    return model(x).float().square().mean() if x.dtype != torch.float64 else model(x).square().mean()


def optimizer_of(model: torch.nn.Module, rule: tf.Rule = RULE, **options: Any) -> trainfn_torch.Optimizer:
    return trainfn_torch.Optimizer(model.named_parameters(), rule, **options)


def grouped(optimizer: Any) -> Iterator[torch.Tensor]:
    """Parameters in the order in which clients clip them."""
    return (p for group in optimizer.param_groups for p in group["params"])


def weights(model: torch.nn.Module) -> dict[str, Any]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def assert_close(expected: torch.nn.Module, actual: torch.nn.Module) -> None:
    """Of float64 models: the bound of docs/contract.md."""
    for p, q in zip(expected.parameters(), actual.parameters(), strict=True):
        assert p.dtype == torch.float64
        torch.testing.assert_close(q, p, rtol=1e-12, atol=1e-12)


class Overflow:
    """A factor of the loss: at some calls one so large that gradients in half precision are infinite."""

    def __init__(self, *at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self) -> float:
        self.calls += 1
        return math.inf if self.calls - 1 in self.at else 1.0
