"""Where a state keeps what: the named tuples in it, and which of their attributes are a rule's fields.

A rule of trainfn has one named tuple, its namesake in optax one or several.  They are found by their fields, in the
order of the links, whatever stands around them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from trainfn.convert import listed
from trainfn.hyperparameters import is_leaf_function
from trainfn.rule import Field, Rule, Structure, resolve, walk_structures
from trainfn.schedules.schedule import Schedule
from trainfn.trace import Leaf
from trainfn_jax import trees
from trainfn_jax.state import field_name, state_class
from trainfn_jax.vocabulary import ADDED, COUNTERS, COUNTS, ELSEWHERE, STATE

_OTHER = "it is a state of another rule, or of other options."

Changes = list[dict[str, Any]]  # for each named tuple, by attribute


@dataclass(frozen=True)
class Word:
    """A field in a state: the attribute of a named tuple, which of the numbers there, and the factor on ours."""

    attribute: str
    index: int | None = None
    factor: Callable[[Leaf], float] | None = None


class Places:
    """The named tuples of a state (`nodes`), the parameters (`leaves`: name and shape), the words for fields."""

    def __init__(self, state: Any, rule: Rule, params: Any) -> None:
        self.rule = rule
        values, self._treedef = trees.flattened(params)
        self.leaves = [(n, tuple(np.shape(x))) for n, x in zip(trees.names(params), values, strict=True)]
        self.nodes = list(self._walk(state))
        own = [i for i, node in enumerate(self.nodes) if _is_own(node, rule)]
        self.is_own = bool(own)
        self.words = _own_words(rule) if own else _optax_words(rule)
        self._searched = own or range(len(self.nodes))
        self._trees = {word.attribute: list(self._trees_called(word.attribute)) for word in self.words.values()}

    def _walk(self, tree: Any) -> Iterator[Any]:
        """The named tuples of a state, each before those inside it."""
        for node in filter(is_named_tuple, jax.tree.leaves(tree, is_leaf=is_named_tuple)):
            yield node
            for value in node:
                if self.by_leaf(value) is None:
                    yield from self._walk(value)

    def rebuilt(self, state: Any, changes: Changes) -> Any:
        """The state with attributes of its named tuples exchanged."""
        remaining = iter(changes)

        def rebuild(tree: Any) -> Any:
            return jax.tree.map(exchange, tree, is_leaf=is_named_tuple)

        def exchange(node: Any) -> Any:
            if not is_named_tuple(node):
                return node
            change = next(remaining)
            inside = [x if self.by_leaf(x) is not None else rebuild(x) for x in node]
            return type(node)(*(change.get(k, x) for k, x in zip(node._fields, inside, strict=True)))

        return rebuild(state)

    def _trees_called(self, attribute: str) -> Iterator[tuple[int, list[Any]]]:
        for i in self._searched:
            values = self.by_leaf(getattr(self.nodes[i], attribute, None))
            if values is not None:
                yield i, values

    def by_leaf(self, tree: Any) -> list[Any] | None:
        """The arrays of a tree shaped like the parameters, None for those it leaves out; None if it is no such tree."""
        try:
            values = list(self._treedef.flatten_up_to(tree))
        except (ValueError, TypeError):
            return None
        values = [None if is_named_tuple(x) and not jax.tree.leaves(x) else x for x in values]
        return values if all(x is None or is_array(x) for x in values) else None

    def with_leaves(self, tree: Any, values: Mapping[int, Any]) -> Any:
        """The tree with other arrays for some leaves."""
        return self._treedef.unflatten(values.get(i, x) for i, x in enumerate(self._treedef.flatten_up_to(tree)))

    def holds(self, f: Field, i: int) -> bool:
        """Whether anything is there that could be the field of leaf i."""
        return any(values[i] is not None for _, values in self._trees[self.words[f].attribute])

    def of_leaf(self, i: int, fields: Sequence[Field]) -> dict[Field, tuple[int, Any]]:
        """For each of these fields of leaf i the number of its named tuple, and what is there."""
        found: dict[Field, tuple[int, Any]] = {}
        for attribute in {self.words[f].attribute for f in fields}:
            due = [f for f in fields if self.words[f].attribute == attribute]
            places = [(node, values[i]) for node, values in self._trees[attribute] if values[i] is not None]
            _check_number(f"leaf {self.leaves[i][0]!r}", self.rule, attribute, len(due), len(places))
            found |= zip(due, places, strict=True)
        return found

    def of_model(self, f: Field) -> tuple[int, Any]:
        """The number of the named tuple that holds a field of the model, and what is there."""
        word = self.words[f]
        same = [g for g in self.words if g.is_of_model and self.words[g] == word]
        values = [(i, getattr(self.nodes[i], word.attribute, None)) for i in self._searched]
        places = [(i, x) for i, x in values if is_array(x) and np.issubdtype(x.dtype, np.inexact)]  # type: ignore[union-attr]
        _check_number("the model", self.rule, word.attribute, len(same), len(places))
        return places[same.index(f)]

    def check_names(self, names: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Leaves with state here that are not among the names, and names that are no leaves here."""
        held = {i for places in self._trees.values() for _, xs in places for i, x in enumerate(xs) if x is not None}
        here = [name for name, _ in self.leaves]
        return [n for i, n in enumerate(here) if i in held and n not in names], [n for n in names if n not in here]

    def check_complete(self, changes: Changes, due: set[int]) -> None:
        """Whether named tuples that are written to hold nothing else of the leaves that are due."""
        for node, change in zip(self.nodes, changes, strict=True):
            for attribute, tree in zip(node._fields, node, strict=True) if change else ():
                values = self.by_leaf(tree) or []
                left = [i for i, x in enumerate(values) if x is not None and i not in change.get(attribute, {})]
                for i in due.intersection(left):
                    raise ValueError(
                        f"leaf {self.leaves[i][0]!r}: the state also has {attribute}, which is nothing of "
                        f"{self.rule.name}: {_OTHER}"
                    )

    # -- counts --------------------------------------------------------------------------------------------------------

    def counts(self) -> dict[int, dict[str, Any]]:
        """For each named tuple that counts updates its counts, by attribute."""
        counts: dict[int, dict[str, Any]] = {}
        for i, node in enumerate(self.nodes):
            if "plateau_count" not in node._fields:  # beside which stands another sort of count
                found = {k: x for k, x in zip(node._fields, node, strict=True) if k in COUNTS and _is_count(x)}
                counts |= {i: found} if found else {}
        return {i: found for i, found in counts.items() if i in self._of_updates()}

    def _of_updates(self) -> range:
        """The named tuples inside `MultiSteps`, if there is one: those outside count what it accumulates."""
        for i, node in enumerate(self.nodes):
            if "mini_step" in node._fields:
                return range(i, i + 1 + sum(1 for x in node for _ in self._walk(x) if self.by_leaf(x) is None))
        return range(len(self.nodes))

    def count(self, what: str, nodes: set[int]) -> int | None:
        """The count in these named tuples, or in any if these have none; None if there is none at all."""
        counts = self.counts()
        these = {i: counts[i] for i in nodes if i in counts} or counts
        known = {int(x) for found in these.values() for x in found.values()}
        if len(known) > 1:
            raise ValueError(f"the state has several counts of updates for {what}: {listed(sorted(known))}.")
        return known.pop() if known else None


def _check_number(what: str, rule: Rule, attribute: str, due: int, found: int) -> None:
    if due != found:
        raise ValueError(f"{what}: {rule.name} has {due} {attribute} and the state {found}: {_OTHER}")


# -- words -------------------------------------------------------------------------------------------------------------


def _is_own(node: Any, rule: Rule) -> bool:
    """Whether a named tuple is ours, perhaps of the rule with others around it, which keep nothing."""
    own = state_class(rule)
    return bool(type(node).__module__ == own.__module__ and node._fields == own._fields)


def _own_words(rule: Rule) -> dict[Field, Word]:
    return {f: Word(field_name(rule, f)) for f in rule.fields}


def _optax_words(rule: Rule) -> dict[Field, Word]:
    """Without fields that optax has in its counts alone."""
    fields, words = {f.name: f for f in rule.fields}, {}
    for structure in walk_structures(rule.structure):
        known = structure.definition.known_as
        for own, name in structure.state:
            if own != COUNTERS.get(known):
                place = ELSEWHERE.get(known, {}).get(own) or STATE.get(known, {}).get(own, own)
                attribute, index = (place, None) if isinstance(place, str) else place
                factor = _factor(rule, structure) if own == ADDED.get(known) else None
                words[fields[name]] = Word(attribute, index, factor)
    return words


def _factor(rule: Rule, structure: Structure) -> Callable[[Leaf], float]:
    """What makes optax's buffer, which is added to p, of ours."""
    if dict(structure.options)["lr_in_momentum"]:
        return lambda leaf: -1.0
    lr_name = dict(structure.hyper)["lr"]

    def factor(leaf: Leaf) -> float:
        lr = resolve(rule, leaf)[lr_name]
        if isinstance(lr, Schedule) or is_leaf_function(lr) or not float(lr):
            raise ValueError(
                f"optax's {structure.definition.name} keeps its buffer times lr, which is {lr!r} here: give the rule "
                "the number that lr is now, or lr_in_momentum=True if it is to keep its own so."
            )
        return -float(lr)

    return factor


# -- what a value is ---------------------------------------------------------------------------------------------------


def is_named_tuple(x: Any) -> bool:
    return isinstance(x, tuple) and hasattr(x, "_fields")


def is_array(x: Any) -> bool:
    return hasattr(x, "dtype") and hasattr(x, "shape")


def _is_count(x: Any) -> bool:
    return is_array(x) and x.shape == () and np.issubdtype(x.dtype, np.integer)
