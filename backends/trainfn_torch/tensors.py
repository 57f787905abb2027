"""The plain strided tensor behind whatever a parameter or gradient is: complex, lazy, a shard, a subclass."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

_PLAIN = (torch.Tensor, torch.nn.Parameter)


def is_sharded(x: torch.Tensor) -> bool:
    """Whether x is a DTensor, one rank's part of a tensor over a mesh (FSDP2, tensor parallelism)."""
    module = sys.modules.get("torch.distributed.tensor")  # if nobody imported it, nobody made one
    return module is not None and isinstance(x, module.DTensor)


def is_plain(x: torch.Tensor) -> bool:
    """Whether x is torch's own kind of tensor and nothing derived from it."""
    return type(x) in _PLAIN


def has_numbers(x: torch.Tensor) -> bool:
    """Whether x is more than a shape, as tensors on the meta device and fake ones are not."""
    return x.device.type != "meta" and not isinstance(x, FakeTensor)


def real(x: torch.Tensor) -> torch.Tensor:
    """x itself, or a complex x as pairs of real numbers in the same memory; lazy conjugation and negation done."""
    if x.is_conj() or x.is_neg():
        x = x.resolve_conj().resolve_neg()
    return torch.view_as_real(x) if x.is_complex() else x


def plain(x: torch.Tensor) -> torch.Tensor:
    """The memory of x as an ordinary tensor: this rank's shard, and no Python subclass that only adds behaviour."""
    if is_plain(x):
        return x
    if is_sharded(x):
        local: torch.Tensor = x.to_local()  # type: ignore[attr-defined]
        return plain(local)
    if type(x).__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl:
        return x.as_subclass(torch.Tensor)
    return x


def placed_like(g: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """A sharded gradient laid out as its parameter is."""
    if not is_sharded(p):
        return g
    if not is_sharded(g):
        raise TypeError("a parameter is a DTensor and its gradient is none; give both the same device mesh.")
    if g.placements != p.placements:  # type: ignore[attr-defined]
        g = g.redistribute(p.device_mesh, p.placements)  # type: ignore[attr-defined]
    return g


def places(leaf: torch.Tensor) -> torch.Tensor:
    """For each element its place in C order; of a shard, in the whole tensor."""
    local = plain(leaf)
    if not is_sharded(leaf):
        return torch.arange(local.numel(), device=local.device).reshape(local.shape)
    place = torch.zeros(local.shape, dtype=torch.int64, device=local.device)
    stride = 1
    for axis, first in reversed(list(enumerate(_first_of_shard(leaf)))):
        along = (first + torch.arange(local.shape[axis], device=local.device)) * stride
        place += along.reshape(-1, *[1] * (local.ndim - 1 - axis))
        stride *= leaf.shape[axis]
    return place


def _first_of_shard(leaf: Any) -> list[int]:
    """The index of this rank's first element: DTensor cuts an axis as torch.chunk does, once for each mesh axis."""
    first, size = [0] * leaf.ndim, list(leaf.shape)
    for n, rank, placed in zip(leaf.device_mesh.shape, leaf.device_mesh.get_coordinate(), leaf.placements, strict=True):
        if not placed.is_replicate():
            axis = placed.dim % leaf.ndim if placed.is_shard() else None
            if axis is None or type(placed).__name__ != "Shard":
                raise TypeError(
                    f"which part of a DTensor a shard is, is known of Shard and Replicate, not of {placed}."
                )
            chunk = -(-size[axis] // n)
            begin = min(rank * chunk, size[axis])
            first[axis], size[axis] = first[axis] + begin, min(chunk, size[axis] - begin)
    return first


def is_overlapping(x: torch.Tensor) -> bool:
    """Whether several elements surely share memory, as after `expand`: such a tensor cannot be written."""
    if x.layout is not torch.strided or x.numel() == 0:
        return False
    return any(stride == 0 and size > 1 for size, stride in zip(x.shape, x.stride(), strict=True))


def reduce_over_mesh(op: str, part: Any, leaf: torch.Tensor) -> Any:
    """A reduction over a whole sharded leaf from this rank's part of it; sums are exact, so their order is free."""
    groups = _groups_of_shards(leaf)
    if not groups:
        return part
    number = torch.as_tensor(part, dtype=torch.float64, device=plain(leaf).device)
    is_sum = op.startswith("sum")
    message = number.reshape(1) if is_sum else _with_flag_of_nan(number)
    for group in groups:
        torch.distributed.all_reduce(message, _reduce_op(is_sum), group=group)
    result = message[0] if is_sum else torch.where(message[0] > 0, math.nan, message[1])
    return result if isinstance(part, torch.Tensor) else float(result)


def _with_flag_of_nan(number: torch.Tensor) -> torch.Tensor:
    """A maximum of collectives may lose a NaN, so that travels beside the number."""
    return torch.stack([number.isnan().to(number.dtype), torch.where(number.isnan(), -math.inf, number)])


def _reduce_op(is_sum: bool) -> Any:
    return torch.distributed.ReduceOp.SUM if is_sum else torch.distributed.ReduceOp.MAX


def _groups_of_shards(leaf: torch.Tensor) -> Sequence[Any]:
    if not is_sharded(leaf):
        return ()
    mesh = leaf.device_mesh  # type: ignore[attr-defined]
    return [mesh.get_group(i) for i, placed in enumerate(leaf.placements) if not placed.is_replicate()]  # type: ignore[attr-defined]
