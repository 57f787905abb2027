"""Which samples the n-th batch of a run has: a function of the seed and n, so that nothing has to be remembered.

A run that is resumed in the middle of an epoch asks for batch n and gets the one it would have had; a loader's workers
hold no state, and both frameworks read the same samples in the same order.
"""

from __future__ import annotations

import numbers
import operator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from trainfn.random import fold_in, key, threefry2x32

Indices = np.ndarray[Any, np.dtype[np.int64]]
_PURPOSE = 0xDA7A  # folded in, so that other random numbers of the same seed are others


@dataclass(frozen=True)
class Batches:
    """The batches of a run, epoch after epoch: `batches[n]` has the indices of batch n, counted from 0 over all epochs.

    size: how many samples there are.
    batch_size: how many one batch has; the last one of an epoch has what is left, or is left out with `drop_last`.
    shuffle: whether each epoch has an order of its own, drawn from the seed.
    """

    size: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.size == 0:
            raise ValueError("Batches: there are no samples.")
        for name in ("size", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"Batches: {name} = {value!r} must be a whole number, at least 1.")
        if self.drop_last and self.batch_size > self.size:
            raise ValueError(
                f"Batches: no batch of {self.batch_size} can be made of {self.size} samples, and drop_last leaves the "
                "rest out: take smaller batches, or drop_last=False."
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, numbers.Integral):
            raise ValueError(f"Batches: seed = {self.seed!r} must be a whole number.")
        key(int(self.seed))

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return int(self.size // self.batch_size if self.drop_last else -(-self.size // self.batch_size))

    def epoch(self, n: int) -> int:
        """The epoch that batch n is in, counted from 0."""
        return n // self.per_epoch

    def __getitem__(self, n: int) -> Indices:
        if n < 0:
            raise IndexError(f"batches are counted from 0 and do not end: there is no batch {n}.")
        epoch, position = divmod(operator.index(n), self.per_epoch)
        order = _order(int(self.size), int(self.seed), int(epoch)) if self.shuffle else np.arange(self.size)
        return order[position * self.batch_size : (position + 1) * self.batch_size].copy()


@lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> Indices:
    """The samples in the order of an epoch: sorted by 64 random bits each, which are a function of all three."""
    places = np.arange(size, dtype=np.uint64)
    words = threefry2x32(fold_in(fold_in(key(seed), _PURPOSE), epoch), (places >> 32, places & 0xFFFFFFFF))
    high, low = (np.asarray(word, np.uint64) for word in words)
    order = np.argsort((high << np.uint64(32)) | low, kind="stable")
    order.setflags(write=False)
    return order
