"""Where a state keeps what: the named tuples in it, and which of their attributes are a rule's fields.

A rule of trainfn has one named tuple, its namesake in optax one or several.  They are found by their fields, in the
order of the links, whatever stands around them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import trainfn
from trainfn.convert import listed
from trainfn.hyperparameters import is_leaf_function
from trainfn.rule import Field, Rule, resolve
from trainfn.schedules.schedule import Schedule
from trainfn.trace import Leaf
from trainfn.tracing import Structure, walk_structures
from trainfn_jax import trees
from trainfn_jax.state import field_name, keepers, state_class
from trainfn_jax.vocabulary import ADDED, APART, COUNTERS, COUNTS, ELSEWHERE, PLACEHOLDERS, REDUCED, STATE

_OTHER = "it is a state of another rule, or of other options."

# For each named tuple, by attribute: what is to be exchanged there, by leaf; a number that is no leaf's is called "".
Changes = list[dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class Word:
    """A field in a state: the attribute of a named tuple, which of the numbers there (of the arrays in a leaf's list),
    the factor on ours, and whether ours has axes of length 1 that this one lacks."""

    attribute: str
    index: int | None = None
    factor: Callable[[Leaf], float] | None = None
    is_reduced: bool = False

    @property
    def place(self) -> tuple[str, int | None]:
        return self.attribute, self.index

    def path(self, name: str) -> str:
        """Where a leaf's array stands in the tree."""
        return name if self.index is None else _inside(name, self.index)


class Places:
    """The named tuples of a state (`nodes`), the parameters (`leaves`), the words for fields, the counts of updates."""

    def __init__(self, state: Any, rule: Rule, params: Any) -> None:
        self.rule = rule
        self.leaves = [Leaf(name, tuple(np.shape(x))) for name, x in trees.named(params) if x is not None]
        self._names = {leaf.name for leaf in self.leaves}
        if len(self._names) < len(self.leaves):
            raise ValueError("two leaves of the parameters have one name: state is converted by name.")
        self.nodes = list(self._walk(state))
        _check_wrappers(self.nodes)
        own = [i for i, node in enumerate(self.nodes) if _is_own(node, rule)]
        self.is_own = bool(own)
        _check_keepers(rule, [self.nodes[i] for i in own])
        self.words = _own_words(rule) if own else _optax_words(rule)
        self._searched = own or range(len(self.nodes))
        self.counts = self._counts()
        words = {word.place for f, word in self.words.items() if not f.is_of_model}
        self._trees = {word: list(self._called(*word, self.by_leaf)) for word in words}
        self._shared = {word: list(self._called(*word, self._of_each_leaf)) for word in words}

    def _walk(self, tree: Any) -> Iterator[Any]:
        """The named tuples of a state, each before those inside it."""
        for node in filter(is_named_tuple, jax.tree.leaves(tree, is_leaf=is_named_tuple)):
            yield node
            for value in node:
                if self.by_leaf(value) is None:
                    yield from self._walk(value)

    def rebuilt(self, state: Any, changes: Changes) -> Any:
        """The state with what changes exchanged."""
        remaining = iter(changes)

        def rebuild(tree: Any) -> Any:
            return jax.tree.map(exchange, tree, is_leaf=is_named_tuple)

        def exchange(node: Any) -> Any:
            if not is_named_tuple(node):
                return node
            change = next(remaining)
            inside = [x if self.by_leaf(x) is not None else rebuild(x) for x in node]
            return type(node)(*(_exchanged(x, change.get(k, {})) for k, x in zip(node._fields, inside, strict=True)))

        return rebuild(state)

    def by_leaf(self, tree: Any, index: int | None = None) -> dict[str, Any] | None:
        """The arrays of a tree shaped like the parameters, or like some of them; None if it is no such tree.

        With an index it has a list in each leaf's place, and the arrays are those with that index.
        """
        values = dict(trees.named(tree))
        if index is not None:
            paths = {_inside(name, index): name for name in self._names}
            values = {paths[path]: x for path, x in values.items() if path in paths}
        is_one = values and values.keys() <= self._names and all(x is None or is_array(x) for x in values.values())
        return {name: x for name, x in values.items() if x is not None} if is_one else None

    def _of_each_leaf(self, tree: Any, index: int | None) -> dict[str, Any] | None:
        """What is one number in the state and in the rule one of each leaf."""
        number = single(tree)
        return None if number is None else dict.fromkeys(self._names, number)

    def _called(
        self, attribute: str, index: int | None, read: Callable[[Any, int | None], Any]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for i in self._searched:
            values = read(getattr(self.nodes[i], attribute, None), index)
            if values is not None:
                yield i, values

    def holds(self, f: Field, leaf: Leaf) -> bool:
        """Whether anything is there that could be this field of a leaf."""
        return any(leaf.name in values for _, values in self._trees[self.words[f].place])

    def of_leaf(self, leaf: Leaf, fields: Sequence[Field]) -> dict[Field, tuple[int, Any]]:
        """For each of these fields of a leaf the number of its named tuple, and what is there."""
        found: dict[Field, tuple[int, Any]] = {}
        for place in dict.fromkeys(self.words[f].place for f in fields):
            due = [f for f in fields if self.words[f].place == place]
            under = self._trees[place] or self._shared[place]
            places = [(i, values[leaf.name]) for i, values in under if leaf.name in values]
            _check_number(f"leaf {leaf.name!r}", self.rule, place[0], len(due), len(places))
            found |= zip(due, places, strict=True)
        return found

    def of_model(self, f: Field) -> tuple[int, Any]:
        """The number of the named tuple that holds a field of the model, and what is there."""
        word = self.words[f]
        same = [g for g in self.words if g.is_of_model and self.words[g] == word]
        values = [(i, single(getattr(self.nodes[i], word.attribute, None))) for i in self._searched]
        places = [(i, x) for i, x in values if x is not None and jnp.issubdtype(x.dtype, np.inexact)]
        _check_number("the model", self.rule, word.attribute, len(same), len(places))
        i, x = places[same.index(f)]
        due = sum(word.attribute == other.attribute for other in self.words.values())
        if word.index is not None and x.shape != (due,):
            raise ValueError(
                f"the model: {self.rule.name} has {due} numbers {word.attribute}, and the state an array of shape "
                f"{x.shape}: {_OTHER}"
            )
        return i, x

    def differing(self, names: Collection[str]) -> tuple[list[str], list[str]]:
        """Leaves with state here that are not among the names, and names that are no leaves here."""
        held = {name for places in self._trees.values() for _, values in places for name in values}
        return sorted(held.difference(names)), [name for name in names if name not in self._names]

    def check_complete(self, changes: Changes, names: set[str]) -> None:
        """Whether named tuples in which these leaves change, or are read, hold nothing else of them, and whether no
        other one holds what another rule's state would."""
        of_model = {word.attribute for f, word in self.words.items() if f.is_of_model}
        of_leaves = {word.attribute for f, word in self.words.items() if not f.is_of_model}
        for node, change in zip(self.nodes, changes, strict=True):
            for attribute in node._fields:
                if attribute in of_model if change else attribute not in _words_of_optax():
                    continue
                values = self.by_leaf(getattr(node, attribute)) or {}
                for name in sorted(values.keys() & names - change.get(attribute, {}).keys()):
                    is_lacking = attribute in of_leaves and values[name].shape in PLACEHOLDERS
                    if jnp.issubdtype(values[name].dtype, np.inexact) and not is_lacking:
                        raise ValueError(
                            f"leaf {name!r}: the state also has {attribute}, which is nothing of {self.rule.name}: "
                            f"{type(node).__name__} is a state of another rule, or of other options."
                        )

    # -- counts --------------------------------------------------------------------------------------------------------

    def _counts(self) -> dict[int, dict[str, Any]]:
        """For each named tuple that counts updates its counts, by attribute."""
        counts: dict[int, dict[str, Any]] = {}
        for i, node in enumerate(self.nodes):
            is_own = type(node).__module__ == state_class.__module__
            if is_own or "plateau_count" not in node._fields:  # beside which optax has another sort of count
                values = {k: single(getattr(node, k)) for k in node._fields if k in COUNTS}
                found = {k: x for k, x in values.items() if _is_count(x)}
                counts |= {i: found} if found else {}
        outside = counts.keys() - set(self._updating())
        if outside:
            raise ValueError(
                f"{type(self.nodes[min(outside)]).__name__} stands outside of MultiSteps and counts gradients, not "
                "updates: a snapshot does not say how many there were. Put what counts inside of MultiSteps."
            )
        return counts

    def _updating(self) -> range:
        """The named tuples inside `MultiSteps`, if there is one: those outside see each gradient it accumulates."""
        for i, node in enumerate(self.nodes):
            if "mini_step" in node._fields:
                inside = sum(1 for x in node if self.by_leaf(x) is None for _ in self._walk(x))
                return range(i, i + 1 + inside)
        return range(len(self.nodes))

    def count(self, what: str, nodes: set[int]) -> int | None:
        """The count in these named tuples, or in any if these have none; None if there is none at all."""
        these = {i: self.counts[i] for i in nodes if i in self.counts} or self.counts
        known = {int(x) - COUNTS[k] for found in these.values() for k, x in found.items()}
        if len(known) > 1:
            raise ValueError(f"the state has several counts of updates for {what}: {listed(sorted(known))}.")
        return known.pop() if known else None


@cache
def _words_of_optax() -> frozenset[str]:
    """What the rules that optax has keep of each leaf, in its words."""
    return frozenset(
        words.get(field, field) for rule, words in STATE.items() for field in getattr(trainfn, rule).fields
    )


def _check_number(what: str, rule: Rule, attribute: str, due: int, found: int) -> None:
    if due != found:
        raise ValueError(f"{what}: {rule.name} has {due} {attribute} and the state {found}: {_OTHER}")


# -- words -------------------------------------------------------------------------------------------------------------


def _is_own(node: Any, rule: Rule) -> bool:
    """Whether a named tuple is ours, perhaps of the rule with others around it, which keep nothing."""
    own = state_class(rule)
    return bool(type(node).__module__ == own.__module__ and node._fields == own._fields)


def _check_wrappers(nodes: Sequence[Any]) -> None:
    """Wrappers in optax's words have states of optax's form with other numbers in them, which no rule has."""
    for node in nodes:
        name = type(node).__name__
        if type(node).__module__ == "trainfn_jax.wrappers" and name != "MultiStepsState":
            raise ValueError(
                f"{name} of trainfn_jax is not converted: make the transformation of the rule, as in "
                "transform(schedule_free(sgd())), whose state is."
            )


def _check_keepers(rule: Rule, nodes: Sequence[Any]) -> None:
    """optax's states do not say whose they are: there Adam's are AdamW's, too."""
    ours = keepers(state_class(rule))
    for theirs in {keepers(type(node)) for node in nodes} - {ours}:
        raise ValueError(
            f"the state is one of {' + '.join(theirs)}, and the rule is {' + '.join(ours)}. If one is meant to go on "
            "as the other, and keeps the same fields, write snapshot.of(rule)."
        )


def _own_words(rule: Rule) -> dict[Field, Word]:
    return {f: Word(field_name(rule, f)) for f in rule.fields}


def _optax_words(rule: Rule) -> dict[Field, Word]:
    """Without fields that optax has in its counts alone."""
    fields, words = {f.name: f for f in rule.fields}, {}
    for structure in walk_structures(rule.structure):
        known = structure.definition.known_as
        if known in APART:
            raise ValueError(f"states of {known} do not cross to or from optax: {APART[known]}.")
        for own, name in structure.state:
            if own != COUNTERS.get(known):
                place = ELSEWHERE.get(known, {}).get(own) or STATE.get(known, {}).get(own, own)
                attribute, index = (place, None) if isinstance(place, str) else place
                factor = _factor(rule, structure) if own == ADDED.get(known) else None
                words[fields[name]] = Word(attribute, index, factor, own in REDUCED.get(known, ()))
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


def _inside(name: str, index: int) -> str:
    """The path of an array in the list that stands in a leaf's place."""
    return trees.NAME_SEPARATOR.join(filter(None, (name, str(index))))


def is_array(x: Any) -> bool:
    return hasattr(x, "dtype") and hasattr(x, "shape")


def single(x: Any) -> Any:
    """The array that stands alone, or in a box; None if x is anything else."""
    named = [] if is_named_tuple(x) else trees.named(x)
    return named[0][1] if len(named) == 1 and named[0][0] == "" and is_array(named[0][1]) else None


def _is_count(x: Any) -> bool:
    return x is not None and x.shape == () and np.issubdtype(x.dtype, np.integer)


def _exchanged(tree: Any, values: Mapping[str, Any]) -> Any:
    """A tree with other arrays for some of its leaves, or another number, which is to be the same for all leaves."""
    if not values:
        return tree
    named = trees.named(tree)
    if [name for name, _ in named] == [""] and "" not in values:
        if len({float(x) for x in values.values()}) > 1:
            raise ValueError(f"the state has one number for the leaves {listed(values)}, and theirs differ.")
        values = {"": next(iter(values.values()))}
    return jax.tree.unflatten(trees.structure(tree), [values.get(name, x) for name, x in named])
