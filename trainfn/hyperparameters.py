"""Hyperparameters: what a value may be, which numbers make sense, and what a leaf gets.

A hyperparameter is a number, a schedule, or a function of the leaf that returns one of these; frameworks may also pass
their own scalars (a traced learning rate).  The names are the field's, so what each may be is a table.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainfn.schedules.schedule import Schedule
from trainfn.trace import Leaf


@dataclass(frozen=True)
class Domain:
    """The interval a hyperparameter lies in."""

    low: float
    high: float = math.inf
    excludes_low: bool = False
    excludes_high: bool = False

    def __contains__(self, x: float) -> bool:
        above = x > self.low if self.excludes_low else x >= self.low
        below = x < self.high if self.excludes_high else x <= self.high
        return above and below

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'above' if self.excludes_low else 'at least'} {self.low:g}"
        left, right = "(" if self.excludes_low else "[", ")" if self.excludes_high else "]"
        return f"in {left}{self.low:g}, {self.high:g}{right}"


_POSITIVE = Domain(0.0, excludes_low=True)
_NONNEGATIVE = Domain(0.0)
_DECAY = Domain(0.0, 1.0, excludes_high=True)  # of a running mean: at 1 it would never move

DOMAINS: Mapping[str, Domain] = {
    "lr": _NONNEGATIVE,
    "b1": _DECAY,
    "b2": _DECAY,
    "decay": _DECAY,
    "momentum": _DECAY,
    "dampening": Domain(-math.inf),
    "eps": _NONNEGATIVE,
    "eps_root": _NONNEGATIVE,
    "weight_decay": _NONNEGATIVE,
    "lr_decay": _NONNEGATIVE,
    "initial_accumulator_value": _NONNEGATIVE,
    "initial_scale": _NONNEGATIVE,
    "max_norm": _POSITIVE,
    "max_value": _POSITIVE,
}


class Inherited:
    """A hyperparameter that is another link's: the one of that name which the nearest link before it has."""

    def __repr__(self) -> str:
        return "inherited"

    def __reduce__(self) -> str:
        return "inherited"  # pickled and copied by reference: there is one


inherited = Inherited()


def is_number(value: Any) -> bool:
    """A plain number: Python's or numpy's, no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check(owner: str, name: str, value: Any) -> Any:
    """The value if it may stand for the hyperparameter; numbers become floats."""
    if isinstance(value, str | bytes | bool | list | dict | set) or value is None:
        raise TypeError(
            f"{owner}: {name} = {value!r} is no hyperparameter. Give a number, a schedule, or a function of the leaf "
            "(leaf.name, leaf.shape) that returns one of these."
        )
    if not is_number(value):
        if not (isinstance(value, Inherited) or callable(value) or getattr(value, "ndim", None) is not None):
            raise TypeError(f"{owner}: {name} = {value!r} is neither a number, a schedule nor a function of the leaf.")
        return value
    number = float(value)
    domain = DOMAINS.get(name, Domain(-math.inf))
    if number not in domain:  # NaN is in no interval
        raise ValueError(f"{owner}: {name} = {value} must be {domain if name in DOMAINS else 'a number, not NaN'}.")
    return number


def resolve(owner: str, name: str, value: Any, leaf: Leaf) -> Any:
    """What one leaf gets: a leaf function is asked, everything else stands."""
    if isinstance(value, Schedule) or not callable(value) or hasattr(value, "dtype"):
        return value
    try:
        result = value(leaf)
    except Exception as error:
        error.add_note(f"while asking {owner}'s function for {name} about leaf {leaf.name!r} of shape {leaf.shape}")
        raise
    return check(f"{owner}, leaf {leaf.name!r}", name, result)
