"""optax's `mask`: which leaves a hyperparameter is for.

A mask is a tree of booleans, shaped like the parameters or like the upper part of their tree, or a function that makes
one of them.  It becomes what trainfn has for this, a function of the leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax  # type: ignore[import-untyped]

from trainfn.rule import Rule
from trainfn.trace import Leaf
from trainfn_jax import trees
from trainfn_jax.transform import transform


def masked(make: Callable[[Any], Rule], value: Any, mask: Any) -> optax.GradientTransformationExtraArgs:
    """The rule that `make` makes of a hyperparameter's value: 0 where the mask is false, and elsewhere `value`."""

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        chosen = _chosen(mask, updates)

        def of_leaf(leaf: Leaf) -> Any:
            return value if chosen[leaf.name] else 0.0

        return transform(make(of_leaf)).update(updates, state, params, **extra_args)

    # No rule starts its state from what can be masked, and optax calls init with placeholders that no mask fits.
    return optax.GradientTransformationExtraArgs(transform(make(value)).init, update)


def _chosen(mask: Any, tree: Any) -> dict[str, bool]:
    """Whether the mask is true, for each leaf of `tree` by name."""
    chosen: dict[str, bool] = {}

    def choose(flag: Any, part: Any) -> None:
        for name in jax.tree.leaves(part):
            if chosen.setdefault(name, bool(flag)) != bool(flag):
                raise ValueError(f"two leaves are called {name!r}, and the mask is true for one of them only.")

    flags = mask(tree) if _is_function(mask) else mask
    named = trees.with_names(tree)
    if not _is_prefix(flags, named):
        raise ValueError(f"the mask {jax.tree.structure(flags)} does not fit the gradients {jax.tree.structure(tree)}.")
    jax.tree.map(choose, flags, named)
    return chosen


def _is_prefix(flags: Any, tree: Any) -> bool:
    treedef: Any = jax.tree.structure(flags)
    try:
        treedef.flatten_up_to(tree)
    except (ValueError, TypeError):
        return False
    return True


def _is_function(mask: Any) -> bool:
    """As optax tells: a tree whose nodes can be called, such as an Equinox module, is a tree."""
    leaves = jax.tree.leaves(mask)
    return bool(leaves) and all(map(callable, leaves))
