"""Scalars in torch: float64 numbers on the host where they can be, 0-d float64 tensors where only a device knows them.

A number that the host has is computed as the reference computes it.  One that lives on an accelerator (a loss, a
scaler's verdict, a count behind skipped updates) stays there, and everything computed from it does: no step waits
for a device.  A whole curve of steps is a float64 tensor.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainfn import random, reference
from trainfn.interpret import Call, Table, evaluate_scalars, run
from trainfn.lowering import lower
from trainfn_torch.tensors import has_numbers, is_plain, is_sharded

if TYPE_CHECKING:
    from trainfn.program import Program
    from trainfn.schedules.schedule import Schedule

# Devices whose numbers the host may read at any time, or which have no float64.
_READ_BY_HOST = ("cpu", "mps")
_SMALLEST_SINGLE = 2.0**-126


def load(x: Any) -> Any:
    """A hyperparameter, count or state scalar as a Scalar: a float where the host may read it."""
    if not isinstance(x, torch.Tensor):
        return float(x)
    x = whole(x)
    if x.device.type in _READ_BY_HOST and has_numbers(x) and not torch.compiler.is_compiling():
        return float(x.item())
    return x.detach().reshape(()).to(torch.float64)


def whole(x: Any) -> Any:
    """A number as it is, and of a DTensor, as a loss over shards is, all of it rather than this rank's part."""
    return x.full_tensor() if isinstance(x, torch.Tensor) and is_sharded(x) else x  # type: ignore[attr-defined]


def is_host(x: Any) -> bool:
    return not isinstance(x, torch.Tensor)


def _exponent(x: torch.Tensor) -> torch.Tensor:
    return (((x.view(torch.int64) >> 52) & 0x7FF) - 1023).to(torch.float64)


def _pow2(k: torch.Tensor) -> torch.Tensor:
    whole = torch.where(k >= -1022.0, k, -1022.0).clamp(max=1023.0).to(torch.int64)
    return ((whole + 1023) << 52).view(torch.float64)


def _single(x: torch.Tensor) -> torch.Tensor:
    rounded = x.to(torch.float32).to(torch.float64)
    return torch.where(rounded.abs() < _SMALLEST_SINGLE, rounded * 0.0, rounded)


def _floor(x: torch.Tensor) -> torch.Tensor:
    return torch.floor(x) + 0.0  # of -0.0 it is 0.0, as in Python


def word(x: Any) -> Any:
    """The word that a Scalar counts as: of 64 bits on a device."""
    if is_host(x):
        return reference.word(x)
    return torch.where((x >= 0.0) & (x < 2.0**32), x, 0.0).to(torch.int64)


def _threefry(*words: torch.Tensor) -> list[torch.Tensor]:
    key_high, key_low, high, low = map(word, words)
    return [x.to(torch.float64) for x in random.threefry2x32((key_high, key_low), (high, low))]


def exact_sqrt(x: torch.Tensor) -> torch.Tensor:
    """The square root, correctly rounded, of scalars and arrays: on the CPU numpy's, because torch's is not."""
    memory = _memory(x) if x.device.type == "cpu" and is_plain(x) else None
    if memory is None:
        return torch.sqrt(x) if x.dtype == torch.float64 else torch.sqrt(x.to(torch.float64)).to(x.dtype)
    with np.errstate(invalid="ignore"):
        return torch.from_numpy(np.asarray(np.sqrt(memory)))


def _memory(x: torch.Tensor) -> np.ndarray[Any, Any] | None:
    """The tensor as numpy sees it; None where it stands for many, under vmap."""
    try:
        return x.detach().numpy()
    except RuntimeError:
        return None


def _where(condition: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.where(condition, x, y)


# Comparisons and logic, which are the same for scalars, arrays and lists of arrays.
CONDITIONS: Mapping[str, Callable[..., torch.Tensor]] = {
    "lt": torch.lt,
    "le": torch.le,
    "eq": torch.eq,
    "and": torch.logical_and,
    "or": torch.logical_or,
    "not": torch.logical_not,
}

_ON_DEVICE: Mapping[str, Callable[..., Any]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "sqrt": exact_sqrt,
    "neg": torch.neg,
    "abs": torch.abs,
    "floor": _floor,
    "exponent": _exponent,
    "pow2": _pow2,
    "single": _single,
    "threefry_0": lambda *words: _threefry(*words)[0],
    "threefry_1": lambda *words: _threefry(*words)[1],
    **CONDITIONS,
    "where": _where,
}


def _scalar(op: str) -> Callable[..., Any]:
    on_host, on_device = reference.SCALARS[op], _ON_DEVICE[op]

    def apply(*xs: Any) -> Any:
        device = next((x.device for x in xs if isinstance(x, torch.Tensor)), None)
        if device is None:
            return on_host(*xs)
        return on_device(*(on(device, x) for x in xs))

    return apply


def on(device: torch.device, x: Any) -> torch.Tensor:
    """A Scalar or flag as a 0-d tensor there: torch divides by a host's number through its reciprocal on CUDA."""
    if isinstance(x, torch.Tensor):
        return x.to(device, non_blocking=True)
    return torch.full((), x, dtype=torch.bool if isinstance(x, bool) else torch.float64, device=device)


def combine(op: str, parts: Sequence[Any]) -> Any:
    """A reduction over the model from its leaves' parts, whose sums are exact in any order."""
    if all(is_host(x) for x in parts):
        return functools.reduce(operator.add, parts) if op.startswith("sum") else _largest(parts)
    device = next(x.device for x in parts if isinstance(x, torch.Tensor))
    together = torch.stack([on(device, x) for x in parts])
    return together.sum() if op.startswith("sum") else together.amax()


def _largest(parts: Sequence[float]) -> float:
    return math.nan if any(x != x for x in parts) else max(parts)


def branch(flag: Any, compute: Callable[[], list[Any]], otherwise: list[Any], decomposes: bool) -> list[Any]:
    """A host's condition decides what is computed; for a device's nobody waits, but for one that would anyway."""
    if is_host(flag) or (decomposes and has_numbers(flag)):
        return compute() if flag else otherwise
    return [torch.where(on(y.device, flag), x, y) for x, y in zip(compute(), otherwise, strict=True)]


TABLE = Table({op: _scalar(op) for op in reference.SCALARS}, combine, float, branch)


def evaluate(program: Program, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate a program of scalars: to floats where the host has all inputs, else to 0-d tensors on the device."""
    return evaluate_scalars(lower(program), {name: load(x) for name, x in inputs.items()}, TABLE)


def evaluate_schedule(schedule: Schedule, step: torch.Tensor) -> torch.Tensor:
    """The schedule's value at a torch number or tensor of steps: float64 on the same device, the same bits as ever."""
    if step.is_complex() or step.dtype == torch.bool:
        raise TypeError(f"{schedule.name}: a step is a whole number, not {step.dtype}.")
    at = step.detach().to(torch.float64)
    inputs = {name: _parameter(x, at) for name, x in schedule.parameters.items()}
    value = run([Call(lower(schedule.program), {"step": at, **inputs})], TABLE)[0]["value"]
    return on(at.device, value).broadcast_to(at.shape).clone()


def _parameter(x: Any, like: torch.Tensor) -> Any:
    return x.detach().to(like.device, torch.float64) if isinstance(x, torch.Tensor) else float(x)
