"""The optimizer's state as JAX sees it: a named tuple of trees, with optax's field names.

`count`, an int32, says how many updates were applied; each array field of the rule is a tree shaped like the
parameters, a `LeafScalar` a tree of float32 numbers, a `ModelScalar` one float32 number, and a pair two of them, high
and low, in an array of shape (2,).
"""

from __future__ import annotations

import re
from collections import namedtuple
from functools import cache
from itertools import chain, count
from typing import Any

from trainfn.rule import Field, Rule
from trainfn.tracing import Choice, Structure, walk_structures
from trainfn_jax.vocabulary import STATE


def state_class(rule: Rule) -> Any:
    """The named tuple for a rule's state: equal rules have the same one, so their states are equal trees."""
    title = "".join(word.title().replace("_", "") for word in re.findall(r"\w+", rule.name))
    keepers = tuple(x.definition.name for x in walk_structures(rule.structure) if x.state)
    return _state_class(f"{title}State", tuple(field_name(rule, f) for f in rule.fields), keepers)


def keepers(cls: Any) -> tuple[str, ...]:
    """The names of the rules that keep such a state: Adam's is no AdamW's, though it has the same fields."""
    names: tuple[str, ...] = cls._keepers
    return names


def field_name(rule: Rule, field: Field) -> str:
    """optax's name of a state field.  In a chain an earlier link's may be prefixed: `sgd.buf` becomes `sgd_trace`."""
    return _field_names(rule.structure)[field.name]


@cache
def _field_names(structures: tuple[Structure | Choice, ...]) -> dict[str, str]:
    """Names in the tuple; where optax calls two fields the same (adam and rmsprop: mu), the earlier keeps ours."""
    names: dict[str, str] = {}
    for structure in reversed(list(walk_structures(structures))):
        words = STATE.get(structure.definition.known_as, {})
        for plain, name in reversed([entry for entry in structure.state if entry[1] not in names]):
            own = name.replace(".", "_")
            translated = own.removesuffix(plain) + words.get(plain, plain)
            candidates = chain((translated, own), (f"{own}_{k}" for k in count(2)))
            names[name] = next(n for n in candidates if n != "count" and n not in names.values())
    return names


@cache
def _state_class(name: str, fields: tuple[str, ...], keepers: tuple[str, ...]) -> Any:
    cls: Any = namedtuple(name, ("count", *fields))  # type: ignore[misc]
    setattr(cls, "_keepers", keepers)  # noqa: B010
    cls.__doc__ = f"count: updates applied; {', '.join(fields)}: as in the rule."
    # The class is made at run time, so a pickle has to say how.
    setattr(cls, "__reduce__", lambda self: (_restore, (name, fields, keepers, tuple(self))))  # noqa: B010
    return cls


def _restore(name: str, fields: tuple[str, ...], keepers: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return _state_class(name, fields, keepers)(*values)
