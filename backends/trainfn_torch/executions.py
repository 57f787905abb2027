"""Which execution carries out which leaf: the fastest that takes it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch

from trainfn_torch import foreach, fused, single
from trainfn_torch.kernels.compiler import CannotBuild
from trainfn_torch.leaf import LeafUpdate

NAMES = ("fused", "foreach", "single")
Step: TypeAlias = Callable[[Sequence[LeafUpdate]], "bool | torch.Tensor"]


class Executor:
    """Carries out the steps of one optimizer.

    preferred: the fastest execution to try; None is `fused` on the CPU and `foreach` elsewhere.
    """

    def __init__(self, preferred: str | None) -> None:
        if preferred is not None and preferred not in NAMES:
            raise ValueError(
                f"execution = {preferred!r} must be one of {', '.join(map(repr, NAMES))}, or None for the fastest."
            )
        self.preferred = preferred
        self._fused = fused.Fused()
        self._taken_by_fused: WeakKeyDictionary[LeafUpdate, bool] = WeakKeyDictionary()

    def step(self, leaves: Sequence[LeafUpdate]) -> bool | torch.Tensor:
        """Update all leaves; returns whether the update was applied."""
        if not self._wants_fused(leaves):
            return self._without_fused(leaves)
        if not self._taken_by_fused:
            try:
                return self._fused.step(leaves)
            except fused.Refused:
                self._taken_by_fused.update((leaf, fused.accepts(leaf)) for leaf in leaves)
            except CannotBuild as error:
                self._do_without(error)
                return self._without_fused(leaves)
        return self._with_some_refused(leaves)

    def _wants_fused(self, leaves: Sequence[LeafUpdate]) -> bool:
        if self.preferred is not None:
            return self.preferred == "fused"
        return all(leaf.p.device.type == "cpu" for leaf in leaves)

    def _with_some_refused(self, leaves: Sequence[LeafUpdate]) -> bool | torch.Tensor:
        for leaf in leaves:
            if leaf not in self._taken_by_fused:
                self._taken_by_fused[leaf] = fused.accepts(leaf)
        taken = [leaf for leaf in leaves if self._taken_by_fused[leaf]]
        others = [leaf for leaf in leaves if not self._taken_by_fused[leaf]]
        if not taken or (others and leaves[0].is_coupled):
            return self._without_fused(leaves)
        try:
            applied: bool | torch.Tensor = self._fused.step(taken)
        except fused.Refused:  # tensors that share memory
            self._taken_by_fused.update((leaf, False) for leaf in taken)
            return self._without_fused(leaves)
        return self._without_fused(others) if others else applied

    def _without_fused(self, leaves: Sequence[LeafUpdate]) -> bool | torch.Tensor:
        if self.preferred == "single":
            return single.step(leaves)
        taken = [leaf for leaf in leaves if foreach.accepts(leaf)]
        if len(taken) == len(leaves):
            return foreach.step(leaves)
        if not taken or leaves[0].is_coupled:
            return single.step(leaves)
        foreach.step(taken)
        return single.step([leaf for leaf in leaves if not foreach.accepts(leaf)])

    def _do_without(self, error: Exception) -> None:
        global _has_warned
        self.preferred = "foreach"
        if not _has_warned:
            _has_warned = True
            warnings.warn(f"trainfn runs without its fused kernels, several times slower: {error}", stacklevel=2)


_has_warned = False
