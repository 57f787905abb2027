"""optax's `mask`: which leaves a hyperparameter is for.

A mask is a tree of booleans, shaped like the parameters or like the upper part of their tree, or a function that makes
one of them.  It becomes what trainfn has for this, a function of the leaf.  Trees of labels are read likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from trainfn.rule import Rule
from trainfn_jax import trees
from trainfn_jax.layout import Flat, Layout
from trainfn_jax.transform import Options, Transformation

_PLAIN = Options()


def masked(
    make: Callable[[Any], Rule],
    value: Any,
    mask: Any,
    layout: Callable[[Rule], Layout] = Flat,
    options: Options = _PLAIN,
) -> Transformation:
    """The rule that `make` makes of a hyperparameter's value: 0 where the mask is false, and elsewhere `value`."""

    def rule_of(updates: Any) -> Rule:
        chosen = by_leaf("mask", mask, updates)
        return make(lambda leaf: value if chosen[leaf.name] else 0.0)

    # No rule starts its state from what can be masked, and optax calls init with placeholders that no mask fits.
    rule = make(value)
    return Transformation(rule, layout(rule), options, rule_of)


def by_leaf(what: str, marks: Any, tree: Any) -> dict[str, Any]:
    """The mark of each leaf of `tree`, by name: True or False in a mask, or a label."""
    chosen: dict[str, Any] = {}

    def choose(mark: Any, part: Any) -> None:
        for name in jax.tree.leaves(part):
            if chosen.setdefault(name, mark) != mark:
                raise ValueError(f"two leaves are called {name!r}, and the {what} has {chosen[name]} and {mark} there.")

    marks = marks(tree) if _is_function(marks) else marks
    named = trees.with_names(tree)
    if not _is_prefix(marks, named):
        raise ValueError(
            f"the {what} {jax.tree.structure(marks)} does not fit the gradients {jax.tree.structure(tree)}."
        )
    jax.tree.map(choose, marks, named)
    return chosen


def _is_prefix(marks: Any, tree: Any) -> bool:
    treedef: Any = jax.tree.structure(marks)
    try:
        treedef.flatten_up_to(tree)
    except (ValueError, TypeError):
        return False
    return True


def _is_function(marks: Any) -> bool:
    """As optax tells: a tree whose nodes can be called, such as an Equinox module, is a tree."""
    leaves = jax.tree.leaves(marks)
    return bool(leaves) and all(map(callable, leaves))
