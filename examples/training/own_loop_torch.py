"""A loop of one's own in torch, in float16 with dynamic loss scaling, which nobody waits for.

`Step` is the middle of a loop: forward, backward, and one program that unscales, checks, clips and updates.  The same
rule also takes torch's own GradScaler, as any optimizer of torch.optim does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

import trainfn as tf
import trainfn_torch
from examples.training.digits import pictures
from trainfn_torch.training import Step

RULE = tf.chain(tf.clip_by_global_norm(1.0), tf.adamw(lr=tf.warmup_cosine(peak=3e-3, warmup=10, steps=100)))


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.GELU(), torch.nn.Linear(64, 4))


def loss_fn(model: Any, part: Any) -> tuple[torch.Tensor, int]:
    """The sum of the losses, and how many there are: so a batch may be taken in parts."""
    x, y = part
    return F.cross_entropy(model(x).float(), y, reduction="sum"), len(y)


def with_step(updates: int = 100) -> float:
    net = model()
    optimizer = trainfn_torch.Optimizer(net.named_parameters(), tf.loss_scaled(RULE))
    step = Step(net, optimizer, loss_fn, precision="float16", terms=32)
    numbers: dict[str, float] = {}
    for n in range(updates):
        x, y = map(torch.from_numpy, pictures(n, 32))
        step([(x[:20], y[:20]), (x[20:], y[20:])])  # as much as memory has room for, twice
        if n % 25 == 24:
            numbers = step.read()
            print(f"{n + 1:4d}  loss {numbers['train/loss']:.3f}  scale {numbers['train/loss_scale']:.0f}")
    return numbers["train/loss"]


def with_grad_scaler(updates: int = 100) -> float:
    net = model()
    optimizer = trainfn_torch.Optimizer(net.named_parameters(), RULE)
    scaler = torch.amp.GradScaler("cpu")
    losses = []
    for n in range(updates):
        x, y = map(torch.from_numpy, pictures(n, 32))
        with torch.autocast("cpu", torch.float16):
            loss = F.cross_entropy(net(x).float(), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)  # unscales, checks, clips and updates; the schedule waits where it skips
        scaler.update()
        losses.append(loss.item())
    print(f"with torch's GradScaler: loss {sum(losses[-25:]) / 25:.3f}")
    return sum(losses[-25:]) / 25


if __name__ == "__main__":
    with_step()
    with_grad_scaler()
