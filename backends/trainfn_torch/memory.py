"""What kernels must know of tensors before they read and write their memory: kind, layout, place, and who shares it.

Kernels take plain tensors only: of type Tensor or Parameter, strided, without holes or overlaps, states laid out like
their parameter; and nothing that is written may be shared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainfn_torch.leaf import LeafUpdate
from trainfn_torch.tensors import is_plain

# The dtypes that kernels store, and what they are called there.
FORMAT_OF: Mapping[torch.dtype, str] = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}

Intervals = np.ndarray[Any, Any]  # [n, 2]: addresses of first byte and one past the last


class Refused(ValueError):
    """The kernels do not take a tensor of this step as it is stored; nothing has been written."""


def refusal(leaf: LeafUpdate, arrays: Iterable[str], scalars: Mapping[str, int]) -> str | None:
    """Why the kernels do not take a leaf; None if they do.

    arrays: names of the state's arrays; scalars: names and lengths of its other tensors.
    """
    p, g = leaf.p, leaf.g
    problem = _not_plain("the parameter", p) or _not_plain("the gradient", g, may_be_lazy=True)
    if problem is None and not _is_dense(p):
        problem = "the parameter has holes or overlaps itself"
    if problem is None and g.device != p.device:
        problem = f"the gradient is on {g.device}, the parameter on {p.device}"
    if problem is None and g.shape != p.shape:
        problem = f"the gradient's shape is {tuple(g.shape)}, the parameter's {tuple(p.shape)}"
    for name in arrays:
        problem = problem or _not_like(p, name, leaf.state[name])
    for name, size in scalars.items():
        problem = problem or not_scalar(p, name, leaf.state[name], size)
    return problem or not_scalar(p, "step", leaf.step, 1)


def _not_plain(what: str, x: Any, may_be_lazy: bool = False) -> str | None:
    if not is_plain(x):
        return f"{what} is a {type(x).__name__}"
    if x.layout is not torch.strided or x.dtype not in FORMAT_OF:
        return f"{what} is {x.dtype} in layout {x.layout}"
    if x.device.type not in ("cpu", "cuda"):
        return f"{what} is on {x.device}"
    if x.is_neg() and not may_be_lazy:
        return f"{what} is a lazy negation"
    return None


def _not_like(p: torch.Tensor, name: str, x: Any) -> str | None:
    problem = _not_plain(f"state {name}", x)
    if problem is None and (x.shape != p.shape or x.device != p.device or not _is_laid_out_like(x, p)):
        problem = f"state {name} is not laid out like the parameter"
    if problem is None and (x.dtype is torch.float64) != (p.dtype is torch.float64):
        problem = f"state {name} is {x.dtype}, the parameter {p.dtype}"
    return problem


def not_scalar(p: torch.Tensor, name: str, x: Any, size: int) -> str | None:
    """What is wrong with a tensor of `size` numbers that belongs to p."""
    problem = _not_plain(name, x)
    if problem is None and x.device != p.device:
        problem = f"{name} is on {x.device}, the parameter on {p.device}"
    if problem is None and (x.dtype is not torch.float32 or x.numel() != size or not x.is_contiguous()):
        problem = f"{name} is not {size} float32 number(s)"
    return problem


def _is_laid_out_like(x: torch.Tensor, p: torch.Tensor) -> bool:
    """Whether equal positions in memory are equal indices; the stride of a dimension of size 1 means nothing."""
    return all(n == 1 or a == b for n, a, b in zip(p.shape, x.stride(), p.stride(), strict=True)) or p.numel() == 0


def _is_dense(x: torch.Tensor) -> bool:
    """Whether each address between the first and the last element belongs to exactly one element."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size != 1:
            if stride != expected and x.numel() > 0:
                return False
            expected *= size
    return True


def must_be_copied(g: torch.Tensor, p: torch.Tensor) -> bool:
    """Whether a gradient has another layout than the parameter, or a dtype its leaf is not computed in."""
    return g.is_neg() or not _is_laid_out_like(g, p) or g.dtype is not readable(g, p)


def readable(g: torch.Tensor, p: torch.Tensor) -> torch.dtype:
    """The dtype a kernel reads a gradient in."""
    return torch.float32 if g.dtype is torch.float64 and p.dtype is not torch.float64 else g.dtype


def copied(g: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """A gradient as a kernel reads it: in the parameter's layout."""
    return torch.empty_strided(p.shape, p.stride(), dtype=readable(g, p), device=p.device).copy_(g)


# -- whether a tensor is what it was -----------------------------------------------------------------------------------


def metadata_check(tensors: list[torch.Tensor]) -> Callable[[list[torch.Tensor]], bool]:
    """A test whether other tensors have the type, dtype, device, shape, strides and lazy bits of these, in order."""
    try:
        from torch._C._dynamo.guards import TensorGuards  # in C++: 80 ns a tensor instead of a microsecond

        make: Any = TensorGuards
        sizes, strides = [list(x.shape) for x in tensors], [list(x.stride()) for x in tensors]
        guards = make(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)  # a None would match any
        if guards.check(*tensors):
            count = len(tensors)
            return lambda others: len(others) == count and bool(guards.check(*others))
    except (ImportError, TypeError, RuntimeError):
        pass
    tensors_metadata = [_metadata(x) for x in tensors]
    return lambda others: [_metadata(x) for x in others] == tensors_metadata


def _metadata(x: torch.Tensor) -> tuple[Any, ...]:
    return type(x), x.dtype, x.device, x.shape, x.stride(), x.layout, x.is_neg()


# -- who shares memory -------------------------------------------------------------------------------------------------


def apart(written: Sequence[Intervals]) -> Intervals:
    """Everything that is written, in order of address; raises unless all are apart."""
    intervals = _without_empty(written)
    intervals = intervals[np.argsort(intervals[:, 0])]
    if np.any(intervals[1:, 0] < intervals[:-1, 1]):
        raise Refused("two parameters or states share memory")
    return intervals


def check_read(read: Sequence[Intervals], written: Intervals) -> None:
    """Raise if a gradient shares memory with what is written, which is in order."""
    gradients = _without_empty(read)
    before = np.searchsorted(written[:, 1], gradients[:, 0], side="right")  # written intervals wholly before
    begins = np.append(written[:, 0], np.iinfo(np.uint64).max)
    if np.any(begins[before] < gradients[:, 1]):
        raise Refused("a gradient shares memory with a parameter or a state")


def _without_empty(intervals: Sequence[Intervals]) -> Intervals:
    joined = np.concatenate(list(intervals))
    return joined[joined[:, 0] < joined[:, 1]]
