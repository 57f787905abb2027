"""Lightning's Fabric and Trainer with the optimizers and schedulers of trainfn_torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.fabric import Fabric

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def batch(n: int) -> torch.Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(n))


def weights(model: torch.nn.Module) -> dict[str, Any]:
    return {name: p.detach().float().numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("clip", [None, 0.05])
def test_fabric_only_passes_on(clip: float | None) -> None:
    """A hand-written loop has the same bits."""
    rule = tf.adamw(lr=tf.warmup_cosine(peak=0.1, warmup=2, steps=9))
    model, twin = network(), network()
    plain = trainfn_torch.Optimizer(twin.named_parameters(), rule)
    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = fabric.setup(model, trainfn_torch.Optimizer(model.named_parameters(), rule))
    for n in range(4):
        optimizer.zero_grad()
        fabric.backward(wrapped(batch(n)).square().mean())
        plain.zero_grad()
        twin(batch(n)).square().mean().backward()
        if clip is not None:
            fabric.clip_gradients(wrapped, optimizer, max_norm=clip)
            torch.nn.utils.clip_grad_norm_(twin.parameters(), clip)
        optimizer.step()
        plain.step()
    assert_same_bits(weights(twin), weights(model))
