"""State that crosses: between optax, trainfn_jax and, as a `Snapshot`, every other library.

    snapshot = convert.snapshot(state, adamw(), params)
    state = convert.filled(tx.init(params), snapshot, params)

States may stand in whatever optax puts around them: `chain`, `masked`, `partition`, `inject_hyperparams`, `MultiSteps`.
What is not the rule's, such as an injected learning rate, stays as `tx.init` made it, except counts of updates.
`trainfn.convert` says what may be done to a snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from trainfn.convert import (
    BFLOAT16,
    LeafState,
    Numbers,
    Snapshot,
    differences,
    fields_of_model,
    name_of,
    number,
    stored,
)
from trainfn.rule import Field, Rule
from trainfn.trace import Leaf
from trainfn_jax import trees
from trainfn_jax.places import Changes, Places, single
from trainfn_jax.vocabulary import COUNTS, FIRST


def snapshot(state: Any, rule: Rule, params: Any) -> Snapshot:
    """What a state remembers.

    state: of a transformation of trainfn_jax or optax, with whatever stands around it.
    rule: whose state it is; for one of optax the namesake's rule, with the namesake's options.
    params: the parameters, or their shapes; they name the leaves, `layers_0/kernel`.

    An array of a leaf that is read and that the rule does not keep is an error where it stands beside one that it does,
    or where optax keeps state of a rule under its name; what any other transformation keeps is passed over.

    Leaves that the state leaves out (`optax.masked`) are left out; where `partition` has several rules, each is read
    from its own part.  optax keeps no count of updates with some rules (sgd), so `step` is None there (`Snapshot.at`).
    Of a pair optax has one number.
    """
    places = Places(state, rule, params)
    if any(int(single(node.mini_step)) for node in places.nodes if "mini_step" in node._fields):
        raise ValueError("MultiSteps is accumulating gradients, which would be lost: wait for mini_step = 0.")
    leaves: dict[str, LeafState] = {}
    read: Changes = [{} for _ in places.nodes]
    for leaf in places.leaves:
        fields = [f for f in rule.fields_of(leaf) if not f.is_of_model]
        if not fields or any(places.holds(f, leaf) for f in fields):
            found = places.of_leaf(leaf, fields)
            values = {f.name: _read(places, f, leaf, x) for f, (_, x) in found.items()}
            for f, (node, x) in found.items():
                read[node].setdefault(places.words[f].attribute, {})[leaf.name] = x
            step = places.count(f"leaf {leaf.name!r}", {node for node, _ in found.values()})
            leaves[leaf.name] = LeafState(step, leaf.shape, values)
    if places.leaves and not leaves:
        raise ValueError(f"the state has nothing of what {rule.name} keeps: it is a state of another rule.")
    places.check_complete(read, set(leaves))
    steps = [leaf.step for leaf in leaves.values() if leaf.step is not None]
    updates = max(steps) if steps and len(steps) == len(leaves) else places.count("the model", set())
    model = {f.name: _read_of_model(places, f, updates) for f in fields_of_model(rule, places.leaves)}
    return Snapshot(rule, updates, leaves, model)


def filled(state: Any, snapshot: Snapshot, params: Any) -> Any:
    """A state like `state` that goes on from a snapshot.

    state: what `tx.init(params)` returned, for a transformation of trainfn_jax or optax, or `jax.eval_shape` of it.
    params: the parameters, or their shapes; they name the leaves.

    The rule of a state of trainfn_jax must be the snapshot's (`Snapshot.of`).  One of optax does not say whose it is:
    whatever keeps the same fields goes on there, as optax's adam and adamw do in one state.

    Arrays must have the dtypes of `state`, so that what was compiled for it fits (`Snapshot.cast`).  A leaf that was
    never updated (a parameter of torch that had no gradient) keeps what it has in `state`.
    """
    places = Places(state, snapshot.rule, params)
    missing, unknown = places.differing(snapshot.leaves)
    if missing or unknown:
        raise ValueError(
            "the snapshot is of other parameters: "
            + differences("it lacks", missing, "the state lacks", unknown)
            + " snapshot.renamed gives leaves other names."
        )
    changes: Changes = [{} for _ in places.nodes]
    for leaf in places.leaves:
        if leaf.name in snapshot.leaves:
            _write_leaf(places, leaf, snapshot, changes)
    places.check_complete(
        changes, {name for name, leaf in snapshot.leaves.items() if leaf.values or not snapshot.fields(name)}
    )
    for f in fields_of_model(snapshot.rule, places.leaves):
        _write_of_model(places, f, snapshot, changes)
    _write_counts(places, snapshot, changes)
    return places.rebuilt(state, changes)


# -- leaves ------------------------------------------------------------------------------------------------------------


def _read(places: Places, f: Field, leaf: Leaf, x: Any) -> Numbers:
    values = _numbers(x)
    if not f.is_array:
        return values if places.is_own else stored(f, _single(x))
    word = places.words[f]
    if word.is_reduced:
        values = _reshaped(values, places.rule.state_shapes(leaf).get(f.name, leaf.shape))
    return values if word.factor is None else _scaled(values, 1 / word.factor(leaf))


def _write_leaf(places: Places, leaf: Leaf, snapshot: Snapshot, changes: Changes) -> None:
    known = snapshot.leaves[leaf.name]
    if known.shape != leaf.shape:
        raise ValueError(
            f"leaf {leaf.name!r} has shape {known.shape} in the snapshot and {leaf.shape} here: snapshot.renamed also "
            "transposes."
        )
    fields = snapshot.fields(leaf.name) if known.values else ()
    for f, (node, like) in places.of_leaf(leaf, fields).items():
        word, x = places.words[f], known.values[f.name]
        if not f.is_array:
            x = _as_in(places, x, like)
        elif word.factor is not None:
            x = _scaled(x, word.factor(leaf))
        elif word.is_reduced:
            x = _reshaped(x, like.shape)
        made = _array(f"leaf {leaf.name!r}: the state {f.name}", x, like)
        changes[node].setdefault(word.attribute, {})[word.path(leaf.name)] = made


# -- the model ---------------------------------------------------------------------------------------------------------


def _read_of_model(places: Places, f: Field, updates: int | None) -> Numbers:
    word = places.words.get(f)
    if word is None:
        if updates is None:
            raise ValueError(f"the state has no count of updates, which {places.rule.name} keeps as {f.name}.")
        return stored(f, updates)
    x = places.of_model(f)[1]
    return _numbers(x) if places.is_own else stored(f, _single(x if word.index is None else x[word.index]))


def _write_of_model(places: Places, f: Field, snapshot: Snapshot, changes: Changes) -> None:
    word = places.words.get(f)
    if f.name not in snapshot.model:
        raise ValueError(f"the snapshot lacks {f.name}, a number of the model that {places.rule.name} keeps.")
    if word is None:
        return
    (node, like), x = places.of_model(f), snapshot.model[f.name]
    if word.index is None:
        x = _as_in(places, x, like)
    else:  # one number of several, of which the others are written alike
        several = changes[node].get(word.attribute, {"": np.zeros(like.shape, like.dtype)})[""]
        x = _with(np.asarray(several), word.index, number(x))
    changes[node][word.attribute] = {"": _array(f"the state {f.name}", x, like)}


def _with(values: Numbers, index: int, x: float) -> Numbers:
    return np.where(np.arange(len(values)) == index, values.dtype.type(x), values)


def _single(x: Any) -> float:
    """optax's one number; where links of ours stand in a chain of optax's form, also the sum of a pair."""
    return float(np.sum(np.asarray(x, np.float64)))


def _as_in(places: Places, x: Numbers, like: Any) -> Numbers:
    """What is no array, as a state of ours has it or as optax's one number."""
    return x if places.is_own or (x.ndim and x.shape == like.shape) else np.asarray(number(x), like.dtype)


# -- counts ------------------------------------------------------------------------------------------------------------


def _write_counts(places: Places, snapshot: Snapshot, changes: Changes) -> None:
    for i, counts in places.counts.items():
        for attribute, like in counts.items():
            count = snapshot.one_count() + COUNTS[attribute]
            if count > np.iinfo(like.dtype).max:
                raise ValueError(f"the state counts updates in {like.dtype}, which does not hold {count}.")
            changes[i][attribute] = {"": _array(attribute, np.asarray(count, like.dtype), like)}
    for i, node in enumerate(places.nodes):
        for attribute in set(FIRST) & set(node._fields):
            is_first = np.asarray(snapshot.count() == 0)
            changes[i][attribute] = {"": _array(attribute, is_first, single(getattr(node, attribute)))}


# -- arrays ------------------------------------------------------------------------------------------------------------


def arrays(params: Any) -> dict[str, Numbers]:
    """Parameters as arrays by name: for `trainfn.convert.rearranged`."""
    return {name: _numbers(x) for name, x in trees.named(params) if x is not None}


def tree(arrays: Mapping[str, Any], like: Any) -> Any:
    """Arrays by name, such as parameters that come from torch, as a tree like `like`."""
    named = trees.named(like)
    here = [name for name, x in named if x is not None]
    missing, unknown = [n for n in here if n not in arrays], [n for n in arrays if n not in here]
    if missing or unknown:
        raise ValueError("the arrays are of another tree: " + differences("they lack", missing, "it lacks", unknown))
    values = [None if x is None else _array(f"leaf {name!r}", arrays[name], x) for name, x in named]
    return jax.tree.unflatten(trees.structure(like), values)


def _numbers(x: Any) -> Numbers:
    """An array in memory of its own."""
    values = np.array(x)
    return values.view(np.uint16).view(BFLOAT16) if values.dtype == ml_dtypes.bfloat16 else values


def _reshaped(x: Numbers, shape: tuple[int, ...]) -> Numbers:
    """x with other axes of length 1, if that gives it this shape; checks of shapes follow."""
    is_same = [n for n in x.shape if n != 1] == [n for n in shape if n != 1]
    return x.reshape(shape) if is_same else x


def _scaled(x: Numbers, factor: float) -> Numbers:
    values: Any = x.view(ml_dtypes.bfloat16) if x.dtype == BFLOAT16 else x
    wide = np.complex128 if np.iscomplexobj(values) else np.float64
    return _numbers((values.astype(wide) * factor).astype(values.dtype))


def _array(what: str, x: Numbers, like: Any) -> Any:
    """x in JAX, where an array of this shape, dtype and placement is due."""
    if x.shape != like.shape:
        raise ValueError(f"{what} has shape {x.shape} where {like.shape} is due.")
    if name_of(x) != np.dtype(like.dtype).name:
        raise TypeError(f"{what} is {name_of(x)} where {like.dtype} is due: snapshot.cast(...) if it may lose digits.")
    made = jnp.array(x.view(ml_dtypes.bfloat16) if x.dtype == BFLOAT16 else x)
    return jax.device_put(made, like.sharding) if getattr(like, "committed", False) else made
