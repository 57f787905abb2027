"""One leaf at a time in compiled pieces: for programs that work along axes or multiply matrices.

What lies between operations on whole arrays is elementwise, and is cut into pieces, each one loop over memory.  Kept
is what such an operation reads, what is written in the end, and what is smaller than what reads it, as a row of numbers
for a matrix; all else is computed anew where it is needed.  Sums, maxima and the parts of exact products are C as well.
Decompositions and everything else is as in `single`.

It takes contiguous tensors on the CPU, of float32 or less.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import torch

from trainfn.interpret import Call
from trainfn.program import AXIS, DRAWS, WHOLE, Node, Program, Sort
from trainfn_torch import single
from trainfn_torch.kernels.compiler import CannotBuild
from trainfn_torch.kernels.pieces import Loop, Piece, Walk, along_axis, matmul, over_all, whole
from trainfn_torch.leaf import Batch, LeafUpdate
from trainfn_torch.memory import FORMAT_OF
from trainfn_torch.scalars import is_host
from trainfn_torch.tensors import is_plain
from trainfn_torch.warn import warn_once

Shape = tuple[int, ...]
Stored = tuple[tuple[str, str, Shape], ...]  # of each array: its name in the program, format and shape


def accepts(leaf: LeafUpdate) -> bool:
    """Whether the leaf's arrays are worked on as wholes, and its loops can be built; warns once if they cannot be."""
    if leaf.program.is_elementwise:
        return False
    try:
        return _cut_for(leaf, single.written(leaf)) is not None
    except CannotBuild as error:
        warn_once(f"trainfn updates what works along axes by the slower single execution, because {error}")
        return False


def step(batch: Batch, updates: torch.Tensor | None) -> bool | torch.Tensor:
    """Carry out an update of these leaves in place; returns whether it was applied."""
    return single.step(batch, updates, _call)


def _call(leaf: LeafUpdate, total: float, outputs: Sequence[str]) -> Call:
    numbers = single.scalar_inputs(leaf, total)
    try:
        cut = _cut_for(leaf, outputs)
    except CannotBuild:  # for a gradient of another dtype than the one `accepts` saw
        cut = None
    if cut is None or not all(map(is_host, numbers.values())):
        return single.call(leaf, total, outputs)
    arrays = _arrays(leaf)
    read = {name: arrays[name].detach() for name in cut.program.inputs(Sort.ARRAY)}
    return Call(cut.program, {**read, **numbers}, {**single.arrays(leaf.p), **_OPERATIONS, **cut.operations})


def _arrays(leaf: LeafUpdate) -> dict[str, torch.Tensor]:
    g = leaf.g.contiguous() if is_plain(leaf.g) else leaf.g
    return {"p": leaf.p, "g": g, **{f"state.{k}": x for k, x in single.array_state(leaf).items()}}


def _cut_for(leaf: LeafUpdate, outputs: Sequence[str]) -> Cut | None:
    """The leaf's program in pieces; None if there are none for the way it is stored; raises CannotBuild."""
    arrays = _arrays(leaf)
    if not all(map(_is_taken, arrays.values())):
        return None
    stored = tuple((name, FORMAT_OF[x.dtype], tuple(x.shape)) for name, x in arrays.items())
    return cut(single.lowered(leaf.program, tuple(outputs)), stored)


def _is_taken(x: torch.Tensor) -> bool:
    is_narrow = x.dtype in FORMAT_OF and x.dtype is not torch.float64
    return is_plain(x) and x.device.type == "cpu" and is_narrow and x.is_contiguous() and not x.is_neg()


# -- what stands between pieces --------------------------------------------------------------------------------------


def _along(op: str, axis: int, x: torch.Tensor) -> torch.Tensor:
    return along_axis(op, axis, x.contiguous())


def _over_all(op: str, *operands: Any) -> Any:
    arrays = torch.broadcast_tensors(*(x for x in operands if isinstance(x, torch.Tensor)))  # type: ignore[no-untyped-call]
    numbers = [x for x in operands if not isinstance(x, torch.Tensor)]
    return over_all(op, numbers, *(x.contiguous() for x in arrays))


_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    **{op: functools.partial(_along, op) for op in AXIS},
    **{op: functools.partial(_over_all, op) for op in single.REDUCTIONS},
    "matmul": functools.partial(matmul, "highest"),
    "matmul_high": functools.partial(matmul, "high"),
}


# -- programs in pieces ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A program whose elementwise nodes were put into pieces, and what its new operations are."""

    program: Program
    operations: Mapping[str, Callable[..., Any]]


@functools.lru_cache(maxsize=4096)
def cut(program: Program, stored: Stored) -> Cut:
    """A lowered program, for a leaf whose arrays are stored like this, in pieces; raises CannotBuild."""
    whole()  # what stands between pieces: no step may find out halfway that it cannot be had
    return _Cutter(program, stored).cut()


def elements_moved(program: Program, stored: Stored) -> int:
    """How many elements of arrays a lowered program without products, in pieces, moves to or from memory.

    A loop reads and writes each of its arrays once; a sum along an axis reads twice; results are copied in the end.
    """
    return _Cutter(program, stored).elements_moved()


class _Part(NamedTuple):
    """A piece, or one node that stays as it is; the fields put parts in the order in which they are run.

    stage: of its nodes, see `_Cutter`.
    is_piece: pieces read what of their stage stays as it is.
    axes: how many axes of a piece are longer than 1: what is smaller comes first, for the larger may read it.
    nodes: what a piece keeps, or the node.
    """

    stage: int
    is_piece: bool
    axes: int
    nodes: tuple[int, ...]


class _Cutter:
    """Which nodes are kept, and in which piece each is computed.

    A node's stage is how many operations on whole arrays, or reductions, lie behind it.  What is kept of one stage and
    shape is one piece, which so reads nothing that comes after it: results of whole operations of its stage or before,
    pieces of stages before, and those of its stage that are smaller.
    """

    def __init__(self, program: Program, stored: Stored) -> None:
        self.program, self.nodes = program, program.nodes
        self.format = {name: kind for name, kind, _ in stored}
        self.shapes = program.shapes({name: shape for name, _, shape in stored}.__getitem__)
        self.stages: list[int] = []
        for node in self.nodes:
            behind = max((self.stages[a] for a in node.args), default=0)
            self.stages.append(behind + (node.op in WHOLE or node.is_reduction))
        self.kept = self._kept()

    def cut(self) -> Cut:
        new: dict[int, int] = {}
        read: dict[int, int] = {}  # inputs as they are stored, which pieces read
        nodes: list[Node] = []
        operations: dict[str, Callable[..., Any]] = {}
        for part in sorted([*self._others(), *self._pieces()]):
            if not part.is_piece:
                (i,) = part.nodes
                node = self.nodes[i]
                new[i] = len(nodes)
                read |= {i: new[i]} if node.op == "input" else {}
                nodes.append(Node(node.op, tuple(new[a] for a in node.args), node.sort, node.static))
                continue
            piece = self._piece(part.nodes)
            op, made = f"piece_{len(operations)}", len(nodes)
            operations[op] = self._run(piece, part.nodes)
            arrays = [read[a] if self.nodes[a].op == "input" else new[a] for a in _indices(piece)]
            nodes.append(Node(op, (*arrays, *(new[a] for a in piece.scalars)), Sort.ARRAY))
            for position, result in enumerate(piece.results):
                operations[f"result_{position}"] = itemgetter(position)  # the same for all pieces
                new[result] = len(nodes)
                nodes.append(Node(f"result_{position}", (made,), Sort.ARRAY))
        return Cut(Program(tuple(nodes), tuple((name, new[i]) for name, i in self.program.outputs)), operations)

    def elements_moved(self) -> int:
        pieces = [self._piece(part.nodes) for part in self._pieces()]
        moved = [i for piece in pieces for i in (*_indices(piece), *piece.results)]
        for node in self.nodes:
            if node.op in AXIS or node.is_reduction:
                moved += [a for a in node.args if self.nodes[a].sort is Sort.ARRAY] * (1 + (node.op == "axis_sum"))
        moved += [i for _, i in self.program.outputs if self.nodes[i].sort is Sort.ARRAY] * 2
        return sum(math.prod(self.shapes[i]) for i in moved)

    def _others(self) -> Iterator[_Part]:
        for i in range(len(self.nodes)):
            if not self._is_in_loops(i):
                yield _Part(self.stages[i], False, 0, (i,))

    def _pieces(self) -> Iterator[_Part]:
        kept: dict[tuple[int, Shape], list[int]] = {}
        for i in sorted(self.kept):
            kept.setdefault((self.stages[i], self.shapes[i]), []).append(i)
        for (stage, shape), nodes in kept.items():
            yield _Part(stage, True, sum(n != 1 for n in shape), tuple(nodes))

    def _is_in_loops(self, index: int) -> bool:
        """Whether a node is computed by loops alone: elements, and Scalars as they meet them."""
        node = self.nodes[index]
        return node.sort.is_elementwise and not node.is_reduction and node.op not in {"input", *WHOLE, *DRAWS}

    def _kept(self) -> frozenset[int]:
        """The arrays that pieces write into memory; inputs among them as they are read, widened and flushed."""
        kept = {i for _, i in self.program.outputs if self.nodes[i].sort is Sort.ARRAY and self._is_loaded(i)}
        for i, node in enumerate(self.nodes):
            for a in node.args:
                if self.nodes[a].sort is Sort.ARRAY and self._is_loaded(a) and self._must_keep(node, i, a):
                    kept.add(a)
        return frozenset(kept)

    def _is_loaded(self, index: int) -> bool:
        return self._is_in_loops(index) or self.nodes[index].op == "input"

    def _must_keep(self, reader: Node, index: int, argument: int) -> bool:
        """Whether what a node reads has to be in memory; sums and maxima in C read, and flush, float32 as it is."""
        if self._is_in_loops(index):
            is_smaller = self.shapes[argument] not in ((), self.shapes[index])
            return is_smaller and self._is_in_loops(argument)
        is_read_as_it_is = reader.is_reduction or reader.op in AXIS
        node = self.nodes[argument]
        return not (node.op == "input" and is_read_as_it_is and self.format[str(node.static)] == "float32")

    def _piece(self, group: Sequence[int]) -> Piece:
        """The loop that computes these, and what they are computed of since the last things kept."""
        shape, stage = self.shapes[group[0]], self.stages[group[0]]
        inside: set[int] = set()
        arrays: dict[int, None] = {}
        stack = list(group)
        while stack:
            i = stack.pop()
            is_known = i in self.kept and (self.shapes[i], self.stages[i]) != (shape, stage)
            if not self._is_in_loops(i) or is_known:
                arrays[i] = None
            elif i not in inside:
                inside.add(i)
                stack += [a for a in self.nodes[i].args if self.nodes[a].sort.is_elementwise]
        scalars = dict.fromkeys(a for i in sorted(inside) for a in self.nodes[i].args if self._is_number(a))
        read = sorted(arrays)
        walk = self._walk(read, group)
        return Piece(
            nodes=tuple((i, self.nodes[i]) for i in sorted(inside)),
            arrays=tuple(zip(read, map(self._format, read), walk.is_spread[: len(read)], strict=True)),
            scalars=tuple(scalars),
            results=tuple(group),
            stored=self.format["p"],
        )

    def _is_number(self, index: int) -> bool:
        return not self.nodes[index].sort.is_elementwise

    def _format(self, index: int) -> str:
        node = self.nodes[index]
        return self.format[str(node.static)] if node.op == "input" else "float32"

    def _walk(self, arrays: Iterable[int], group: Sequence[int]) -> Walk:
        return Walk.over(self.shapes[group[0]], [self.shapes[i] for i in (*arrays, *group)])

    def _run(self, piece: Piece, group: Sequence[int]) -> Callable[..., tuple[torch.Tensor, ...]]:
        loop = Loop(piece, self._walk(_indices(piece), group), self.shapes[group[0]])
        count = len(piece.arrays)

        def run(*values: Any) -> tuple[torch.Tensor, ...]:
            return loop([x.contiguous() for x in values[:count]], values[count:])

        return run


def _indices(piece: Piece) -> list[int]:
    return [i for i, _, _ in piece.arrays]
