"""Trees of gradients, parameters and state, leaf by leaf, and what to say when they do not fit together.

A leaf whose gradient is None takes no part.  Its name is its path, `layers/0/kernel`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.tree_util import GetAttrKey

NAME_SEPARATOR = "/"


def is_none(x: Any) -> bool:
    return x is None


def named(tree: Any) -> list[tuple[str, Any]]:
    """The leaves with their names, None counting as one."""
    return list(zip(names(tree), jax.tree.leaves(tree, is_leaf=is_none), strict=True))


def structure(tree: Any) -> Any:
    """How the leaves stand in a tree, None counting as one."""
    return jax.tree.structure(tree, is_leaf=is_none)


def names(tree: Any) -> list[str]:
    """The path of each leaf, None counting as one.

    A box around one value is no part of a path: flax's nnx hands `init` its Variables, and `update` what is in them.
    """
    return [jax.tree_util.keystr(path, simple=True, separator=NAME_SEPARATOR) for path in _paths(tree)]


def with_names(tree: Any) -> Any:
    """The tree with its leaves' names for leaves; None stays None."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=is_none)
    named = zip(leaves, names(tree), strict=True)
    return jax.tree.unflatten(treedef, [None if x is None else name for x, name in named])


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by the names that rules see, as in `layers/0/kernel`."""
    return {name: x for name, x in named(tree) if x is not None}


def _paths(tree: Any) -> Iterator[tuple[Any, ...]]:
    for path, x in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_none_or_box)[0]:
        if _is_box(x):
            ((_, inside),) = _children(x)
            yield from (path + rest for rest in _paths(inside))
        else:
            yield path


def unboxed(tree: Any) -> Any:
    """The tree with what is in its boxes in place of them."""
    return jax.tree.map(lambda x: unboxed(_children(x)[0][1]) if _is_box(x) else x, tree, is_leaf=_is_none_or_box)


def inside(node: Any) -> list[Any]:
    """What is right below a node; nothing below a leaf."""
    return [x for path, x in _children(node) if path]


def _is_none_or_box(x: Any) -> bool:
    return x is None or _is_box(x)


def _is_box(x: Any) -> bool:
    """Whether `value` is all that is in a node, as in flax's Variable and Partitioned."""
    return not isinstance(x, _PLAIN) and [path for path, _ in _children(x)] == [(GetAttrKey("value"),)]


def _children(node: Any) -> Any:
    """What is right below a node, each with its path of one key; of a leaf itself, with none."""
    return jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda x: x is not node)[0]


# What is certainly no box, for speed.
_PLAIN = (dict, list, jax.Array, np.ndarray, float)


def aligned(what: str, tree: Any, like: Any, treedef: Any) -> list[Any]:
    """The leaves of `tree` where `like`, flattened with None as a leaf, has its own."""
    try:
        return list(treedef.flatten_up_to(tree))
    except (ValueError, TypeError) as error:
        here, there = names(like), names(tree)
        missing = [n for n in here if n not in there]
        extra = [n for n in there if n not in here]
        say = [f"leaf {n!r} is missing in {what}" for n in missing[:1]]
        say += [f"leaf {n!r} is in {what} only" for n in extra[:1]]
        raise ValueError(
            f"the gradients and {what} are different trees: {'; '.join(say) or error}. "
            "After changing the parameters' structure call init again."
        ) from None


def check_shape(leaf: str, what: str, shape: Any, expected: Any) -> None:
    if tuple(shape) != tuple(expected):
        raise ValueError(f"leaf {leaf!r}: the gradient has shape {tuple(expected)}, {what} {tuple(shape)}.")


_DTYPES = frozenset({"float32", "bfloat16", "float16", "float64", "complex64", "complex128"})


def check_floating(leaf: str, what: str, dtype: Any) -> None:
    if np.dtype(dtype).name not in _DTYPES:
        raise TypeError(
            f"leaf {leaf!r}: {what} of dtype {np.dtype(dtype).name} cannot be updated by a rule. Give None for its "
            "gradient, or mask it with optax.masked."
        )
