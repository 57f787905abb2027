"""A small model, its batches, and optimizers: what the tests of clients share."""

from __future__ import annotations

from collections.abc import Iterator
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
# A gradient that would be zero but for rounding errors, as a bias before a softmax has, moves nothing one would see.
EPS = 1e-4


def _adamw(library: Any, schedulers: Any, params: Any) -> tuple[Any, Any]:
    optimizer = library.AdamW(params, lr=0.01, eps=EPS)
    return optimizer, schedulers.OneCycleLR(optimizer, max_lr=0.05, total_steps=12)


def _sgd(library: Any, schedulers: Any, params: Any) -> tuple[Any, Any]:
    optimizer = library.SGD(params, lr=0.05, momentum=0.9, nesterov=True)
    return optimizer, schedulers.CosineAnnealingWarmRestarts(optimizer, T_0=3)


def _rmsprop(library: Any, schedulers: Any, params: Any) -> tuple[Any, Any]:
    optimizer = library.RMSprop(params, lr=0.01, eps=EPS, momentum=0.5)
    return optimizer, schedulers.ExponentialLR(optimizer, 0.8)


NAMESAKES = {"adamw": _adamw, "sgd": _sgd, "rmsprop": _rmsprop}


def namesakes(name: str, params: Any, ours: bool = True) -> tuple[Any, Any]:
    """An optimizer and a scheduler, of trainfn_torch or of torch."""
    if ours:
        return NAMESAKES[name](trainfn_torch.optim, trainfn_torch.lr_scheduler, params)
    return NAMESAKES[name](torch.optim, torch.optim.lr_scheduler, params)


def network(seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def batch(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(n), dtype=dtype)


def loss_of(model: Any, x: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = model(x)
    return (output if output.dtype == torch.float64 else output.float()).square().mean()


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
