"""Pickling an optimizer's rule, whose leaf functions may be functions that pickle cannot find again.

Groups hold numbers, so an optimizer loses nothing by losing such a function until a group is added: that then fails
and says which hyperparameter to give.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from trainfn.rule import Link, Partition, Rule
from trainfn.schedules.schedule import Schedule
from trainfn.trace import Leaf


@dataclass(frozen=True)
class Lost:
    """In the place of a leaf function that was not pickled."""

    name: str
    text: str

    def __call__(self, leaf: Leaf) -> float:
        raise RuntimeError(
            f"this optimizer was unpickled, and the function for {self.name}, {self.text}, could not be pickled: give "
            f"{self.name} in the group, or define the function at the top level of a module."
        )


class Portable:
    """A rule that can be pickled; a deep copy keeps everything."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def __deepcopy__(self, memo: object) -> Portable:
        return self

    def __reduce__(self) -> Any:
        return Portable, (_without_lost(self.rule, {}),)


def _without_lost(rule: Rule, lost: dict[int, Lost]) -> Rule:
    links: list[Link | Partition] = []
    for link in rule.links:
        if isinstance(link, Partition):
            links.append(Partition(link.policy, tuple(_without_lost(r, lost) for r in link.rules)))
            continue
        hyper = {name: _portable(name, value, lost) for name, value in link.hyper.items()}
        inner = None if link.inner is None else _without_lost(link.inner, lost)
        links.append(Link(link.definition, link.options, hyper, inner))
    return Rule(tuple(links))


def _portable(name: str, value: Any, lost: dict[int, Lost]) -> Any:
    if not callable(value) or isinstance(value, Schedule):
        return value
    try:
        pickle.dumps(value)
    except Exception:
        # One function for several links stays one object: links that are given the same value share it.
        return lost.setdefault(id(value), Lost(name, repr(value)))
    return value
