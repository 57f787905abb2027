"""Layouts: how a state holds a rule's fields, so that it has the shape that users of optax know.

A rule, however many links it has, is one program with one count of updates and fields by name.  Its state is one named
tuple, or what `optax.chain` would have, a tuple of states, or a wrapper's named tuple with a state inside.  A layout
leads there and back; it knows the fields by the names they have in its own part of the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

from trainfn.rule import Rule, names_in
from trainfn_jax.state import state_class

COUNT = "count"


class Contents(NamedTuple):
    """What a state holds: the count of updates, None if it has none, and each field's tree by the field's name."""

    count: Any
    fields: dict[str, Any]


class Layout(Protocol):
    def made(self, contents: Contents) -> Any:
        """The state that holds this."""

    def contents(self, state: Any) -> Contents:
        """What a state holds; an error if it is no such state."""


@dataclass(frozen=True)
class Flat:
    """One named tuple, as `trainfn_jax.state` describes it."""

    rule: Rule

    def made(self, contents: Contents) -> Any:
        return state_class(self.rule)(contents.count, *(contents.fields[f.name] for f in self.rule.fields))

    def contents(self, state: Any) -> Contents:
        expected, found = state_class(self.rule)._fields, getattr(type(state), "_fields", ())
        if found != expected:
            raise TypeError(
                f"the state of {self.rule.name} has the fields {', '.join(expected)}, and this {type(state).__name__} "
                f"has {', '.join(found) or 'none'}: make it with init of the same transformation."
            )
        return Contents(state.count, {f.name: x for f, x in zip(self.rule.fields, state[1:], strict=True)})


@dataclass(frozen=True)
class Empty:
    """optax's empty state, of a rule that remembers nothing and does not count."""

    def made(self, contents: Contents) -> Any:
        return optax.EmptyState()

    def contents(self, state: Any) -> Contents:
        if not isinstance(state, tuple) or state:
            raise TypeError(f"an empty state is due, and this is {state!r}: make it with init of the same chain.")
        return Contents(None, {})


@dataclass(frozen=True)
class Part:
    """The layout of a part of a rule, and what its fields are called in the whole."""

    layout: Layout
    names: Mapping[str, str]

    def made(self, contents: Contents) -> Any:
        count = jnp.copy(contents.count)  # memory of its own in each part, so that the state can be donated
        return self.layout.made(Contents(count, {k: contents.fields[n] for k, n in self.names.items()}))

    def contents(self, state: Any) -> Contents:
        count, fields = self.layout.contents(state)
        return Contents(count, {self.names[k]: x for k, x in fields.items()})


@dataclass(frozen=True)
class Several:
    """A tuple of states, one for each part of a chain; the count is that of the first part that has one."""

    parts: tuple[Part, ...]

    def made(self, contents: Contents) -> Any:
        return tuple(part.made(contents) for part in self.parts)

    def contents(self, state: Any) -> Contents:
        if not isinstance(state, tuple | list) or len(state) != len(self.parts):
            raise TypeError(
                f"the state of this chain is a tuple of {len(self.parts)} states, not {type(state).__name__} of "
                f"{len(state) if isinstance(state, tuple | list) else 'other things'}: make it with its init."
            )
        each = [part.contents(x) for part, x in zip(self.parts, state, strict=True)]
        counts = [x.count for x in each if x.count is not None]
        return Contents(counts[0] if counts else None, {k: tree for x in each for k, tree in x.fields.items()})


@dataclass(frozen=True)
class Around:
    """A wrapper's named tuple: what its attributes are, and the one that is the state inside.

    attributes: for each the field it is, several in a tuple, or `COUNT`.
    constants: numbers that users of the state read there.  Other attributes have their defaults.
    """

    cls: Any
    attributes: Mapping[str, str | tuple[str, ...]]
    inside: str
    part: Part
    constants: Mapping[str, Any]

    def made(self, contents: Contents) -> Any:
        def of(entry: str | tuple[str, ...]) -> Any:
            if isinstance(entry, tuple):
                return tuple(contents.fields[k] for k in entry)
            return contents.count if entry == COUNT else contents.fields[entry]

        own = {k: of(entry) for k, entry in self.attributes.items()}
        constants = {k: jnp.asarray(x, jnp.result_type(float)) for k, x in self.constants.items()}
        return self.cls(**own, **constants, **{self.inside: self.part.made(contents)})

    def contents(self, state: Any) -> Contents:
        if getattr(type(state), "_fields", ()) != self.cls._fields:
            raise TypeError(
                f"a {self.cls.__name__} is due, and this is a {type(state).__name__}: make it with init of the same "
                "transformation."
            )
        count, fields = self.part.contents(getattr(state, self.inside))
        for attribute, entry in self.attributes.items():
            value = getattr(state, attribute)
            if entry == COUNT:
                count = value
            else:
                fields.update(zip(entry, value, strict=True) if isinstance(entry, tuple) else [(entry, value)])
        return Contents(count, fields)


def several(whole: Rule, parts: Sequence[tuple[Rule, Layout]]) -> Several:
    """Of a chain of these rules with these layouts."""
    made, first = [], 0
    for rule, layout in parts:
        made.append(Part(layout, names_in(whole, rule, first)))
        first += len(rule.all_links)
    return Several(tuple(made))


def around(
    whole: Rule,
    inner: tuple[Rule, Layout],
    cls: Any,
    attributes: Mapping[str, str | tuple[str, ...]],
    inside: str,
    constants: Mapping[str, Any],
) -> Around:
    """Of a rule around another one; the attributes are given by the fields' names in the wrapper's own definition."""
    rule, layout = inner
    last = len(whole.all_links) - 1

    def word(name: str) -> str:
        return COUNT if name == COUNT else whole.state_name(last, name)

    words = {k: tuple(map(word, v)) if isinstance(v, tuple) else word(v) for k, v in attributes.items()}
    return Around(cls, words, inside, Part(layout, names_in(whole, rule, 0)), constants)
