"""Which execution carries out which leaf: the fastest that takes it.

On the CPU that is `fused`, or `pieces` for what works along axes, elsewhere `foreach`; `single` is for what none of
them takes.  One can be preferred by name; leaves it does not take go to the next slower one all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TypeAlias

import torch

from trainfn_torch import foreach, fused, pieces, single
from trainfn_torch.leaf import Batch, LeafUpdate, check_shapes

Batches: TypeAlias = list[tuple[ModuleType, Batch]]
# What is tried for a leaf, the fastest first, by the name that is preferred; and all, each taking more than the last.
_CANDIDATES: dict[str, tuple[ModuleType, ...]] = {
    "fused": (fused, pieces, foreach, single),
    "foreach": (foreach, single),
    "single": (single,),
}
_ALL = (fused, foreach, pieces, single)


def check(name: str | None) -> None:
    if name is not None and name not in _CANDIDATES:
        names = ", ".join(map(repr, _CANDIDATES))
        raise ValueError(f"execution = {name!r} must be one of {names}, or None for the fastest.")


def choose(leaf: LeafUpdate, preferred: str | None) -> ModuleType:
    """The fastest execution, from the preferred one on, that takes this leaf; `single` takes every one."""
    if preferred is None:
        preferred = "fused" if leaf.p.device.type == "cpu" else "foreach"
    return next(module for module in _CANDIDATES[preferred] if module.accepts(leaf))


def batches(leaves: Sequence[tuple[LeafUpdate, ModuleType]]) -> Batches:
    """What each execution is to take; where leaves need each other all go to one, which takes them all."""
    modules = sorted({module for _, module in leaves}, key=_ALL.index)
    if len(modules) > 1 and any(leaf.is_coupled for leaf, _ in leaves):
        return [(modules[-1], Batch([leaf for leaf, _ in leaves]))]
    return [(module, Batch([leaf for leaf, its in leaves if its is module])) for module in modules]


def run(batches: Batches, updates: torch.Tensor) -> None:
    """One update of the model, which one execution counts."""
    for module, batch in batches:
        if module is not fused:  # which looks at every tensor as it is, and comes first
            check_shapes(batch.leaves)
    counter: torch.Tensor | None = updates
    for module, batch in batches:
        module.step(batch, counter)
        counter = None
