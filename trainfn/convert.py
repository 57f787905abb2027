"""State that crosses from one library to another: a neutral form of it, and what renames and transposes it.

A `Snapshot` is what an optimizer remembers, in the core's words, as numpy arrays.  `trainfn_torch.convert` takes one of
a torch.optim or trainfn_torch optimizer and loads one; `trainfn_jax.convert` does so with states of optax and of
trainfn_jax.  In between stands what differs from model to model, which is data:

    {"0.weight": ("layers_0/kernel", (1, 0)), "0.bias": "layers_0/bias"}

says what each leaf is called on the other side and, where its axes stand in another order, which old axis each new one
is, as in `numpy.transpose`: `(1, 0)` for dense layers, `(2, 3, 1, 0)` for a convolution from OIHW to HWIO.  `inverse`
turns such a layout around, `patterns` makes one of regular expressions, and `rearranged` applies one to parameters.
"""

from __future__ import annotations

import inspect
import json
import numbers
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, TypeVar

import numpy as np
from numpy.lib.format import read_array, write_array

from trainfn.files import replacing
from trainfn.rule import Definition, Field, Rule
from trainfn.trace import Array, Graph, Leaf
from trainfn.tracing import Structure, ask_state, walk_structures

Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class NoPlace:
    """In a layout: that a leaf is nothing on the other side which another name and order of axes could say, and why."""

    why: str


Place = str | tuple[str, tuple[int, ...]] | NoPlace
Layout = Mapping[str, Place] | Callable[[str], Place | None]

# numpy has no bfloat16: such arrays hold its bits, which lose nothing and are moved and saved like any others.
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])


@dataclass(frozen=True, eq=False)
class LeafState:
    """What is remembered of one leaf.

    step: updates applied to it; None where a library keeps no count (torch's SGD).
    shape: the parameter's.
    values: the rule's fields; none where a leaf was never updated, and has no state yet (in torch).
    """

    step: int | None
    shape: tuple[int, ...]
    values: Mapping[str, Numbers]


@dataclass(frozen=True, eq=False, repr=False)
class Snapshot:
    """The state of an optimizer, in the core's words.

    rule: whose state it is; of its hyperparameters only those are read on which a state's numbers depend.
    updates: applied to the whole model, which is what schedules read; None if nothing counts them.
    leaves: by name; model: fields that belong to the whole model.

    Arrays have the dtype they were stored in, bfloat16 as `BFLOAT16`.  A Scalar is one float32 number, a pair two, high
    and low.  Making one checks it: each leaf has the rule's fields, in their shapes, or none, and the model all of its.
    """

    rule: Rule
    updates: int | None
    leaves: Mapping[str, LeafState]
    model: Mapping[str, Numbers]

    def __post_init__(self) -> None:
        _check_count("the model", self.updates)
        for name, leaf in self.leaves.items():
            _check_count(f"leaf {name!r}", leaf.step)
            _check(self.rule, name, leaf)
        if self.leaves:
            _check_model(self)

    def __repr__(self) -> str:
        arrays = [*self.model.values(), *(x for leaf in self.leaves.values() for x in leaf.values.values())]
        return (
            f"<Snapshot of {self.rule.name}: updates={self.updates}, {len(self.leaves)} leaves, "
            f"{sum(x.nbytes for x in arrays):,} bytes>"
        )

    def fields(self, name: str) -> tuple[Field, ...]:
        """Those of a leaf, in the rule's order; it has values for all of them or for none."""
        return _fields(self.rule, name, self.leaves[name].shape)

    def renamed(self, layout: Layout, rule: Rule | None = None) -> Snapshot:
        """The same state under other names, its arrays transposed; the layout must name every leaf.

        A state that is shaped like its parameter follows it.  One that begins as anything else (sums along an axis)
        says how, in a method `permuted(self, axes, due)` of its NamedTuple: it returns the state of
        `p.transpose(axes)`, whose fields have the shapes `due`, a NamedTuple of the same sort.  Where the rule works
        along other axes afterwards (Adafactor factors the last two, and a convolution's go to the front), there is no
        such state, and a ValueError says so.

        rule: as it is for the new leaves, where it asks for names (`partition`) or an option names an axis (`muon`,
            whose `out_axis` counts outputs).  Which axes of a leaf a rule sets apart is what a static method
            `axes(shape, options it names)` of its NamedTuple returns; a ValueError says where they would be others.
        """
        if rule is not None:
            self.check_rule(rule)
        leaves = {}
        for name, (new, axes) in _places(self.leaves, layout).items():
            leaves[new] = _moved(self, name, rule or self.rule, new, axes)
        return replace(self, leaves=leaves, rule=rule or self.rule)

    def at(self, step: int) -> Snapshot:
        """The same state, updated `step` times: where nothing counted, or leaves were updated unequally often."""
        if not _is_count(step):
            raise ValueError(f"snapshot.at takes a count of updates, a whole number from 0 on, not {step!r}.")
        leaves = {name: replace(leaf, step=int(step)) for name, leaf in self.leaves.items()}
        return replace(self, updates=int(step), leaves=leaves)

    def cast(self, dtype: str, names: Collection[str] | None = None) -> Snapshot:
        """The same state with its arrays rounded, or widened, to another dtype, such as "float32" or "bfloat16".

        names: the fields to cast, all unless given.  optax keeps some in a dtype that is not the parameters' (the
            momentum of Adafactor in float32, `mu_dtype`).
        """
        arrays = {f.name for f in self.rule.fields if f.is_array}
        unknown = [name for name in names or () if name not in arrays]
        if unknown:
            raise ValueError(f"{self.rule.name} keeps no arrays {listed(unknown)}, but {listed(sorted(arrays))}.")
        arrays = arrays if names is None else set(names)
        leaves = {
            name: replace(leaf, values={k: cast(x, dtype) if k in arrays else x for k, x in leaf.values.items()})
            for name, leaf in self.leaves.items()
        }
        return replace(self, leaves=leaves)

    def of(self, rule: Rule) -> Snapshot:
        """The same state as another rule's that keeps the same fields: Adam's for AdamW, if that is meant."""
        return replace(self, rule=rule)

    def check_rule(self, rule: Rule) -> None:
        """That a state of this rule is one of `rule`: both keep state in the same definitions, in the same order."""
        _check_keepers(_keepers(self.rule), _keepers(rule))

    def check_leaf(self, name: str, rule: Rule) -> None:
        """That the state of a leaf is one of `rule`, whose options may have it keep more or less."""
        leaf = Leaf(name, self.leaves[name].shape)
        _check_keepers(*([x.definition for x in _structures(r, leaf)] for r in (self.rule, rule)))
        _check_goes_on(self.rule, leaf, rule, leaf, tuple(range(leaf.ndim)))

    def count(self) -> int:
        """The updates of the model, where something counts them."""
        if self.updates is None:
            raise ValueError(
                f"nothing counts the updates in this state of {self.rule.name}, and where it is to go something does: "
                "say how many there were, snapshot.at(step)."
            )
        return self.updates

    def one_count(self) -> int:
        """The one count of updates that a state in JAX has for the model and all leaves."""
        count = self.count()
        others = [f"{name}: {leaf.step}" for name, leaf in self.leaves.items() if leaf.step != count]
        if others:
            raise ValueError(
                f"a state in JAX has one count of updates for all leaves, and this one has {count} for the model, but "
                f"{listed(others)}. If they may go on from one count, write snapshot.at(step)."
            )
        return count

    def save(self, path: str | PathLike[str]) -> None:
        """Write the snapshot to a file, for a process that has the other library.

        It is a zip archive of `snapshot.json`, which names what there is, and of the arrays in files of numpy's by
        number.  A file that stood there before is replaced by a whole one, or stays.
        """
        arrays = self.arrays()
        header = {"version": _VERSION, **self.header(), "arrays": list(arrays)}
        with replacing(path) as beside, zipfile.ZipFile(beside, "w") as archive:
            archive.writestr(_HEADER, json.dumps(header))
            for i, x in enumerate(arrays.values()):
                with archive.open(f"{i}.npy", "w", force_zip64=True) as file:
                    write_array(file, x, allow_pickle=False)

    @staticmethod
    def load(path: str | PathLike[str], rule: Rule) -> Snapshot:
        """Read what `save` wrote of a state of this rule."""
        return Snapshot.of_arrays(rule, *_read(path), where=str(path))

    def arrays(self) -> dict[str, Numbers]:
        """All numbers that it holds, `m/0.weight` for the field m of a leaf and `d` for one of the model."""
        return {
            **self.model,
            **{f"{k}/{name}": x for name, leaf in self.leaves.items() for k, x in leaf.values.items()},
        }

    def header(self) -> dict[str, Any]:
        """What there is beside the arrays, for JSON."""
        leaves = {
            name: {"step": _plain(leaf.step), "shape": list(leaf.shape), "fields": list(leaf.values)}
            for name, leaf in self.leaves.items()
        }
        return {
            "rule": _spell(_keepers(self.rule)),
            "updates": _plain(self.updates),
            "leaves": leaves,
            "model": list(self.model),
        }

    @staticmethod
    def of_arrays(
        rule: Rule, arrays: Mapping[str, Numbers], header: Mapping[str, Any], where: str = "the checkpoint"
    ) -> Snapshot:
        """What `arrays` and `header` were made of, a state of this rule."""
        kept, updates, leaves, model = _parsed(arrays, header)
        if kept != _spell(_keepers(rule)):
            raise ValueError(f"{where} holds a state of {kept}, and this is {_spell(_keepers(rule))}.")
        return Snapshot(rule, updates, leaves, model)


# Of files: the entry that says what the others are, and the version of what it says.
_HEADER, _VERSION = "snapshot.json", 1


def _read(path: str | PathLike[str]) -> tuple[dict[str, Numbers], dict[str, Any]]:
    """The arrays of a file and its header; one of a version that is not known is left alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            header = json.loads(archive.read(_HEADER))
            version = header["version"]
            if version == _VERSION:
                arrays = {name: _read_array(archive, i) for i, name in enumerate(header["arrays"])}
                _parsed(arrays, header)
                return arrays, header
    except (zipfile.BadZipFile, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no whole file that Snapshot.save wrote: {error!r}") from error
    raise ValueError(
        f"{path} was saved in version {version} of the format, and this trainfn reads version {_VERSION}: load it "
        "with the one that saved it."
    )


def _parsed(
    arrays: Mapping[str, Numbers], header: Mapping[str, Any]
) -> tuple[str, int | None, dict[str, LeafState], dict[str, Numbers]]:
    """The rule, the updates, the leaves and the numbers of the model that a header and arrays say."""
    leaves = {
        name: LeafState(leaf["step"], tuple(leaf["shape"]), {k: arrays[f"{k}/{name}"] for k in leaf["fields"]})
        for name, leaf in header["leaves"].items()
    }
    return header["rule"], header["updates"], leaves, {k: arrays[k] for k in header["model"]}


def _read_array(archive: zipfile.ZipFile, i: int) -> Numbers:
    with archive.open(f"{i}.npy") as file:
        return np.asarray(read_array(file, allow_pickle=False))


def _fields(rule: Rule, name: str, shape: tuple[int, ...]) -> tuple[Field, ...]:
    return tuple(f for f in rule.fields_of(Leaf(name, shape)) if not f.is_of_model)


def _check(rule: Rule, name: str, leaf: LeafState) -> None:
    fields = {f.name: f for f in _fields(rule, name, leaf.shape)}
    if leaf.values and leaf.values.keys() != fields.keys():
        raise ValueError(
            f"leaf {name!r}: its state holds {', '.join(sorted(leaf.values))}, and {rule.name} keeps "
            f"{', '.join(sorted(fields)) or 'nothing'}: it is a state of another rule, or of other options."
        )
    due = _shapes(rule, name, leaf.shape)
    for k, x in leaf.values.items():
        if x.shape != due[k]:
            raise ValueError(
                f"leaf {name!r} has shape {leaf.shape}, and its state {k} has {x.shape} where {due[k]} is due."
            )


def _shapes(rule: Rule, name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of a leaf's fields."""
    others = rule.state_shapes(Leaf(name, shape))
    fields = _fields(rule, name, shape)
    return {f.name: others.get(f.name, shape) if f.is_array else (2,) if f.is_pair else () for f in fields}


def _check_count(what: str, count: int | None) -> None:
    if count is not None and not _is_count(count):
        raise ValueError(f"{what}: {count!r} is no count of updates, which is a whole number from 0 on.")


def _plain(count: int | None) -> int | None:
    """A count as JSON spells it, which does not know numpy's whole numbers."""
    return None if count is None else int(count)


def _is_count(x: Any) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool) and int(x) >= 0


# -- from one rule and order of axes to another ------------------------------------------------------------------------


def _moved(snapshot: Snapshot, name: str, rule: Rule, new: str, axes: tuple[int, ...] | None) -> LeafState:
    """The state of a leaf under another name and rule, its axes put in another order if there is one."""
    leaf = snapshot.leaves[name]
    order = tuple(range(len(leaf.shape))) if axes is None else axes
    there = Leaf(new, _permuted_shape(f"leaf {name!r}", leaf.shape, order))
    try:
        _check_goes_on(snapshot.rule, Leaf(name, leaf.shape), rule, there, order)
    except ValueError as error:
        remedy = "" if rule is not snapshot.rule else " Give the rule as it is for the new ones: renamed(layout, rule)."
        raise ValueError(f"{error}{remedy}") from None
    return leaf if axes is None else _permuted(snapshot.rule, name, leaf, axes, _shapes(rule, there.name, there.shape))


def _check_goes_on(theirs: Rule, leaf: Leaf, ours: Rule, there: Leaf, axes: tuple[int, ...]) -> None:
    """That what a rule keeps of a leaf is what another keeps of that leaf with its axes in this order."""
    before, after = _structures(theirs, leaf), _structures(ours, there)
    spelt = _spell(x.definition for x in before), _spell(x.definition for x in after)
    if [x.definition for x in before] != [x.definition for x in after]:
        raise ValueError(f"leaf {leaf.name!r} has a state of {spelt[0]}, and {there.name!r} is updated by {spelt[1]}.")
    kept, due = _kept(theirs, leaf, before), _kept(ours, there, after)
    if kept != due:
        raise ValueError(
            f"leaf {leaf.name!r} has a state of {spelt[0]} that keeps {listed(kept) or 'nothing'}, and here it keeps "
            f"{listed(due) or 'nothing'}: {_unlike(before, after)}."
        )
    for x, y in zip(before, after, strict=True):
        own, will_be = _own_axes(x, leaf), _own_axes(y, there)
        if own != tuple(axes[axis] for axis in will_be):
            raise ValueError(
                f"leaf {leaf.name!r}: {_with_axes(x, own)} apart, which is axis {listed(map(axes.index, own))} of "
                f"{there.name!r}, where {_with_axes(y, will_be)} apart."
            )


def _structures(rule: Rule, leaf: Leaf) -> list[Structure]:
    """Of the rules that keep state of a leaf."""
    return [structure for structure in walk_structures(rule.structure, Graph(leaf)) if structure.state]


def _kept(rule: Rule, leaf: Leaf, structures: Iterable[Structure]) -> list[str]:
    """What these rules keep of the leaf, in their own words."""
    present = {f.name for f in _fields(rule, leaf.name, leaf.shape)}
    return [own for structure in structures for own, name in structure.state if name in present]


def _own_axes(structure: Structure, leaf: Leaf) -> tuple[int, ...]:
    """The axes of a leaf that the rule sets apart: `axes(shape, options it names)` of its state says which."""
    if not hasattr(structure.definition.state, "axes"):
        return ()
    axes: tuple[int, ...] = ask_state(structure, Graph(leaf), "axes", leaf.shape)
    return axes


def _with_axes(structure: Structure, axes: Iterable[int]) -> str:
    asked = list(inspect.signature(structure.definition.state.axes).parameters)[1:]
    options = ", ".join(f"{name} = {value!r}" for name, value in structure.options if name in asked)
    return f"{structure.definition.name}({options}) sets axis {listed(axes)}"


def _unlike(before: Iterable[Structure], after: Iterable[Structure]) -> str:
    """The options that are not those of the other side."""
    unlike = []
    for x, y in zip(before, after, strict=True):
        theirs, ours = dict(x.options), dict(y.options)
        for name in [k for k, _ in (*x.options, *y.options) if theirs.get(k, _NUMBER) != ours.get(k, _NUMBER)]:
            unlike.append(f"{name} is {theirs.get(name, _NUMBER)} there and {ours.get(name, _NUMBER)} here")
    return listed(dict.fromkeys(unlike))


_NUMBER = "a number"  # what a hyperparameter is that is no option


def _permuted(
    rule: Rule, name: str, leaf: LeafState, axes: tuple[int, ...], due: Mapping[str, tuple[int, ...]]
) -> LeafState:
    """The state of a leaf whose axes are put in another order, in which its fields have the shapes that are due."""
    shape = _permuted_shape(f"leaf {name!r}", leaf.shape, axes)
    values = {**leaf.values}
    for structure in _structures(rule, Leaf(name, leaf.shape)) if leaf.values else ():
        definition, names = structure.definition, dict(structure.state)
        permute = getattr(definition.state, "permuted", None)
        if permute is not None:
            each = (leaf.values, due)
            own, shapes = (definition.state(**{k: of.get(full) for k, full in names.items()}) for of in each)
            try:
                made = permute(own, axes, shapes)
            except ValueError as error:
                raise ValueError(f"leaf {name!r}, whose axes are put in the order {axes}: {error}") from None
            values |= {full: x.copy() for k, full in names.items() if (x := getattr(made, k)) is not None}
        elif hasattr(definition.state, "init") and rule.state_shapes(Leaf(name, leaf.shape)):
            raise ValueError(
                f"leaf {name!r}: {definition.name} does not say how its state follows when the parameter's axes are "
                f"put in another order. Give {definition.state.__name__} a method permuted(self, axes, due)."
            )
        else:
            arrays = [names[k] for k, sort in definition.fields.items() if sort is Array and names[k] in values]
            values |= {k: values[k].transpose(axes).copy() for k in arrays}
    return LeafState(leaf.step, shape, values)


def _check_model(snapshot: Snapshot) -> None:
    due = {f.name: f for f in fields_of_model(snapshot.rule, (Leaf(n, x.shape) for n, x in snapshot.leaves.items()))}
    if snapshot.model.keys() != due.keys():
        raise ValueError(
            f"the model's state holds {', '.join(sorted(snapshot.model)) or 'nothing'}, and {snapshot.rule.name} keeps "
            f"{', '.join(sorted(due)) or 'nothing'}: it is a state of another rule, or of other options."
        )
    for k, x in snapshot.model.items():
        shape = (2,) if due[k].is_pair else ()
        if x.shape != shape:
            raise ValueError(f"the state {k} of the model has shape {x.shape} where {shape} is due.")


def fields_of_model(rule: Rule, leaves: Iterable[Leaf]) -> list[Field]:
    """The fields of the model that exist with a rule's options."""
    present = {f for leaf in leaves for f in rule.fields_of(leaf) if f.is_of_model}
    return [f for f in rule.fields if f in present]


def _keepers(rule: Rule) -> list[Definition]:
    """The definitions in a rule that keep state."""
    return [structure.definition for structure in walk_structures(rule.structure) if structure.state]


def _check_keepers(theirs: Sequence[Definition], ours: Sequence[Definition]) -> None:
    if theirs != ours:
        raise ValueError(
            f"the snapshot is a state of {_spell(theirs)}, and this is {_spell(ours)}. If one is meant to go on as "
            "the other, and keeps the same fields, write snapshot.of(rule)."
        )


def _spell(keepers: Iterable[Definition]) -> str:
    return " + ".join(definition.name for definition in keepers) or "rules that remember nothing"


# -- layouts -----------------------------------------------------------------------------------------------------------


def rearranged(arrays: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Arrays, such as a model's parameters, under a layout's other names and transposed as it says."""
    there = {}
    for name, (new, axes) in _places(arrays, layout).items():
        x = np.asarray(arrays[name])
        if axes is not None:
            _permuted_shape(f"leaf {name!r}", x.shape, axes)
            x = x.transpose(axes).copy()
        there[new] = x
    return there


def inverse(layout: Mapping[str, Place]) -> dict[str, Place]:
    """The layout that leads back."""
    back: dict[str, Place] = {}
    for name, (new, axes) in _places(layout, layout).items():
        back[new] = name if axes is None else (name, tuple(map(int, np.argsort(axes))))
    return back


def patterns(*rows: tuple[str, str] | tuple[str, str, tuple[int, ...]]) -> Callable[[str], Place | None]:
    r"""A layout out of regular expressions: whole old name, new name with its groups, and axes.

        patterns((r"(\d+)\.weight", r"layers_\1/kernel", (1, 0)), (r"(\d+)\.bias", r"layers_\1/bias"))

    The first that matches decides.  `{name: layout(name) for name in snapshot.leaves}` writes it out, for `inverse`.
    """

    def layout(name: str) -> Place | None:
        for pattern, new, *axes in rows:
            match = re.fullmatch(pattern, name)
            if match:
                return (match.expand(new), *axes) if axes else match.expand(new)  # type: ignore[return-value]
        return None

    return layout


def _places(names: Iterable[str], layout: Layout) -> dict[str, tuple[str, tuple[int, ...] | None]]:
    """The new name and the axes of each leaf."""
    names = list(names)
    given = {name: layout(name) for name in names} if callable(layout) else {**layout}
    missing = [name for name in names if given.get(name) is None]
    unknown = [name for name in given if name not in names]
    if missing or unknown:
        raise ValueError("the layout does not fit: " + differences("it lacks", missing, "there is no", unknown))
    places: dict[str, tuple[str, tuple[int, ...] | None]] = {}
    for name in names:
        place: Any = given[name]
        if isinstance(place, NoPlace):
            raise ValueError(f"the layout has no place for {name!r}: {place.why}")
        places[name] = (place, None) if isinstance(place, str) else (place[0], tuple(place[1]))
    _check_unique(places)
    return places


def _check_unique(places: Mapping[str, tuple[str, Any]]) -> None:
    first: dict[str, str] = {}
    for name, (new, _) in places.items():
        if first.setdefault(new, name) != name:
            raise ValueError(f"the layout calls both {first[new]!r} and {name!r} {new!r}.")


def _permuted_shape(what: str, shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    if sorted(axes) != list(range(len(shape))):
        raise ValueError(f"{what} has shape {shape}, whose axes cannot be put in the order {axes}.")
    return tuple(shape[axis] for axis in axes)


# -- numbers -----------------------------------------------------------------------------------------------------------

_FLOATING = ("float64", "float32", "float16", "bfloat16")


def cast(x: Numbers, dtype: str) -> Numbers:
    """An array in another floating dtype; to and from bfloat16 by way of float32."""
    if dtype not in _FLOATING:
        raise ValueError(f"arrays of state are cast to {', '.join(_FLOATING)}, not to {dtype!r}.")
    if name_of(x) == dtype:
        return x
    if x.dtype == BFLOAT16:
        x = (x["bfloat16"].astype(np.uint32) << np.uint32(16)).view(np.float32)
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(f"an array of dtype {x.dtype} cannot be cast to {dtype}.")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return _to_bfloat16(x.astype(np.float32)) if dtype == "bfloat16" else x.astype(dtype)


def _to_bfloat16(x: Numbers) -> Numbers:
    """Rounded to nearest, ties to even; a NaN stays one."""
    bits = x.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(x), quiet, rounded).astype(np.uint16).view(BFLOAT16)


def name_of(x: Numbers) -> str:
    """The name of an array's dtype."""
    return "bfloat16" if x.dtype == BFLOAT16 else str(x.dtype)


def stored(f: Field, number: float) -> Numbers:
    """A number as a field keeps it: in float32, with the rest beside it if the field is a pair (of inf: inf)."""
    with np.errstate(over="ignore"):
        high = np.float32(number)
        rest = np.float32(number - float(high)) if np.isfinite(high) else high
    return np.array([high, rest]) if f.is_pair else np.array(high)


def number(x: Numbers) -> float:
    """What a field that is no array stands for."""
    return float(np.sum(x, dtype=np.float64))


# -- what errors say ---------------------------------------------------------------------------------------------------

T = TypeVar("T")


def listed(items: Iterable[T], most: int = 8) -> str:
    """The first of them, and whether there are more."""
    some = [str(item) for item in items]
    return ", ".join(some[:most]) + (f" and {len(some) - most} more" if len(some) > most else "")


def differences(lacks: str, missing: Iterable[str], has: str, unknown: Iterable[str]) -> str:
    """Names that only one of two sides has."""
    return "; ".join(_parts((lacks, list(missing)), (has, list(unknown)))) + "."


def _parts(*sides: tuple[str, list[str]]) -> Iterator[str]:
    return (f"{text} {listed(map(repr, names))}" for text, names in sides if names)
