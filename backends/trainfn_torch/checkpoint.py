"""Loading an optimizer's state: by name where both sides have names, whatever the groups were when it was saved.

Departs from torch.optim where that loses information: saved tensors keep their dtype and are copied.  A state saved
under other groups (one group into several, or the other way) splits this optimizer's groups where saved values differ;
hyperparameters that are functions of the leaf, and scheduled ones, stay the rule's own.  States of torch.optim's
namesakes load: what they lack (counts of updates) is taken from the parameters' `step`.

Nothing is changed before everything has been checked.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from trainfn.hyperparameters import is_leaf_function
from trainfn.rule import Rule
from trainfn.trace import Leaf
from trainfn_torch import groups as grouping
from trainfn_torch import state as states
from trainfn_torch.groups import Group
from trainfn_torch.names import Names
from trainfn_torch.tensors import is_sharded, plain

# Prefixes that wrappers put before a parameter's name: DDP, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")
# What torch.optim keeps in a group and trainfn has no use for.
_FLAGS = frozenset(("foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"))


@dataclass(frozen=True)
class Entry:
    """One parameter of ours: its group, and the number of the saved group and the saved state it belongs to."""

    p: torch.Tensor
    leaf: Leaf
    where: str
    group: int
    saved_group: int = -1
    saved_id: Any = None


@dataclass
class Loaded:
    """What an optimizer is to become."""

    param_groups: list[dict[str, Any]]
    groups: list[Group]
    state: dict[torch.Tensor, dict[str, Any]]
    updates: float
    model: dict[str, Any]


def prepare(
    rule: Rule,
    names: Names,
    fixed: Mapping[str, bool | float],
    param_groups: Sequence[dict[str, Any]],
    groups: Sequence[Group],
    entries: Sequence[Entry],
    saved: Mapping[str, Any],
) -> Loaded:
    """Match and check a saved state; `entries` are in the order in which the user gave the parameters."""
    saved_groups = _groups_of(saved)
    _check_options(rule, fixed, saved_groups)
    entries = _match(rule, entries, param_groups, saved_groups)
    state = {}
    for entry in entries:
        values = {k: v for k, v in saved["state"].get(entry.saved_id, {}).items() if v is not None}
        if values:
            states.check(rule, names, entry.leaf, values, entry.p, entry.where)
            states.count_of(values.get("step", 1.0), f"the state of {entry.where}: step")
            state[entry.p] = _copy_state(rule, names, values, entry.p)
    _check_nothing_is_lost(rule, names, fixed, param_groups, saved_groups)
    parts = _refine(param_groups, entries)
    same = len(parts) == len(param_groups) == len(saved_groups)
    made = [
        _group(rule, names, param_groups[mine], groups[mine], saved_groups[theirs], params, same, fixed)
        for mine, theirs, params in parts
    ]
    updates = _shared(saved_groups, states.UPDATES)
    if updates is None:
        updates = max((float(s["step"]) for s in state.values()), default=0.0)
    updates = states.count_of(updates, f"the saved {states.UPDATES}")
    kept = {f for entry in entries for f in rule.fields_of(entry.leaf) if f.is_of_model}
    model = {f.name: _shared(saved_groups, f.name) for f in rule.fields if f in kept}
    lacking = [name for name, value in model.items() if value is None and state]
    if lacking:
        raise ValueError(
            f"the saved state lacks {', '.join(lacking)}, which {rule.name} keeps in every parameter group: "
            "it was saved by another rule."
        )
    for f in rule.fields:
        if model.get(f.name) is not None:
            states.check_numbers(f, f.name, model[f.name], "the saved parameter groups")
    return Loaded([g for g, _ in made], [own for _, own in made], state, updates, model)


def _groups_of(saved: Any) -> Sequence[Mapping[str, Any]]:
    lacking = [key for key in ("state", "param_groups") if not isinstance(saved, Mapping) or key not in saved]
    if lacking:
        found = ", ".join(map(repr, list(saved)[:8])) if isinstance(saved, Mapping) else type(saved).__name__
        raise ValueError(
            f"this is no optimizer's state_dict: it lacks {' and '.join(map(repr, lacking))}, and is "
            f"{found or 'empty'}. Give what optimizer.state_dict() returned."
        )
    groups: Sequence[Mapping[str, Any]] = saved["param_groups"]
    if not isinstance(saved["state"], Mapping):
        raise ValueError(f"this is no optimizer's state_dict: its 'state' is {saved['state']!r}.")
    if not all(isinstance(group, Mapping) and "params" in group for group in groups):
        raise ValueError("this is no optimizer's state_dict: a parameter group in it has no 'params'.")
    return groups


def _check_options(rule: Rule, fixed: Mapping[str, bool | float], saved_groups: Sequence[Mapping[str, Any]]) -> None:
    """What chooses the program must be what it was; that Adam's state becomes AdamW's is the user's choice."""
    options = {name: value for link in rule.own_links for name, value in link.options if isinstance(value, bool)}
    for group in saved_groups:
        for name, value in {**options, **fixed}.items():
            if name != "decoupled_weight_decay" and group.get(name, value) != value:
                raise ValueError(
                    f"the state was saved with {name} = {group[name]}, and {rule.name} has {name} = {value}: "
                    "make the rule with the saved value."
                )


def _check_nothing_is_lost(
    rule: Rule,
    names: Names,
    fixed: Mapping[str, bool | float],
    param_groups: Sequence[Mapping[str, Any]],
    saved_groups: Sequence[Mapping[str, Any]],
) -> None:
    """Numbers that this rule would never read are another rule's, unless somebody put such into our groups too."""
    known = _not_loaded(rule, fixed) | grouping.KEYS_OF_OTHERS | set(grouping.ARGUMENTS) | {k.name for k in names.keys}
    known |= {name for group in param_groups for name, value in group.items() if _says_something(value)}
    lost = {n: v for group in saved_groups for n, v in group.items() if n not in known and _says_something(v)}
    if not lost:
        return
    remedy = (
        "put coupled_weight_decay(weight_decay=...) before the rule in a chain, or take the namesake in "
        "trainfn_torch.optim, such as trainfn_torch.optim.Adam"
        if list(lost) == ["weight_decay"]
        else "make the rule that saved it, or take its namesake in trainfn_torch.optim"
    )
    raise ValueError(
        f"the state was saved with {', '.join(f'{n} = {v!r}' for n, v in lost.items())}, which {rule.name} has not and "
        f"would silently ignore: {remedy}. What is to be ignored, take out of the saved param_groups."
    )


def _says_something(value: Any) -> bool:
    """Whether a number, or one among several, is not off: 0, False."""
    if isinstance(value, tuple | list):
        return any(map(_says_something, value))
    if isinstance(value, torch.Tensor):
        return bool((value != 0).any())
    return isinstance(value, numbers.Real) and float(value) != 0


# -- who is who --------------------------------------------------------------------------------------------------------


def _match(
    rule: Rule,
    entries: Sequence[Entry],
    param_groups: Sequence[Mapping[str, Any]],
    saved_groups: Sequence[Mapping[str, Any]],
) -> list[Entry]:
    saved = [(i, key) for i, group in enumerate(saved_groups) for key in group["params"]]
    theirs = _saved_names(saved_groups)
    if theirs is not None and all("param_names" in g for g in param_groups):
        return _match_names(entries, dict(zip(theirs, saved, strict=True)))
    if len(saved) != len(entries):
        raise ValueError(
            f"the saved state is of {len(saved)} parameters and this optimizer of {rule.name} has {len(entries)}. "
            "With named parameters, Optimizer(model.named_parameters(), ...), the difference would be named."
        )
    if [len(g["params"]) for g in saved_groups] == [len(g["params"]) for g in param_groups]:
        by_group = {
            id(p): where for p, where in zip((p for g in param_groups for p in g["params"]), saved, strict=True)
        }
        return [_found(entry, by_group[id(entry.p)]) for entry in entries]
    return [_found(entry, where) for entry, where in zip(entries, saved, strict=True)]


def _found(entry: Entry, where: tuple[int, Any]) -> Entry:
    return Entry(entry.p, entry.leaf, entry.where, entry.group, *where)


def _saved_names(saved_groups: Sequence[Mapping[str, Any]]) -> list[str] | None:
    """The saved parameters' names, if every one has its own."""
    names: list[str] = []
    for group in saved_groups:
        if len(group.get("param_names", ())) != len(group["params"]):
            return None
        names += map(bare, group.get("param_names", ()))
    return names if len(set(names)) == len(names) else None


def bare(name: str) -> str:
    """A parameter's name without what wrappers put before it."""
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _match_names(entries: Sequence[Entry], saved: Mapping[str, tuple[int, Any]]) -> list[Entry]:
    ours = {bare(entry.leaf.name) for entry in entries}
    if ours != saved.keys():
        missing, unexpected = sorted(ours - saved.keys()), sorted(saved.keys() - ours)
        raise ValueError(
            "the saved state is of other parameters: "
            + "; ".join(
                f"{text} {', '.join(some[:8])}{' ...' if len(some) > 8 else ''}"
                for text, some in (("it lacks", missing), ("this optimizer lacks", unexpected))
                if some
            )
        )
    return [_found(entry, saved[bare(entry.leaf.name)]) for entry in entries]


def _refine(
    param_groups: Sequence[Mapping[str, Any]], entries: Sequence[Entry]
) -> list[tuple[int, int, list[torch.Tensor]]]:
    """Our groups, split where the saved ones are: number of ours, number of theirs, parameters."""
    saved_group = {id(entry.p): entry.saved_group for entry in entries}
    parts: dict[tuple[int, int], list[torch.Tensor]] = {}
    for mine, group in enumerate(param_groups):
        for p in group["params"]:
            parts.setdefault((mine, saved_group[id(p)]), []).append(p)
        if not group["params"]:
            parts[mine, min(mine, len(param_groups) - 1)] = []
    return [(mine, theirs, params) for (mine, theirs), params in parts.items()]


# -- groups ------------------------------------------------------------------------------------------------------------


def _group(
    rule: Rule,
    names: Names,
    group: Mapping[str, Any],
    own: Group,
    saved: Mapping[str, Any],
    params: list[torch.Tensor],
    same: bool,
    fixed: Mapping[str, bool | float],
) -> tuple[dict[str, Any], Group]:
    new = {**group, "params": params}
    if "param_names" in group:
        name_of = dict(zip(map(id, group["params"]), group["param_names"], strict=True))
        new["param_names"] = [name_of[id(p)] for p in params]
    not_loaded = _not_loaded(rule, fixed)
    by_key = {key.name: key for key in names.keys}
    for name, value in saved.items():
        if name in by_key:
            # Scheduled ones are written again once everything is loaded.
            if same or not any(is_leaf_function(rule.hyper[n]) for n in by_key[name].hyper):
                for hyper, number in grouping.unpack(rule, by_key[name], value).items():
                    grouping.one_number(rule, hyper, number)
                new[name] = deepcopy(value)
        elif name not in not_loaded:
            new[name] = deepcopy(value)
    # What an LRScheduler left in the saved groups goes: here the schedules own what it owned there.  What one of this
    # optimizer left stays, and is refused when it steps: Accelerate loads an optimizer's state into itself.
    for mark, written in grouping.MARKS_OF_SCHEDULERS.items():
        if mark not in group and own.schedules.keys() & set(written):
            new.pop(mark, None)
    return new, Group(dict(own.schedules))


def _not_loaded(rule: Rule, fixed: Mapping[str, bool | float]) -> set[str]:
    """Keys of a saved group that are no hyperparameters of ours."""
    options = {name for link in rule.own_links for name, _ in link.options}
    of_model = {f.name for f in rule.fields if f.is_of_model}
    return {*_FLAGS, *fixed, "params", "param_names", states.UPDATES, *of_model, *options}


def _shared(saved_groups: Sequence[Mapping[str, Any]], name: str) -> Any:
    """A number of the whole model, which every group holds; loaders that regroup may leave it in one."""
    return next((g[name] for g in saved_groups if name in g), None)


# -- state -------------------------------------------------------------------------------------------------------------


def _copy_state(rule: Rule, names: Names, values: Mapping[str, Any], p: torch.Tensor) -> dict[str, Any]:
    arrays = {names.state[f.name] for f in rule.fields if f.is_array}
    state = {"step": states.scalar(float(values.get("step", 1.0)), p)}  # torch's SGD keeps no count
    for name, value in values.items():
        if name != "step":
            state[name] = copy_array(value, p) if name in arrays else _copy_scalar(value, p)
    return state


def _copy_scalar(value: Any, p: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(value, dtype=torch.float32).to(plain(p).device, copy=True)


def copy_array(value: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """A saved tensor where, and laid out over devices as, the parameter is; of its own dtype."""
    if is_sharded(p) and not is_sharded(value):
        distribute: Callable[..., torch.Tensor] = torch.distributed.tensor.distribute_tensor
        return distribute(value.detach().to(plain(p).device), p.device_mesh, p.placements)  # type: ignore[attr-defined]
    if is_sharded(value) and not is_sharded(p):
        value = value.full_tensor()  # type: ignore[attr-defined]
    return value.detach().to(device=p.device, copy=True, memory_format=torch.preserve_format)
