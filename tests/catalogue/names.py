"""What other libraries' names are here: a rule or schedule of `trainfn`, and the drop-in of that name.

A drop-in is asked for the rule it makes of the other library's defaults; where those leave an argument open, it is
given an example.  Names that have no drop-in are those of the catalogue's rows.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from operator import attrgetter
from types import ModuleType
from typing import Any, NamedTuple

import optax  # type: ignore[import-untyped]
import pytorch_optimizer  # type: ignore[import-untyped]
import torch
from torch.optim import lr_scheduler

import trainfn as tf
import trainfn_jax
import trainfn_torch
from tests.catalogue import ROWS, SCHEDULES
from tests.catalogue.calls import call, call_of_schedule, spelt
from trainfn.rule import Definition
from trainfn.schedules import huggingface
from trainfn_jax.transform import found
from trainfn_jax.vocabulary import ABSENT

# Of optax's functions: what stands for an argument that has no default, and otherwise 1.
ARGUMENTS: Mapping[str, Any] = {
    "learning_rate": 1e-3,
    "decay": 0.9,
    "transition_steps": 100,
    "warmup_steps": 10,
    "decay_rate": 0.5,
    "init_value": 0.0,
    "every_k_schedule": 4,
    "sync_period": 5,
    "slow_step_size": 0.5,
    "max_consecutive_errors": 5,
    "adv_optimizer": trainfn_jax.chain(trainfn_jax.contrib.normalize(), trainfn_jax.sgd(0.05)),
    **dict.fromkeys(("opt", "inner", "optimizer", "fast_optimizer"), trainfn_jax.adamw(1e-3)),
    "base_optimizer": trainfn_jax.sgd(1e-3),
}

# Names whose meaning is no one rule, or that no row is compared with: what in `trainfn` does what they do.
WORDS: Mapping[str, tuple[str, ...]] = {
    "pytorch_optimizer.DAdaptAdam": ("dadapt_adamw",),
    "pytorch_optimizer.Ranger": ("lookahead", "radam", "centralize"),
    "pytorch_optimizer.SGDW": ("chain", "sgd", "decoupled_weight_decay"),
    "pytorch_optimizer.ScalableShampoo": ("grafted_shampoo",),
    "pytorch_optimizer.ScheduleFreeAdamW": ("schedule_free", "adamw"),
    "pytorch_optimizer.ScheduleFreeWrapper": ("schedule_free",),
    "pytorch_optimizer.SophiaH": ("sophia",),
    "torch.optim.swa_utils.SWALR": ("sequence", "linear", "cosine", "constant"),
    "optax.incremental_update": ("ema",),
    "torch.optim.lr_scheduler.ChainedScheduler": ("product",),
    "torch.optim.lr_scheduler.ConstantLR": ("piecewise_constant",),
    "torch.optim.lr_scheduler.LambdaLR": ("schedule",),
    "torch.optim.lr_scheduler.MultiplicativeLR": ("schedule",),
    "torch.optim.lr_scheduler.ReduceLROnPlateau": ("reduce_on_plateau",),
    "torch.optim.lr_scheduler.SequentialLR": ("sequence",),
    "torch.optim.swa_utils.AveragedModel": ("ema", "swa", "polyak_average"),
    "torch.nn.utils.clip_grad_norm_": ("clip_by_global_norm",),
    "torch.nn.utils.clip_grad_value_": ("clip_by_value",),
    "torch.amp.GradScaler": ("unscale",),
    "optax.chain": ("chain",),
    "optax.freeze": ("frozen",),
    "optax.join_schedules": ("sequence",),
    "optax.masked": ("by_leaf", "partition"),
    "optax.multi_transform": ("partition",),
    "optax.partition": ("partition",),
    "optax.selective_transform": ("partition", "frozen"),
    "optax.scale_by_learning_rate": ("scale",),
}

# How functions of a leaf in the drop-ins' rules are written.
FUNCTIONS: Mapping[str, str] = {"_is_matrix": "lambda leaf: leaf.ndim == 2"}
# `identity` is nothing at all, the other no transformation.
_NOT_RULES = ("identity", "schedule_free_eval_params")
_LONG = 160  # of arguments that are left out


class Entry(NamedTuple):
    """A name elsewhere, with arguments where they are what the calls say; calls, or names, that mean it in `trainfn`;
    the drop-in's name, "" if there is none.
    """

    name: str
    calls: tuple[str, ...]
    drop_in: str = ""


def of_torch() -> Iterator[Entry]:
    """Names of torch, in alphabetical order."""
    ours = {f"torch.optim.{n}": f"trainfn_torch.optim.{n}" for n in _public(trainfn_torch.optim, torch.optim)}
    for n in _public(trainfn_torch.lr_scheduler, lr_scheduler):
        if n != "LRScheduler":
            ours[f"torch.optim.lr_scheduler.{n}"] = f"trainfn_torch.lr_scheduler.{n}"
    rows = _of_schedules("torch", "torch.optim.lr_scheduler")
    for name in sorted({*ours, *(word for word in WORDS if word.startswith("torch."))}):
        drop_in = ours.get(name, "")
        if name in WORDS:
            yield Entry(name, WORDS[name], drop_in)
        elif name in rows:
            yield rows[name]._replace(drop_in=drop_in)
        else:
            yield Entry(name, (call(rule_of_class(drop_in)),), drop_in)


def rule_of_class(drop_in: str) -> tf.Rule:
    """What a class of trainfn_torch.optim makes of torch's defaults."""
    make = attrgetter(drop_in.removeprefix("trainfn_torch."))(trainfn_torch)
    rule: tf.Rule = make([torch.nn.Parameter(torch.ones(2, 2))]).rule
    return rule


def of_optax() -> Iterator[Entry]:
    """Names of optax, in alphabetical order, those of optax.contrib last."""
    rows = _of_schedules("optax", "optax")
    for ours, theirs in ((trainfn_jax, optax), (trainfn_jax.contrib, optax.contrib)):
        for short in sorted({*_public(ours, theirs)} - {*_NOT_RULES}, key=str.lower):
            name, drop_in = f"{theirs.__name__}.{short}", f"{ours.__name__}.{short}"
            if name in WORDS:
                yield Entry(name, WORDS[name], drop_in)
            elif name in rows:
                yield rows[name]._replace(drop_in=drop_in)
            else:
                yield Entry(name, (_call(made_by(drop_in)),), drop_in)


def _call(made: tf.Rule | tf.Schedule) -> str:
    text = call_of_schedule(made) if isinstance(made, tf.Schedule) else call(made)
    for name, written in FUNCTIONS.items():
        text = text.replace(name, written)
    return text


def made_by(drop_in: str) -> tf.Rule | tf.Schedule:
    """What a function of trainfn_jax makes of optax's defaults."""
    function = attrgetter(drop_in.removeprefix("trainfn_jax."))(trainfn_jax)
    required = (p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty)
    made = function(**{name: ARGUMENTS.get(name, 1.0) for name in required})
    if isinstance(made, tf.Schedule):
        return made
    own = found(made)
    assert own is not None, f"{drop_in} is no transformation of trainfn_jax"
    return own.rule


def of_peers() -> Iterator[Entry]:
    """Names of pytorch_optimizer, which have no drop-ins, in alphabetical order: of rows, and those alike.

    Where eps stands, before the bias is taken out or after it, is not carried over: there the call is the paper's.
    """
    compared: dict[str, list[Entry]] = {}
    for row in ROWS:
        if row.peer:
            hyper = {k: x for k, x in row.hyper.items() if not (isinstance(x, tf.Schedule) and not hasattr(tf, x.name))}
            entry = Entry(_with_arguments(f"{_PEERS}{row.peer.name}", row.peer.hyper), (call(row.make(**hyper)),))
            compared.setdefault(row.peer.name, []).append(entry)
    ours = {_plain(name): name for name in dir(tf) if isinstance(getattr(tf, name), Definition)}
    others = [n for n in dir(pytorch_optimizer) if n[0].isupper() and not hasattr(torch.optim, n)]
    alike = {n: ours[_plain(n)] for n in others if _plain(n) in ours}
    words = {n.removeprefix(_PEERS): calls for n, calls in WORDS.items() if n.startswith(_PEERS)}
    for name in sorted({*compared, *alike, *words}, key=str.lower):
        meant = words[name] if name in words else (alike.get(name, ""),)
        yield from compared.get(name, [Entry(f"{_PEERS}{name}", meant)])


_PEERS = "pytorch_optimizer."


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def absent() -> Iterator[Entry]:
    """Names that are not here, and what to use instead."""
    for module, table in (("torch.optim", trainfn_torch.optim.ABSENT), ("optax", ABSENT)):
        for name, instead in table.items():
            is_contrib = module == "optax" and not hasattr(optax, name)
            yield Entry(f"{module}{'.contrib' if is_contrib else ''}.{name}", (), instead)


def of_transformers() -> Iterator[Entry]:
    """The schedules that transformers.get_scheduler knows, in its order."""
    rows = {row.name.removeprefix("huggingface_"): row for row in SCHEDULES if row.name.startswith("huggingface_")}
    drop_in = "trainfn_torch.lr_scheduler.get_scheduler"
    for name in huggingface.SCHEDULES:
        yield Entry(f'transformers.get_scheduler("{name}")', (call_of_schedule(rows[name].schedule),), drop_in)
    for name, machine in huggingface.METRIC.items():
        yield Entry(f'transformers.get_scheduler("{name}")', (machine,), drop_in)


def _public(ours: ModuleType, theirs: ModuleType) -> list[str]:
    return [n for n in ours.__all__ if hasattr(theirs, n) and not inspect.ismodule(getattr(ours, n))]


def _of_schedules(library: str, prefix: str) -> dict[str, Entry]:
    """The first row that names each schedule of a library."""
    entries = {}
    for row in reversed(SCHEDULES):
        theirs = getattr(row, library)
        if theirs:
            name = f"{prefix}.{theirs[0]}"
            entries[name] = Entry(_with_arguments(name, theirs[1]), (call_of_schedule(row.schedule),))
    return entries


def _with_arguments(name: str, arguments: Mapping[str, Any]) -> str:
    text = ", ".join(f"{k}={spelt(x)}" for k, x in arguments.items())
    return f"{name}({text})" if len(text) < _LONG else f"{name}(...)"
