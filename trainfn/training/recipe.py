"""A training recipe: what decides, beside model and data, all that a run computes; the same in torch and in JAX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from trainfn.rule import Rule
from trainfn.training.data import Batches, Indices
from trainfn.wrappers.guard import guard, loss_scaled

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Recipe:
    """What a run computes.

    rule: with its hyperparameters and schedules, such as chain(clip_by_global_norm(1.0), adamw(lr=...)).
    updates: how many the run has.  Skipped ones are made up for; a schedule's end is the rule's own business.
    batch_size: samples in one update; the last batch of an epoch has what is left, unless `drop_last`.
    micro_batch_size: samples in one backward pass, where memory has no room for all; None is all at once.  It changes
        roundings only.
    precision: of the model's arithmetic: "float32", or "bfloat16" or "float16" beside parameters in float32; float16
        has dynamic loss scaling, whose numbers are `loss_scale`: those of `trainfn.loss_scaled`.
    seed: of the order of the data and of everything random in the model.
    """

    rule: Rule
    updates: int
    batch_size: int
    micro_batch_size: int | None = None
    precision: str = "float32"
    loss_scale: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.rule, Rule):
            raise TypeError(f"Recipe: rule = {self.rule!r} must be a rule with its hyperparameters, such as adamw().")
        for name in ("updates", "batch_size", "micro_batch_size"):
            value = getattr(self, name)
            if name == "micro_batch_size" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Recipe: {name} = {value!r} must be a whole number, at least 1.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"Recipe: precision = {self.precision!r} must be one of {', '.join(PRECISIONS)}.")
        if self.loss_scale and self.precision != "float16":
            raise ValueError(f"Recipe: loss_scale is for float16; in {self.precision} no gradient vanishes.")
        if {"skipped_in_a_row", "loss_scale"} & {f.name for f in self.rule.fields}:
            raise ValueError(
                f"Recipe: {self.rule.name} has guard or loss_scaled in it, which a recipe puts around its rule: give "
                "the rule without."
            )
        self.guarded()

    def guarded(self) -> Rule:
        """The rule as the loop runs it."""
        return loss_scaled(self.rule, **self.loss_scale) if self.precision == "float16" else guard(self.rule)

    def batches(self, size: int) -> Batches:
        """The batches of a run on so many samples."""
        return Batches(size, self.batch_size, self.seed, self.shuffle, self.drop_last)

    def micro_batches(self, indices: Indices, rank: int = 0, ranks: int = 1) -> list[Indices]:
        """A batch, or a rank's share of it, in its parts: as many on each rank, with sizes that differ by one at most.

        On one rank parts are as large as they may be, and the last has what is left.
        """
        size = self.micro_batch_size or len(indices)
        if ranks == 1:
            return [indices[i : i + size] for i in range(0, len(indices), size)]
        if len(indices) < ranks:
            raise ValueError(
                f"a batch of {len(indices)} samples cannot be shared by {ranks} ranks: take drop_last=True, or another "
                "batch_size."
            )
        parts = min(-(-len(indices) // (ranks * size)), len(indices) // ranks)
        return np.array_split(np.array_split(indices, ranks)[rank], max(parts, 1))

    def description(self) -> dict[str, Any]:
        """What it is, for JSON: a run goes on only with a recipe that is described alike."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("rule", "loss_scale")}
        return {**plain, "loss_scale": dict(self.loss_scale), "rule": _without_addresses(repr(self.rule))}


# What may be changed where a run is resumed: they do not change what an update computes.
FREE = ("updates", "micro_batch_size")


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two descriptions of recipes, a sentence each."""
    names = dict.fromkeys([*before, *now])
    return [
        f"{name} was {before.get(name)} and is {now.get(name)}"
        for name in names
        if name not in FREE and before.get(name) != now.get(name)
    ]


def _without_addresses(text: str) -> str:
    """What stands for an object, such as a function of the leaf, without where it lies in this process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)
