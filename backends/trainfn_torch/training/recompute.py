"""Gradient checkpointing: layers that keep no activations, and compute them again in the backward pass."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import partial
from typing import TypeVar

from torch import nn
from torch.utils.checkpoint import checkpoint

Module = TypeVar("Module", bound=nn.Module)


def recompute(model: Module, *patterns: str) -> Module:
    """Let those modules whose names match compute their activations again in the backward pass.

        recompute(model, "blocks.*")

    patterns: of names as in `model.named_modules()`; `*` is anything but a dot, so that a block's own layers are not
        meant with it.
    Names of parameters stay, gradients too, and dropout draws the same masks again.  It is to be called before
    DistributedDataParallel, `fully_shard` or torch.compile; returns the model.
    """
    for pattern in patterns:
        found = [module for name, module in model.named_modules() if _matches(name, pattern)]
        if not found:
            names = ", ".join(name for name, _ in list(model.named_modules())[1:9])
            raise ValueError(f"recompute: {pattern!r} matches no module; there are {names}, ...")
        for module in found:
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
    return model


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
