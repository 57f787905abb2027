"""One tensor at a time: the execution that takes everything, and in torch the plainest to read.

Each operation of the program is an operation of torch on one leaf, rounded on its own and flushed as the reference
flushes: the result has the reference's bits, subnormal numbers included.  Sharded tensors (DTensor) are computed
shard by shard, their reductions summed over the mesh.

It costs what exactness costs where torch does not offer it: products and quotients go through float64, because
whether a result is flushed depends on the exact product; square roots on the CPU are numpy's, because torch's are off
by one unit in the last place in one of six cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial, reduce
from typing import Any, cast

import torch

from trainfn import random, reference
from trainfn.elementary import grids, slices
from trainfn.interpret import Call, SharedScalars, run
from trainfn.lowering import lower
from trainfn.program import Program, Sort
from trainfn.reference import FLUSHED_BELOW
from trainfn_torch.leaf import Batch, LeafUpdate
from trainfn_torch.scalars import CONDITIONS, TABLE, exact_sqrt, is_host, load, on, word
from trainfn_torch.tensors import has_numbers, places, plain, reduce_over_mesh


def accepts(leaf: LeafUpdate) -> bool:
    """Everything."""
    return True


@lru_cache(maxsize=4096)
def lowered(program: Program, outputs: tuple[str, ...]) -> Program:
    """The part of a program that computes these outputs, in primitives."""
    return lower(program.keep(outputs))


def call(leaf: LeafUpdate, total: float, outputs: Sequence[str]) -> Call:
    """What computes these outputs of a leaf, in a model of so many elements."""
    program = lowered(leaf.program, tuple(outputs))
    p = plain(leaf.p)
    stored = {"p": leaf.p, "g": leaf.g, **{f"state.{k}": x for k, x in array_state(leaf).items()}}
    read = {name: widen(plain(stored[name]), like=p) for name in program.inputs(Sort.ARRAY)}
    return Call(program, {**read, **scalar_inputs(leaf, total)}, arrays(leaf.p))


@torch.no_grad()
def step(
    batch: Batch, updates: torch.Tensor | None, call: Callable[[LeafUpdate, float, Sequence[str]], Call] = call
) -> bool | torch.Tensor:
    """Carry out an update of these leaves in place; returns whether it was applied."""
    leaves = batch.leaves
    total = float(sum(leaf.p.numel() for leaf in leaves))
    applied, counted = (
        holds(flag, leaves[0], lambda name: [call(leaf, total, (name,)) for leaf in leaves])
        for flag in ("applied", "counted")
    )
    if applied is False:
        return False
    together = [leaves] if any(leaf.is_coupled for leaf in leaves) else [[leaf] for leaf in leaves]
    scalars = SharedScalars(TABLE)
    for some in together:
        results = run([call(leaf, total, written(leaf)) for leaf in some], TABLE, scalars)
        for leaf, result in zip(some, results, strict=True):
            _store(leaf, result, applied)
    count([*(leaf.step for leaf in leaves), *([] if updates is None else [updates])], both(applied, counted))
    return bool(applied) if is_host(applied) else cast(torch.Tensor, applied)


# -- what executions share ---------------------------------------------------------------------------------------------


def written(leaf: LeafUpdate) -> tuple[str, ...]:
    """The outputs an update stores."""
    return tuple(name for name in leaf.program.output if name not in ("update", "applied", "counted"))


def array_state(leaf: LeafUpdate) -> dict[str, torch.Tensor]:
    return {k: x for k, x in leaf.state.items() if leaf.is_array(k)}


def scalar_inputs(leaf: LeafUpdate, total: float) -> dict[str, Any]:
    """The leaf's Scalars by the program's names."""
    inputs = {name: load(x) for name, x in leaf.hyper.items()}
    for name, x in leaf.state.items():
        if not leaf.is_array(name):
            pair = x.numel() == 2
            inputs |= (
                {f"state.{name}.high": load(x[0]), f"state.{name}.low": load(x[1])}
                if pair
                else {f"state.{name}": load(x)}
            )
    return {**inputs, "step": load(leaf.step), "count.leaf": float(leaf.p.numel()), "count.global": total}


def holds(flag: str, leaf: LeafUpdate, calls: Callable[[str], Sequence[Call]]) -> Any:
    """Whether the update is `applied`, or `counted`: a bool, or a 0-d tensor where only a device knows."""
    if flag not in leaf.program.output:
        return True
    result = reduce(both, [outputs[flag] for outputs in run(calls(flag), TABLE)])
    is_unknown = isinstance(result, torch.Tensor) and not has_numbers(result)
    return True if is_unknown else result  # tensors that are shapes only are updated for their shapes


def both(a: Any, b: Any) -> Any:
    """Whether two flags hold, each a bool or a 0-d tensor."""
    return TABLE.scalars["and"](a, b)


def count(counters: Sequence[torch.Tensor], applied: Any) -> None:
    """Advance counters by an update that is applied."""
    if applied is True:
        torch._foreach_add_(list(counters), 1)
    elif applied is not False:
        for counter in counters:
            counter.add_(on(counter.device, applied))


def store(old: torch.Tensor, new: Any, applied: Any) -> None:
    """Write a result into memory, rounded to its dtype, unless the update is skipped."""
    value = new if isinstance(new, torch.Tensor) else torch.full((), new, dtype=old.dtype, device=old.device)
    if applied is not True:
        value = torch.where(on(old.device, applied), value.to(old), old)
    old.copy_(value.expand(old.shape))


def store_scalars(leaf: LeafUpdate, result: Mapping[str, Any], applied: Any) -> None:
    for name, old in leaf.state.items():
        if not leaf.is_array(name):
            if old.numel() == 2:
                store(old[0], result[f"state.{name}.high"], applied)
                store(old[1], result[f"state.{name}.low"], applied)
            else:
                store(old.reshape(()), result[f"state.{name}"], applied)


def _store(leaf: LeafUpdate, result: Mapping[str, Any], applied: Any) -> None:
    store(plain(leaf.p), result["p"], applied)
    for name, old in array_state(leaf).items():
        store(plain(old), result[f"state.{name}"], applied)
    store_scalars(leaf, result, applied)


# -- arithmetic on one tensor ------------------------------------------------------------------------------------------


def compute_dtype(storage: torch.dtype) -> torch.dtype:
    """The dtype arithmetic happens in for a leaf stored as `storage`."""
    return torch.float64 if storage == torch.float64 else torch.float32


def widen(x: torch.Tensor, like: torch.Tensor | None = None) -> torch.Tensor:
    """A tensor as a program reads it: in the dtype of the leaf's arithmetic, subnormal numbers flushed."""
    return flush(x.to(compute_dtype((x if like is None else like).dtype)))


def flush(x: torch.Tensor) -> torch.Tensor:
    """Subnormal numbers become zero of their sign."""
    return torch.where(x.abs() < torch.finfo(x.dtype).smallest_normal, x * 0.0, x)


def _rounded_once(operation: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def apply(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float64:
            return flush(operation(x, y))
        wide = operation(x.to(torch.float64), y.to(torch.float64))
        narrow = wide.to(torch.float32)
        return torch.where(wide.abs() < FLUSHED_BELOW, narrow * 0.0, narrow)

    return apply


def _products(*factors: torch.Tensor) -> torch.Tensor:
    wide = [f.to(torch.float64) for f in factors]
    return wide[0] if len(wide) == 1 else wide[0] * wide[1]


def _max(*xs: torch.Tensor) -> torch.Tensor:
    wide = xs[0].to(torch.float64)
    return wide.amax() if wide.numel() else wide.new_full((), -math.inf)


def _max_abs(*xs: torch.Tensor) -> torch.Tensor:
    wide = _products(*xs).abs()
    return wide.amax() if wide.numel() else wide.new_zeros(())


def _coarse(coarse: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x + coarse) - coarse


def _sum_coarse(coarse: Any, *xs: torch.Tensor) -> torch.Tensor:
    return _coarse(on(xs[0].device, coarse), _products(*xs)).sum()


def _sum_fine(coarse: Any, fine: Any, *xs: torch.Tensor) -> torch.Tensor:
    x = _products(*xs)
    rest = x - _coarse(on(x.device, coarse), x)
    return _coarse(on(x.device, fine), rest).sum()


REDUCTIONS: Mapping[str, Callable[..., torch.Tensor]] = {
    "max": _max,
    "max_abs": _max_abs,
    "sum_coarse": _sum_coarse,
    "sum_fine": _sum_fine,
}


def reduction(op: str, leaf: torch.Tensor, *operands: Any) -> Any:
    """A reduction over one leaf, all its shards."""
    return reduce_over_mesh(op, load(REDUCTIONS[op](*operands)), leaf)


def _axis_sum(axis: int, x: torch.Tensor) -> torch.Tensor:
    """Sums along an axis, exact like those over leaves, with grids for each."""
    wide = x.to(torch.float64)
    largest = _largest(axis, wide)
    count = torch.full_like(largest, x.shape[axis])
    coarse, fine = run([Call(grids(), {"largest": largest, "count": count})], TABLE)[0].values()
    high = _coarse(coarse, wide)
    sums = high.sum(axis, keepdim=True) + _coarse(fine, wide - high).sum(axis, keepdim=True)
    return flush(torch.where(largest < math.inf, sums, largest).to(x.dtype))


def _axis_max(axis: int, x: torch.Tensor) -> torch.Tensor:
    if not x.shape[axis]:
        return x.sum(axis, keepdim=True) - math.inf
    return x.amax(axis, keepdim=True) + 0.0  # of -0.0 it is 0.0


def draw(which: int, leaf: torch.Tensor, *words: Any) -> torch.Tensor:
    """A random whole number below 2**24 for each element of a leaf, in the dtype of its arithmetic."""
    key_high, key_low, stream = (word(x if is_host(x) else on(plain(leaf).device, x)) for x in words)
    drawn = random.threefry2x32((key_high, key_low), random.place(places(leaf), stream))[which]
    return cast(torch.Tensor, random.upper_bits(drawn).to(compute_dtype(leaf.dtype)))


def _matmul(is_highest: bool, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The matrix product in exact parts: of the first alone, or of all but the smallest; zeros are +0."""
    if x.dtype == torch.float64:
        return flush(torch.matmul(x, y))
    (a, a_rest), (b, b_rest) = _slices(-1, x), _slices(-2, y)
    high = a @ b
    product = flush((high + (a @ b_rest + a_rest @ b) if is_highest else high).to(x.dtype))
    return torch.where(product == 0, 0.0, product)


def _by_numpy(operation: Callable[[Any], Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A decomposition by the reference: LAPACK's, which on a device would wait for the host as well."""

    def apply(x: torch.Tensor) -> torch.Tensor:
        if not has_numbers(x):
            return torch.empty_like(x)
        return torch.from_numpy(operation(x.cpu().numpy())).to(x.device)

    return apply


def _slices(axis: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    wide = x.to(torch.float64)
    largest = _largest(axis, wide)
    coarse, fine = slices(x.shape[axis])
    high = _coarse(coarse * largest, wide)
    return high, _coarse(fine * largest, wide - high)


def _largest(axis: int, wide: torch.Tensor) -> torch.Tensor:
    return wide.abs().amax(axis, keepdim=True) if wide.shape[axis] else wide.sum(axis, keepdim=True)


_ELEMENTWISE: Mapping[str, Callable[..., torch.Tensor]] = {
    "axis_sum": _axis_sum,
    "axis_max": _axis_max,
    "matmul": partial(_matmul, True),
    "matmul_high": partial(_matmul, False),
    "matmul_fast": lambda x, y: flush(torch.matmul(x, y)),
    "eigenvectors": _by_numpy(reference.eigenvectors),
    "orthogonal": _by_numpy(reference.orthogonal),
    "transpose": lambda x: x.mT,
    "reshape": lambda shape, x: x.reshape(shape),
    "leading": lambda n, x: x[..., :n],
    "add": lambda x, y: flush(torch.add(x, y)),
    "sub": lambda x, y: flush(torch.sub(x, y)),
    "mul": _rounded_once(torch.mul),
    "div": _rounded_once(torch.div),
    "sqrt": exact_sqrt,
    "neg": torch.neg,
    "abs": torch.abs,
    **CONDITIONS,
    "where": torch.where,
}


def arrays(leaf: torch.Tensor) -> dict[str, Callable[..., Any]]:
    """How torch computes a program's operations on one leaf."""
    p = plain(leaf)
    compute = compute_dtype(p.dtype)

    def meet(x: Any) -> torch.Tensor:
        scalar = on(p.device, x)
        return scalar if scalar.dtype == torch.bool else flush(scalar.to(compute))

    def stored(x: torch.Tensor) -> torch.Tensor:
        return x.to(p.dtype).to(compute)

    def fill(x: Any) -> torch.Tensor:
        return meet(x).expand(p.shape)

    def identity(shape: tuple[int, int]) -> torch.Tensor:
        return torch.eye(*shape, dtype=compute, device=p.device)

    made: dict[str, Callable[..., Any]] = {"meet": meet, "stored": stored, "rounded": stored}
    made |= {"fill": fill, "identity": identity}
    reductions = {op: partial(reduction, op, leaf) for op in REDUCTIONS}
    draws = {f"random_{i}": partial(draw, i, leaf) for i in range(2)}
    return {**_ELEMENTWISE, **reductions, **draws, **made}
