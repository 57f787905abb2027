"""Comparing arrays as integers, and keeping count of what differs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .weights import Named


class Snapshot(NamedTuple):
    """Everything an optimizer made and holds after an update, by torch's names and in torch's layouts."""

    parameters: Named
    m: Named  # torch: exp_avg, optax: mu
    v: Named  # torch: exp_avg_sq, optax: nu
    steps: Named  # how many updates each parameter has had
    updates: Named | None = None  # what was added to the parameters, where that is shown


@dataclass
class Agreement:
    """For each kind of array: how many of its words differ after each update, how many there are, and how far apart."""

    words: dict[str, int] = field(default_factory=dict)
    differing: dict[str, list[int]] = field(default_factory=dict)
    furthest: dict[str, float] = field(default_factory=dict)  # the largest absolute difference there ever was

    @property
    def updates(self) -> int:
        return len(next(iter(self.differing.values()), []))

    @property
    def total_words(self) -> int:
        return self.updates * sum(self.words.values())

    @property
    def total_differing(self) -> int:
        return sum(map(sum, self.differing.values()))

    def add(self, left: Snapshot, right: Snapshot) -> None:
        for kind in Snapshot._fields:
            a, b = getattr(left, kind), getattr(right, kind)
            if a is None or b is None:
                continue
            if a.keys() != b.keys():
                raise ValueError(f"{kind} of different names: {sorted(a.keys() ^ b.keys())}")
            self.words[kind] = sum(array.size for array in a.values())
            differing = sum(differing_words(a[name], b[name]) for name in a)
            self.differing.setdefault(kind, []).append(differing)
            apart = max(_largest_difference(a[name], b[name]) for name in a)
            self.furthest[kind] = max(self.furthest.get(kind, 0.0), apart)


def compare(*replays: Iterable[Snapshot]) -> list[Agreement]:
    """Of each replay with the next, made side by side so that no trajectory has to be kept."""
    agreements = [Agreement() for _ in replays[1:]]
    for snapshots in zip(*replays, strict=True):
        for agreement, (left, right) in zip(agreements, pairwise(snapshots), strict=True):
            agreement.add(left, right)
    return agreements


def differing_words(a: np.ndarray, b: np.ndarray) -> int:
    """How many elements differ in any bit: -0.0 is not 0.0, and a NaN equals a NaN with the same bits."""
    if a.shape != b.shape or a.dtype != b.dtype:
        raise ValueError(f"cannot compare {a.dtype}{list(a.shape)} with {b.dtype}{list(b.shape)}")
    integer = np.dtype(f"u{a.dtype.itemsize}")
    left, right = (np.ascontiguousarray(x).view(integer) for x in (a, b))
    return int(np.count_nonzero(left != right))


def _largest_difference(a: np.ndarray, b: np.ndarray) -> float:
    with np.errstate(invalid="ignore"):  # an infinity less an infinity
        return float(np.max(np.abs(np.subtract(a, b, dtype=np.float64)), initial=0.0))
