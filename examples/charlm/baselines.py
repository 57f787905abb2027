"""The same recipe as a user writes it today, twice: once with torch.optim, once with optax.

The demo measures its own optimizers against these two, in time and in how far they are from being the same.
"""

import math
from collections.abc import Iterable

import jax
import optax
import torch

from .config import Config


class TorchBaseline:
    """`clip_grad_norm_`, fused AdamW and LambdaLR; `step` does one update of all three."""

    def __init__(self, named_parameters: Iterable[tuple[str, torch.nn.Parameter]], config: Config) -> None:
        self.config = config
        self.parameters = [p for _, p in named_parameters]
        decayed = [p for p in self.parameters if p.ndim >= 2]
        others = [p for p in self.parameters if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=config.peak_lr,
            betas=(0.9, config.b2),
            fused=True,
        )
        self.state = self.optimizer.state
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._factor)

    def _factor(self, step: int) -> float:
        c = self.config
        if step < c.warmup:
            return step / c.warmup
        fraction = min((step - c.warmup) / (c.updates - c.warmup), 1.0)
        floor = c.floor_lr / c.peak_lr
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fraction))

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_norm)
        self.optimizer.step()
        self.scheduler.step()


def optax_baseline(config: Config) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.peak_lr,
        warmup_steps=config.warmup,
        decay_steps=config.updates,
        end_value=config.floor_lr,
    )
    return optax.chain(
        optax.clip_by_global_norm(config.max_norm),
        optax.adamw(
            schedule,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim >= 2, params),
        ),
    )
