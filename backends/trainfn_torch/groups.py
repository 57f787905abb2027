"""Who owns a hyperparameter: what stands in a parameter group, and what a step reads there.

A number in a group is the user's: it is read at every step, whoever wrote it.  A scheduled value is the optimizer's:
written when the group is made, recomputed when a step begins, written again after an applied update.  The object in
the group decides: one the optimizer did not write is used as it is and never overwritten, and ownership returns with
the object.  Where the host counts the updates, a written value is a Python float; on accelerators, where only the
device knows which updates were skipped, it is a 0-d float64 tensor there.

A leaf function is asked when a group is made.  A group whose parameters get different answers is split, so that
groups hold numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trainfn import hyperparameters
from trainfn.rule import Rule
from trainfn.schedules.schedule import Schedule
from trainfn.trace import Leaf
from trainfn_torch.names import Key, Names
from trainfn_torch.scalars import evaluate_schedule
from trainfn_torch.tensors import has_numbers, is_plain
from trainfn_torch.warn import warn

# Keys that are no hyperparameters: torch's own, those its schedulers and loaders keep in a group, and other libraries'.
KEYS_OF_OTHERS = frozenset(
    (
        *("params", "param_names", "maximize", "foreach", "fused", "capturable", "differentiable"),
        *("decoupled_weight_decay", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"),
        *("name", "group_name", "lr_scale", "updates"),
    )
)

# Arguments of `Optimizer`, which ZeroRedundancyOptimizer also writes into every group.
ARGUMENTS = ("rule", "execution", "unscales", "fixed", "state_dtype")

# What torch's LRSchedulers leave in a group whose hyperparameters they write.
MARKS_OF_SCHEDULERS = {"initial_lr": ("lr",), "base_momentum": ("b1", "momentum")}


@dataclass
class Group:
    """What the optimizer knows of one parameter group beyond its numbers.

    schedules: the scheduled hyperparameters.
    owned: the objects it wrote into the group, by key; written_at: the count of updates they belong to.
    hyper: the numbers a step reads, one mapping for the group's life, changed in place.
    keys: of the group, when they were last looked at; noticed: those under which a foreign number was found.
    """

    schedules: dict[str, Schedule]
    owned: dict[str, Any] = field(default_factory=dict)
    written_at: dict[str, float | None] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    hyper: dict[str, Any] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    noticed: set[str] = field(default_factory=set)


# -- making groups -----------------------------------------------------------------------------------------------------


def normalise(rule: Rule, names: Names, given: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters a user's group names, in the core's words and checked; the rest of the group is not ours."""
    values: dict[str, Any] = {}
    by_key = {key.name: key for key in names.keys}
    for name, value in given.items():
        if name in by_key:
            values.update(unpack(rule, by_key[name], value))
        elif name in names.key_of:
            values[name] = value
        elif name not in KEYS_OF_OTHERS and not isinstance(value, str):
            close = hyperparameters.nearest(name, by_key)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise ValueError(
                f"{rule.name} has no hyperparameter {name}, given in a parameter group; it has "
                f"{', '.join(by_key)}{hint}"
            )
    return {name: hyperparameters.check(rule.name, name, value) for name, value in values.items()}


def unpack(rule: Rule, key: Key, value: Any) -> dict[str, Any]:
    """The hyperparameters under one key."""
    if not key.is_tuple:
        return {key.hyper[0]: value}
    if not isinstance(value, tuple | list) or len(value) != len(key.hyper):
        raise ValueError(
            f"{rule.name}: {key.name} = {value!r} must be a tuple of {len(key.hyper)}: {', '.join(key.hyper)}."
        )
    return dict(zip(key.hyper, value, strict=True))


def resolve(rule: Rule, values: Mapping[str, Any], leaf: Leaf, is_named: bool = True) -> dict[str, Any]:
    """What one parameter gets, leaf functions asked."""
    if not is_named:
        values = {
            name: _about_nameless(value) if hyperparameters.is_leaf_function(value) else value
            for name, value in values.items()
        }
    return {name: hyperparameters.resolve(rule.name, name, value, leaf) for name, value in values.items()}


@dataclass(frozen=True)
class _Nameless:
    """A leaf as a function of it sees it where parameters were given without names."""

    shape: tuple[int, ...]
    ndim: int
    size: int

    @property
    def name(self) -> str:
        raise ValueError(
            "the parameters were given without names: give the optimizer model.named_parameters(), or a group's "
            "param_names."
        )


def _about_nameless(function: Callable[[Any], Any]) -> Callable[[Leaf], Any]:
    return lambda leaf: function(_Nameless(leaf.shape, leaf.ndim, leaf.size))


def split(resolved: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Indices of parameters that get equal values, in order of first appearance."""
    parts: dict[Any, list[int]] = {}
    for i, values in enumerate(resolved):
        parts.setdefault(tuple(map(_identity, values.values())), []).append(i)
    return list(parts.values())


def _identity(value: Any) -> Any:
    if isinstance(value, Schedule):  # a leaf function may make a new one for each leaf
        return value.program, *((name, _identity(x)) for name, x in value.parameters.items())
    return value.hex() if isinstance(value, float) else id(value)


def fill(
    rule: Rule, keys: Sequence[Key], group: dict[str, Any], values: Mapping[str, Any], updates: torch.Tensor
) -> Group:
    """Put resolved values into a group: numbers as they are, schedules as their value now."""
    own = Group({n: v for n, v in values.items() if isinstance(v, Schedule)})
    fixed = {n: one_number(rule, n, v) for n, v in values.items() if n not in own.schedules}
    for key in keys:
        if not own.schedules.keys() & set(key.hyper):
            numbers = tuple(fixed[n] for n in key.hyper)
            group[key.name] = numbers if key.is_tuple else numbers[0]
        else:
            group[key.name] = tuple(fixed.get(n) for n in key.hyper) if key.is_tuple else None
    own_values(keys, group, own, updates)
    return own


def one_number(rule: Rule, name: str, value: Any) -> Any:
    """A number of a group, checked: a Python number, or a tensor of one element, whose number is checked on the CPU."""
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"Tensor {name} must be 1-element; {rule.name} was given one of shape {tuple(value.shape)}."
            )
        if value.device.type == "cpu" and is_plain(value):  # elsewhere asking would wait, or there is no number
            hyperparameters.check(rule.name, name, value.item())
        return value
    value = hyperparameters.check(rule.name, name, value)
    if not isinstance(value, float):
        raise TypeError(
            f"{rule.name}: {name} = {value!r} stands in a parameter group, where a number or a 1-element tensor "
            "belongs. Schedules and leaf functions are given to the rule, or to a group when it is added."
        )
    return value


# -- a step's view -----------------------------------------------------------------------------------------------------


def own_values(
    keys: Sequence[Key], group: dict[str, Any], own: Group, updates: torch.Tensor, force: bool = True
) -> None:
    """Write the scheduled values for the next update into the group; without `force`, only where they are ours."""
    if not own.schedules:
        return
    at = known_count(updates)
    for key in keys:
        scheduled = [n for n in key.hyper if n in own.schedules]
        if not scheduled:
            continue
        if not (force or is_ours(key, group, own)):
            _notice_foreign(key, group.get(key.name), own)
            continue
        if not force and at is not None and at == own.written_at[key.name]:
            continue
        new = {n: _scheduled(own.schedules[n], updates, at) for n in scheduled}
        if at is None and not force:
            _overwrite(key, group[key.name], new)
            continue
        old = group[key.name] if key.is_tuple else (None,)
        numbers = tuple(new.get(n, o) for n, o in zip(key.hyper, old, strict=True))
        group[key.name] = own.owned[key.name] = numbers if key.is_tuple else numbers[0]
        own.written_at[key.name] = at


def _notice_foreign(key: Key, value: Any, own: Group) -> None:
    """Say once that a schedule rests.  A zero is what checkpoint loaders put there for one empty step."""
    if key.name in own.noticed or not isinstance(value, int | float | tuple) or value == 0:
        return
    own.noticed.add(key.name)
    schedules = ", ".join(f"{n} = {own.schedules[n]!r}" for n in key.hyper if n in own.schedules)
    warn(
        f"{key.name} = {value!r} was put into a parameter group that has a schedule for it ({schedules}): the number "
        "is used, and the schedule rests until its own value is put back. If something else decides on it, such as "
        "ReduceLROnPlateau, give the rule a number."
    )


def known_count(updates: torch.Tensor) -> float | None:
    """The count of updates where the host may read it; None where that would wait for a device."""
    return float(updates) if updates.device.type == "cpu" and has_numbers(updates) else None


def is_ours(key: Key, group: Mapping[str, Any], own: Group) -> bool:
    """Whether the object in the group is the one the optimizer wrote."""
    return group.get(key.name, _MISSING) is own.owned.get(key.name)


def _scheduled(schedule: Schedule, updates: torch.Tensor, at: float | None) -> Any:
    if at is None:
        return evaluate_schedule(schedule, updates)
    return schedule(at) * 1.0  # a new object: a constant schedule returns the one that it, and a user, may hold


def _overwrite(key: Key, old: Any, new: Mapping[str, torch.Tensor]) -> None:
    """On a device the tensors stay and their numbers change, so that a captured graph reads them."""
    for name, value in zip(key.hyper, old if key.is_tuple else (old,), strict=True):
        if name in new:
            value.copy_(new[name])


def read(rule: Rule, keys: Sequence[Key], group: dict[str, Any], own: Group) -> dict[str, Any]:
    """The numbers the next update uses, by the core's names."""
    for key in keys:
        value = group.get(key.name, _MISSING)
        if value is own.seen.get(key.name, group) and _is_constant(value):
            continue
        if value is _MISSING:
            raise KeyError(f"{rule.name}: {key.name} is missing from a parameter group; put it back.")
        for name, number in unpack(rule, key, value).items():
            own.hyper[name] = one_number(rule, name, number)
        own.seen[key.name] = value
    return own.hyper


def _is_constant(value: Any) -> bool:
    """Whether an object stands for the same numbers for good, as a tensor or a list does not."""
    return isinstance(value, float | int) or (isinstance(value, tuple) and all(map(_is_constant, value)))


def refuse_two_owners(rule: Rule, group: Mapping[str, Any], own: Group) -> None:
    """An LRScheduler writes into every group it is given; a value that has a schedule already has an owner."""
    for mark, written in MARKS_OF_SCHEDULERS.items():
        for name in own.schedules.keys() & set(written) if mark in group else ():
            raise RuntimeError(
                f"{name} has two owners: the schedule {own.schedules[name]!r} of {rule.name}, and a torch LRScheduler, "
                f"which left {mark!r} in the parameter group. Give the rule a number, or drop the LRScheduler; "
                "a training loop that insists on one takes trainfn_torch.lr_scheduler.RuleLR(optimizer)."
            )


def refuse_misplaced(rule: Rule, names: Names, group: Mapping[str, Any], own: Group) -> None:
    """A hyperparameter under the core's name would not be read where torch's is another, as `betas` for `b1`."""
    if group.keys() == own.keys:
        return
    for name, key in names.key_of.items():
        if name in group and name not in {k.name for k in names.keys}:
            raise ValueError(f"{rule.name}: {name} in a parameter group is not read; set {key.name}, and remove it.")
    own.keys = frozenset(group)


def refuse_change(rule: Rule, group: Mapping[str, Any], fixed: Mapping[str, bool | float]) -> None:
    for name, value in fixed.items():
        if group.get(name, value) != value:
            raise ValueError(
                f"{name} = {group[name]!r} in a parameter group: {rule.name} was made with {name} = {value!r}, which "
                "decides its formulas. Make another optimizer."
            )


_MISSING: Any = object()
