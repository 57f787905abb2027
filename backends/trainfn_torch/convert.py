"""State that crosses: between torch.optim, `trainfn_torch.Optimizer` and, as a `Snapshot`, every other library.

    snapshot = convert.snapshot(torch_adamw, model.named_parameters())
    convert.load(trainfn_torch.Optimizer(model.named_parameters(), adamw(lr=1e-3)), snapshot)

torch.optim's words are those of `trainfn_torch.names`.  `trainfn.convert` says what may be done to a snapshot.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trainfn.convert import BFLOAT16, LeafState, NoPlace, Numbers, Place, Snapshot, differences, listed
from trainfn.rule import Field, Rule
from trainfn.trace import Leaf
from trainfn_torch import optim
from trainfn_torch import state as states
from trainfn_torch.checkpoint import bare, copy_array
from trainfn_torch.names import Names
from trainfn_torch.optimizer import Optimizer
from trainfn_torch.tensors import is_sharded, plain

NamedTensors = Iterable[tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class _Entry:
    """One parameter, its key in the `state` of a state_dict, and the number of its group."""

    name: str
    p: torch.Tensor
    key: Any
    group: int


# -- out of torch ------------------------------------------------------------------------------------------------------


def snapshot(
    source: torch.optim.Optimizer | Mapping[str, Any], names: NamedTensors | None = None, *, rule: Rule | None = None
) -> Snapshot:
    """What an optimizer remembers.

    source: an optimizer of torch.optim, a `trainfn_torch.Optimizer`, or what `state_dict()` of either returned.
    names: `model.named_parameters()`; not needed where the optimizer was given names itself.  For a state_dict without
        names they must stand in the order in which its optimizer was given the parameters, group by group.
    rule: whose state it is; needed for a state_dict, and for an optimizer that is neither torch's nor trainfn's.

    Whatever torch.optim calls by other words is translated; its SGD keeps no count of updates, so `step` is None there
    (`Snapshot.at`).  Nothing is shared with the optimizer.
    """
    if isinstance(source, Mapping):
        if not source.keys() >= {"state", "param_groups"} or not source["param_groups"]:
            raise ValueError("it is no state_dict of an optimizer: it lacks state or param_groups, or has no group.")
        if rule is None:
            raise TypeError("a state_dict does not say which rule saved it: give rule=, such as rule=adamw().")
        saved, entries, rules = source, _entries_of_saved(source, names), []
    else:
        rules = _rules_of(source, rule)
        rule = rule or rules[0]
        saved, entries = source.state_dict(), _entries(source, names)
    words = Names(rule)
    strange = saved["state"].keys() - {entry.key for entry in entries}
    if strange:
        raise ValueError(
            f"the state_dict has state of what is in none of its groups: {listed(sorted(strange, key=str))}."
        )
    leaves = {entry.name: _leaf(rule, words, entry, saved["state"].get(entry.key, {})) for entry in entries}
    first = saved["param_groups"][0]
    updates = _count(first[states.UPDATES], "the model") if states.UPDATES in first else _most(leaves)
    model = {f.name: _numbers(first[f.name]) for f in rule.fields if f.is_of_model and f.name in first}
    known = Snapshot(rule, updates, leaves, model)
    if rules:
        _check_groups(known, rules, entries)
    return known


def _check_groups(known: Snapshot, rules: Sequence[Rule], entries: Sequence[_Entry]) -> None:
    """That the state of each leaf is one of the rule that its parameter group has."""
    is_one = len({rule.structure for rule in rules}) == 1
    for entry in entries:
        try:
            known.check_leaf(entry.name, rules[entry.group])
        except ValueError as error:
            if is_one:
                raise
            raise ValueError(
                f"{error} It is in parameter group {entry.group}, and groups differ: what they keep is the state of a "
                "partition, so take the snapshot with rule=partition(...)."
            ) from None


def _leaf(rule: Rule, words: Names, entry: _Entry, saved: Mapping[str, Any]) -> LeafState:
    fields = {f.name: f for f in rule.fields_of(Leaf(entry.name, tuple(entry.p.shape))) if not f.is_of_model}
    values = {}
    for name, x in saved.items():
        if name != "step" and x is not None:
            own = words.field.get(name, "")
            if own not in fields:
                raise ValueError(
                    f"the state of {entry.name!r} holds {name}, which is nothing of {rule.name}: it is a state of "
                    "another rule, or of other options."
                )
            values[own] = _numbers(x) if fields[own].is_array else _numbers(x).astype(np.float32)
    is_untouched = bool(fields) and not values  # where there is nothing to remember, nobody knows
    step = _count(saved["step"], entry.name) if "step" in saved else 0 if is_untouched else None
    return LeafState(step, tuple(entry.p.shape), values)


def _most(leaves: Mapping[str, LeafState]) -> int | None:
    """The updates of the leaf that had most, which are the model's."""
    steps = [leaf.step for leaf in leaves.values()]
    known = [step for step in steps if step is not None]
    return max(known) if known and len(known) == len(steps) else None


def _count(x: Any, what: str) -> int:
    count = states.count_of(x, f"the count of updates of {what}")
    if not count.is_integer():
        raise ValueError(f"the count of updates of {what} is {count}, which is no whole number.")
    return int(count)


def _numbers(x: Any) -> Numbers:
    """A tensor's numbers in memory of their own, those of all shards."""
    if isinstance(x, torch.Tensor):
        x = x.full_tensor() if is_sharded(x) else x  # type: ignore[attr-defined]
        x = x.detach().cpu().resolve_conj().resolve_neg()
        if x.dtype == torch.bfloat16:
            bits: Numbers = x.contiguous().view(torch.int16).numpy().view(np.uint16)
            return bits.copy().view(BFLOAT16)
        x = x.numpy()
    return np.array(x)


def arrays(names: NamedTensors) -> dict[str, Numbers]:
    """Parameters, such as `model.named_parameters()`, as arrays by name: for `trainfn.convert.rearranged`."""
    return {bare(name): _numbers(p) for name, p in _pairs(names)}


# -- into torch --------------------------------------------------------------------------------------------------------


def load(optimizer: torch.optim.Optimizer, snapshot: Snapshot, names: NamedTensors | None = None) -> None:
    """Make an optimizer go on from a snapshot.

    optimizer: of torch.optim or of trainfn_torch, made for the same parameters; its groups' numbers, such as lr, stay.
    names: as for `snapshot`.

    trainfn's keeps the arrays' dtypes.  torch.optim's has state of the parameters' dtypes only, so others are refused
    there.  Leaves that were never updated get their state with their first update.  Nothing is changed on an error.
    """
    words = Names(snapshot.rule)
    entries = _entries(optimizer, names)
    ours = {entry.name for entry in entries}
    missing, unknown = sorted(ours - snapshot.leaves.keys()), sorted(snapshot.leaves.keys() - ours)
    if missing or unknown:
        raise ValueError(
            "the snapshot is of other parameters: "
            + differences("it lacks", missing, "the optimizer lacks", unknown)
            + " snapshot.renamed gives leaves other names."
        )
    if isinstance(optimizer, Optimizer):
        snapshot.check_rule(optimizer.rule)
    _check_groups(snapshot, _rules_of(optimizer, snapshot.rule), entries)
    saved, is_ours = optimizer.state_dict(), isinstance(optimizer, Optimizer)
    state = {**saved["state"]}
    for entry in entries:
        values = _state(snapshot, words, entry, is_ours)
        if values:
            state[entry.key] = values
        elif is_ours:
            state.pop(entry.key, None)
        elif float((state.get(entry.key) or {"step": 0.0}).get("step", 1.0)):  # Adagrad needs what it began with
            raise ValueError(
                f"leaf {entry.name!r} was never updated in the snapshot, and was by this optimizer: load into a "
                "new one."
            )
    groups = [{**group} for group in saved["param_groups"]]
    if is_ours:
        of_model = {k: torch.tensor(x) for k, x in snapshot.model.items()}
        groups = [{**group, states.UPDATES: _float(snapshot.count()), **of_model} for group in groups]
    optimizer.load_state_dict({**saved, "state": state, "param_groups": groups})


def _state(snapshot: Snapshot, words: Names, entry: _Entry, is_ours: bool) -> dict[str, torch.Tensor]:
    """The state of one parameter, by torch's words."""
    leaf, p = snapshot.leaves[entry.name], entry.p
    if leaf.shape != tuple(p.shape):
        raise ValueError(
            f"leaf {entry.name!r} has shape {leaf.shape} in the snapshot and {tuple(p.shape)} here: snapshot.renamed "
            "also transposes."
        )
    fields = snapshot.fields(entry.name)
    if (leaf.step == 0 and not is_ours) or (
        fields and not leaf.values
    ):  # theirs begins anew; ours may be between steps
        return {}
    state: dict[str, torch.Tensor] = {}
    if is_ours or words.counts:
        state["step"] = _float(snapshot.count() if leaf.step is None else leaf.step)
    for f in fields:
        state[words.state[f.name]] = _tensor(f, leaf.values[f.name], entry, is_ours)
    return state


def _tensor(f: Field, x: Numbers, entry: _Entry, is_ours: bool) -> torch.Tensor:
    p = entry.p
    if not f.is_array:
        return torch.tensor(x, device=plain(p).device)
    value = tensor(x)
    if value.dtype != p.dtype and not is_ours:
        raise TypeError(
            f"leaf {entry.name!r}: the state {f.name} is {value.dtype} and the parameter {p.dtype}, which torch.optim "
            "makes its state of, too: write snapshot.cast(...) if it may lose digits."
        )
    if value.shape != p.shape or is_sharded(p):
        return copy_array(value, p)
    like = torch.empty_like(p, dtype=value.dtype, requires_grad=False, memory_format=torch.preserve_format)
    return like.copy_(value)


def tensor(x: Numbers) -> torch.Tensor:
    """An array, such as `trainfn_jax.convert.arrays` gives, as a tensor with memory of its own."""
    if x.dtype == BFLOAT16:
        return torch.tensor(x.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(x)


def _float(step: int) -> torch.Tensor:
    """A count as torch keeps it, in a float of the default's precision, if that holds it."""
    dtype = torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
    x = torch.tensor(float(step), dtype=dtype, device="cpu")
    if int(x) != step:
        raise ValueError(f"torch counts updates in {dtype}, which does not hold {step}.")
    return x


# -- who is who --------------------------------------------------------------------------------------------------------


def _entries(optimizer: torch.optim.Optimizer, names: NamedTensors | None) -> list[_Entry]:
    """The parameters of an optimizer, in the order of its groups."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    own = _own_names(optimizer.param_groups)
    if names is not None:
        name_of = {id(p): name for name, p in _pairs(names)}
        nameless = [tuple(p.shape) for p in params if id(p) not in name_of]
        if nameless:
            raise ValueError(
                "these parameters of the optimizer are not among the names, which must come with the same tensors, as "
                f"from model.named_parameters(): some of shape {listed(nameless)}."
            )
        own = [name_of[id(p)] for p in params]
    return _zipped(own, params, range(len(params)), optimizer.param_groups)


def _entries_of_saved(saved: Mapping[str, Any], names: NamedTensors | None) -> list[_Entry]:
    groups = saved["param_groups"]
    keys = [key for group in groups for key in group["params"]]
    named = [(bare(name), p) for name, p in _pairs(() if names is None else names)]
    own = _own_names(groups)
    if own is None:
        return _zipped([name for name, _ in named] if named else None, [p for _, p in named], keys, groups)
    tensors = dict(named)
    missing = [name for name in map(bare, own) if name not in tensors]
    if missing:
        raise ValueError(f"the state_dict is of {listed(missing)}, too: give names=model.named_parameters().")
    return _zipped(own, [tensors[bare(name)] for name in own], keys, groups)


def _pairs(names: Any) -> list[tuple[str, torch.Tensor]]:
    """Names and tensors as they were given, after a look at whether they are that."""
    pairs = list(names) if isinstance(names, Iterable) and not isinstance(names, str | Mapping) else [names]
    for pair in pairs:
        is_one = isinstance(pair, tuple | list) and len(pair) == 2
        if not (is_one and isinstance(pair[0], str) and isinstance(pair[1], torch.Tensor)):
            raise TypeError(
                f"names are pairs of a name and a tensor, such as model.named_parameters(), not {_spelt(pair)}."
            )
    return pairs


def _spelt(x: Any) -> str:
    return f"a {type(x).__name__} of shape {tuple(x.shape)}" if isinstance(x, torch.Tensor) else f"{x!r:.80}"


def _own_names(groups: Sequence[Mapping[str, Any]]) -> list[str] | None:
    if not all("param_names" in group for group in groups):
        return None
    return [name for group in groups for name in group["param_names"]]


def _zipped(
    names: Sequence[str] | None,
    params: Sequence[torch.Tensor],
    keys: Sequence[Any],
    groups: Sequence[Mapping[str, Any]],
) -> list[_Entry]:
    if names is None:
        raise ValueError("the parameters have no names by which to convert: give names=model.named_parameters().")
    if not len(names) == len(params) == len(keys):
        raise ValueError(
            f"the state is of {len(keys)} parameters and {len(names)} names were given: give those of the optimizer's "
            "parameters, in its order."
        )
    numbers = [k for k, group in enumerate(groups) for _ in group["params"]]
    entries = [_Entry(bare(name), *rest) for name, *rest in zip(names, params, keys, numbers, strict=True)]
    twice = [name for name, times in Counter(entry.name for entry in entries).items() if times > 1]
    if twice:
        raise ValueError(f"several parameters are called {listed(twice)}.")
    return entries


def _rules_of(optimizer: torch.optim.Optimizer, otherwise: Rule | None = None) -> list[Rule]:
    """The rule of each group: that of trainfn's optimizer, or what torch.optim's namesake here makes of the group."""
    groups = optimizer.param_groups
    if isinstance(optimizer, Optimizer):
        return [optimizer.rule for _ in groups]
    bases = [base for base in type(optimizer).__mro__ if f"{base.__module__}.".startswith("torch.optim.")]
    namesake = getattr(optim, bases[0].__name__, Optimizer) if bases else Optimizer
    if namesake is not Optimizer:
        some: list[Any] = next((group["params"][:1] for group in groups if group["params"]), [])  # as the class takes
        return [_rule_of_group(namesake, {**group, "params": group["params"][:1] or some}) for group in groups]
    if otherwise is None:
        raise TypeError(
            f"no rule of trainfn is known to be {type(optimizer).__name__}: give the one that keeps the same state, "
            "rule=..."
        )
    return [otherwise for _ in groups]


def _rule_of_group(namesake: Any, group: Mapping[str, Any]) -> Rule:
    made: Optimizer = namesake(**{k: group[k] for k in inspect.signature(namesake).parameters if k in group})
    return made.rule


# -- torch and flax ----------------------------------------------------------------------------------------------------


_NORM: Mapping[str, Place] = {"weight": "scale", "bias": "bias"}

# What flax calls the parameters of torch's modules, and how it lays them out.
_FLAX: Sequence[tuple[Any, Mapping[str, Place]]] = (
    (nn.Linear, {"weight": ("kernel", (1, 0)), "bias": "bias"}),
    ((nn.Conv1d, nn.ConvTranspose1d), {"weight": ("kernel", (2, 1, 0)), "bias": "bias"}),
    ((nn.Conv2d, nn.ConvTranspose2d), {"weight": ("kernel", (2, 3, 1, 0)), "bias": "bias"}),
    ((nn.Conv3d, nn.ConvTranspose3d), {"weight": ("kernel", (2, 3, 4, 1, 0)), "bias": "bias"}),
    (nn.Embedding, {"weight": "embedding"}),
    ((nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm), _NORM),
)


def _why_not(module: nn.Module) -> str:
    """Why flax has nothing that is a module's parameters under other names and with other axes; "" if it may have."""
    if isinstance(module, nn.MultiheadAttention):
        return (
            "is torch's MultiheadAttention, of which flax keeps query, key and value apart, each with an axis of "
            "heads. Use dense projections on both sides, or say in the layout where a flax layer packed likewise has "
            "this."
        )
    if isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups > 1:
        return f"is a transposed convolution in {module.groups} groups, which flax does not have."
    return ""


def _with_slashes(module: str) -> str:
    return module.replace(".", "/")


def flax_layout(model: nn.Module, path: Callable[[str], str] = _with_slashes) -> dict[str, Place]:
    """What a flax model calls a torch model's parameters, and how it lays them out: a layout for `Snapshot.renamed`.

    path: the name of a module in flax, given its name in torch; `layers/0` for `layers.0` unless it says otherwise,
        as nnx does.

    Dense layers, convolutions (HWIO), transposed ones (flax's with `transpose_kernel=True`), embeddings and
    normalisations are known.  The rest is missing; add it, `flax_layout(model) | {"pos": "pos_embedding"}`, and what
    was forgotten is listed when the layout is used.  So is what no layout can say, unless another place is put in its
    stead: attention, of which torch packs into one array what flax keeps apart, and transposed convolutions in groups.
    """
    strange = {name: why for name, module in model.named_modules() if (why := _why_not(module))}
    layout: dict[str, Place] = {}
    for name, _ in model.named_parameters():
        within = next((layer for layer in strange if name.startswith(f"{layer}." if layer else "")), None)
        if within is not None:
            layout[bare(name)] = NoPlace(f"the layer {bare(within) or 'model'!r} {strange[within]}")
            continue
        module, _, own = name.rpartition(".")
        words = next((words for kind, words in _FLAX if isinstance(model.get_submodule(module), kind)), {})
        if own in words:
            inside = path(bare(module))
            place: Any = words[own]
            new = "/".join(filter(None, (inside, place if isinstance(place, str) else place[0])))
            layout[bare(name)] = new if isinstance(place, str) else (new, place[1])
    return layout
