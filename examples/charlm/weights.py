"""How torch's parameter names and layouts correspond to flax's: a table, and the two walks over it.

Everything that is shaped like the parameters goes through here: weights, gradients, the moments of the
optimizer. On the torch side it is a flat dict from name to array, on the flax side a nested dict; the arrays
are numpy's.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

Named = dict[str, np.ndarray]  # by torch's names, in torch's layouts
Tree = dict[str, Any]  # by flax's names, in flax's layouts


class Row(NamedTuple):
    torch: str
    flax: tuple[str, ...]
    transposed: bool  # torch's Linear keeps (out, in), flax's Dense (in, out)


def _linear(name: str, path: str) -> list[Row]:
    return [
        Row(f"{name}.weight", (*path.split("/"), "kernel"), True),
        Row(f"{name}.bias", (*path.split("/"), "bias"), False),
    ]


def _layer_norm(name: str, path: str) -> list[Row]:
    return [
        Row(f"{name}.weight", (*path.split("/"), "scale"), False),
        Row(f"{name}.bias", (*path.split("/"), "bias"), False),
    ]


def table(layers: int) -> list[Row]:
    """One row for each parameter of a model with this many blocks."""
    rows = [
        Row("tokens.weight", ("tokens", "embedding"), False),
        Row("positions.weight", ("positions", "embedding"), False),
    ]
    for i in range(layers):
        rows += _layer_norm(f"blocks.{i}.norm1", f"blocks_{i}/norm1")
        rows += _linear(f"blocks.{i}.attention.qkv", f"blocks_{i}/attention/qkv")
        rows += _linear(f"blocks.{i}.attention.out", f"blocks_{i}/attention/out")
        rows += _layer_norm(f"blocks.{i}.norm2", f"blocks_{i}/norm2")
        rows += _linear(f"blocks.{i}.mlp.up", f"blocks_{i}/mlp/up")
        rows += _linear(f"blocks.{i}.mlp.down", f"blocks_{i}/mlp/down")
    rows += _layer_norm("norm", "norm")
    rows += [Row("head.weight", ("head", "kernel"), True)]
    return rows


def to_flax(named: Mapping[str, np.ndarray], rows: list[Row]) -> Tree:
    _check_names("torch", set(named), {row.torch for row in rows})
    tree: Tree = {}
    for row in rows:
        *branches, leaf = row.flax
        node = tree
        for branch in branches:
            node = node.setdefault(branch, {})
        node[leaf] = _relaid(named[row.torch], row)
    return tree


def to_torch(tree: Mapping[str, Any], rows: list[Row]) -> Named:
    leaves = dict(_leaves(tree))
    _check_names("flax", {"/".join(path) for path in leaves}, {"/".join(row.flax) for row in rows})
    return {row.torch: _relaid(np.asarray(leaves[row.flax]), row) for row in rows}


def _relaid(array: np.ndarray, row: Row) -> np.ndarray:
    # A copy, contiguous in the new layout: a transposed view would hide the difference the table is about.
    return np.array(array.T if row.transposed else array, order="C", copy=True)


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _check_names(side: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise ValueError(
            f"the {side} names do not match the table: missing {sorted(expected - found)}, "
            f"unknown {sorted(found - expected)}"
        )
