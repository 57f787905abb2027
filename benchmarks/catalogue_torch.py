"""A row in torch: our default execution beside torch.optim's foreach, or pytorch_optimizer where torch has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import trainfn_torch
from benchmarks.catalogue import LAYER, namesake, timed
from benchmarks.models import Shapes, count
from benchmarks.pairs import compare
from benchmarks.torch_suite import parameters
from tests.catalogue import Row
from tests.catalogue.upstream import torch_optimizer
from tests.executions import extras

Step = Callable[[], object]
WARMUP = 7  # steps until RAdam, and what waits for a second gradient, do what they do from then on


def _taken(row: Row, shapes: Shapes) -> Shapes:
    """Those of the shapes that the namesake takes: torch's Muon takes matrices only."""
    kind = namesake(row, "torch")
    assert kind is not None
    return tuple(getattr(row, kind).model(dict(enumerate(shapes))).values())


def _ours(row: Row, shapes: Shapes) -> Step:
    rule = row.rule()
    optimizer = trainfn_torch.Optimizer(parameters(_taken(row, shapes)), rule)
    given = extras(rule, 0)
    return lambda: optimizer.step(**given)


def _theirs(row: Row, shapes: Shapes) -> Step:
    kind = namesake(row, "torch")
    assert kind is not None
    step: Step = torch_optimizer(kind, getattr(row, kind), parameters(_taken(row, shapes)), foreach=True).step
    return step


def words(row: Row) -> float:
    """Elements that the namesake's step reads and writes for each parameter.

    Each operation of torch that computes counts the tensors it reads, one given twice once, and those it writes.
    """
    step = _theirs(row, LAYER)
    for _ in range(WARMUP):
        step()
    with _Moved() as moved:
        step()
    return round(moved.words / count(_taken(row, LAYER)), 2)


def times(row: Row) -> list[float]:
    """The median of ours / theirs and its 95 % interval; both medians in milliseconds."""
    ratio = compare(_ours(row, timed(row)), _theirs(row, timed(row)), pairs=40, warmup=WARMUP, seconds=3.0)
    return [round(x, 3) for x in (ratio.median, ratio.low, ratio.high, 1e3 * ratio.ours, 1e3 * ratio.theirs)]


class _Moved(TorchDispatchMode):
    """Counts the elements that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.words = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(zip((a.name for a in operation._schema.arguments), args, strict=False)) | (kwargs or {})
        result = operation(*args, **(kwargs or {}))
        if not operation.is_view:
            changed = [a.name for a in operation._schema.arguments if a.alias_info and a.alias_info.is_write]
            written = _tensors([given[name] for name in changed] if changed else result)
            self.words += sum(x.numel() for x in [*_tensors(given), *written])
        return result


def _tensors(tree: Any) -> list[torch.Tensor]:
    """The tensors in it, each once."""
    return list({id(x): x for x in tree_leaves(tree) if isinstance(x, torch.Tensor)}.values())
