"""Many tensors at a time, over torch's `_foreach_` functions: fewer calls, and on accelerators fewer launches.

Leaves of one program with equal numbers go through it side by side, every operation on the whole list.  Only those
`_foreach_` functions are used that round once for each operation of the rule (no addcmul, lerp or alpha, no division by
a number); comparison and selection, which have none, go tensor by tensor.

The result has the reference's bits, but for one thing: numbers below the smallest normal one are left as they are,
where the reference flushes them to zero.  Flushing would take four more passes over memory for each operation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, cast

import torch

from trainfn import reference
from trainfn.interpret import Call, run
from trainfn.lowering import lower
from trainfn.program import Program, Sort
from trainfn_torch.leaf import Batch, LeafUpdate
from trainfn_torch.scalars import CONDITIONS, TABLE, combine, exact_sqrt, is_host, load, on
from trainfn_torch.single import (
    REDUCTIONS,
    array_state,
    both,
    compute_dtype,
    count,
    flush,
    holds,
    scalar_inputs,
    store,
    store_scalars,
    written,
)
from trainfn_torch.tensors import is_plain


def accepts(leaf: LeafUpdate) -> bool:
    """Native dense tensors whose elements are computed one by one."""
    if not leaf.program.is_elementwise:
        return False
    tensors = [leaf.p, *leaf.state.values()]
    return all(is_plain(x) and x.layout is torch.strided for x in tensors)


@torch.no_grad()
def step(batch: Batch, updates: torch.Tensor | None) -> bool | torch.Tensor:
    """Carry out an update of these leaves in place; returns whether it was applied."""
    leaves = batch.leaves
    total = float(sum(leaf.p.numel() for leaf in leaves))
    bundles = _bundles(leaves)
    applied, counted = (
        holds(flag, leaves[0], lambda name: [_call(bundle, total, (name,)) for bundle in bundles])
        for flag in ("applied", "counted")
    )
    if applied is False:
        return False
    together = [bundles] if any(leaf.is_coupled for leaf in leaves) else [[bundle] for bundle in bundles]
    for some in together:
        results = run([_call(bundle, total, written(bundle[0])) for bundle in some], TABLE)
        for bundle, result in zip(some, results, strict=True):
            _store(bundle, result, applied)
    count([*(leaf.step for leaf in leaves), *([] if updates is None else [updates])], both(applied, counted))
    return bool(applied) if is_host(applied) else cast(torch.Tensor, applied)


def _bundles(leaves: Sequence[LeafUpdate]) -> list[list[LeafUpdate]]:
    """Leaves that one pass can take together: one program, equal scalars, one dtype and device."""
    bundles: dict[Any, list[LeafUpdate]] = {}
    for i, leaf in enumerate(leaves):
        own = i if _has_numbers_of_leaf(leaf.program, frozenset(leaf.model)) else None
        step = load(leaf.step)
        age = step if is_host(step) else leaf.age
        key = (id(leaf.program), id(leaf.hyper), age, leaf.p.dtype, leaf.p.device, own)
        bundles.setdefault(key, []).append(leaf)
    return list(bundles.values())


@lru_cache(maxsize=4096)
def _has_numbers_of_leaf(program: Program, model: frozenset[str]) -> bool:
    """Whether scalars may differ between leaves that share hyperparameters and step."""
    of_leaf = any(node.is_reduction and node.static == "leaf" for node in program.nodes)
    scalars = [
        name for name, i in program.outputs if name.startswith("state.") and not program.nodes[i].sort.is_elementwise
    ]
    return of_leaf or any(
        name.split(".", 1)[1].removesuffix(".high").removesuffix(".low") not in model for name in scalars
    )


def _call(bundle: Sequence[LeafUpdate], total: float, outputs: Sequence[str]) -> Call:
    first = bundle[0]
    program = lower(first.program.keep(outputs))
    compute = compute_dtype(first.p.dtype)
    stored = {**_stored(bundle), "g": [leaf.g for leaf in bundle]}
    read = {name: [x.to(compute) for x in stored[name]] for name in program.inputs(Sort.ARRAY)}
    return Call(program, {**read, **scalar_inputs(first, total)}, _arrays(bundle))


def _store(bundle: Sequence[LeafUpdate], result: Mapping[str, Any], applied: Any) -> None:
    old = _stored(bundle)
    # A result may be a tensor that was read, as where a state keeps the last `p`, and is about to be written.
    kept = {id(x) for xs in old.values() for x in xs}
    new = {name: [y.clone() if id(y) in kept else y for y in result[name]] for name in old}
    for name, xs in old.items():
        _copy(xs, new[name], applied)
    store_scalars(bundle[0], result, applied)  # what several leaves share is the model's


def _stored(bundle: Sequence[LeafUpdate]) -> dict[str, list[torch.Tensor]]:
    """The arrays that an update writes."""
    states = {f"state.{k}": [leaf.state[k] for leaf in bundle] for k in array_state(bundle[0])}
    return {"p": [leaf.p for leaf in bundle], **states}


def _copy(old: Sequence[torch.Tensor], new: Sequence[torch.Tensor], applied: Any) -> None:
    if applied is True:
        torch._foreach_copy_(list(old), list(new))
    else:
        for before, after in zip(old, new, strict=True):
            store(before, after, applied)


# -- arithmetic on lists -----------------------------------------------------------------------------------------------
# A value is a list with a tensor for each leaf.  Only a `meet` is one number for all: a float that the leaves' dtype
# holds exactly, a bool, or a 0-d tensor on their device.


def _is_list(x: Any) -> bool:
    return isinstance(x, list | tuple)


def _each(operation: Callable[..., torch.Tensor], compute: torch.dtype, *xs: Any) -> Any:
    """Tensor by tensor."""
    like = next(x for x in xs if _is_list(x))
    columns = [x if _is_list(x) else [_tensor(x, compute, like[0].device)] * len(like) for x in xs]
    return [operation(*row) for row in zip(*columns, strict=True)]


def _tensor(x: Any, compute: torch.dtype, device: torch.device) -> torch.Tensor:
    scalar = on(device, x)
    return scalar if scalar.dtype == torch.bool else scalar.to(compute)


def _commutative(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda x, y: operation(x, y) if _is_list(x) else operation(y, x)


def _sub(x: Any, y: Any) -> Any:
    if _is_list(x) and (_is_list(y) or is_host(y)):
        return torch._foreach_sub(x, y)
    if _is_list(x):
        return [a - y for a in x]
    return torch._foreach_add(torch._foreach_neg(y), x)  # x - y is -y + x, signs of zeros included


def _div(compute: torch.dtype, x: Any, y: Any) -> Any:
    return torch._foreach_div(x, y) if _is_list(x) and _is_list(y) else _each(torch.div, compute, x, y)


def _where(compute: torch.dtype, condition: Any, x: Any, y: Any) -> Any:
    """A flag that the host has chooses one side as it is, which may be a number."""
    return (x if condition else y) if isinstance(condition, bool) else _each(torch.where, compute, condition, x, y)


def _sqrt(xs: list[torch.Tensor]) -> Any:
    return torch._foreach_sqrt(xs) if xs[0].device.type == "cuda" else [exact_sqrt(x) for x in xs]


def _arrays(bundle: Sequence[LeafUpdate]) -> dict[str, Callable[..., Any]]:
    """How torch computes a program's operations on these leaves."""
    storage, device = bundle[0].p.dtype, bundle[0].p.device
    compute = compute_dtype(storage)

    def meet(x: Any) -> Any:
        if isinstance(x, bool) or getattr(x, "dtype", None) == torch.bool:
            return x if is_host(x) else on(device, x)
        if is_host(x):
            return x if compute == torch.float64 else reference.SCALARS["single"](x)
        return flush(on(device, x).to(compute))

    def fill(x: Any) -> list[torch.Tensor]:
        value = _tensor(meet(x), compute, device)
        return [value.expand(leaf.p.shape) for leaf in bundle]

    def of_lists(operation: Callable[..., Any]) -> Callable[..., Any]:
        """The operation for any operands: at least one list goes in, and a list comes out."""

        def apply(x: Any, *others: Any) -> Any:
            first = x if _is_list(x) or any(map(_is_list, others)) else fill(x)
            result = operation(first, *others)
            return result if _is_list(result) else fill(result)

        return apply

    def stored(xs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return xs if storage == compute else [x.to(storage).to(compute) for x in xs]

    def reduction(op: str, *operands: Any) -> Any:
        numbers = [x for x in operands if not _is_list(x)]
        rows = zip(*filter(_is_list, operands), strict=True)
        return combine(op, [load(REDUCTIONS[op](*numbers, *row)) for row in rows])

    operations: dict[str, Callable[..., Any]] = {
        "add": _commutative(torch._foreach_add),
        "sub": _sub,
        "mul": _commutative(torch._foreach_mul),
        "div": partial(_div, compute),
        "sqrt": _sqrt,
        "neg": torch._foreach_neg,
        "abs": torch._foreach_abs,
        **{op: partial(_each, function, compute) for op, function in CONDITIONS.items()},
        "where": partial(_where, compute),
    }
    return {
        **{op: of_lists(operation) for op, operation in operations.items()},
        **{op: partial(reduction, op) for op in REDUCTIONS},
        "meet": meet,
        "stored": stored,
        "fill": fill,
    }
