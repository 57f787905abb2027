"""Which arrays of a program XLA is to compute once and keep in memory, where several loops would each compute them.

XLA's CPU code makes a loop of each output and of each pass of a sum, a maximum or a matrix product.  A loop reads what
is in memory (inputs, most outputs, results of sums and products, quotients) and computes the rest itself, however much
that is: in the iterations of Muon each contains all before it.  Where an output overwrites an array that the loop of
another output reads, XLA copies the array first.

The words that all this moves are counted here, and an array is kept if they are fewer with it.  Of the
catalogue's 95 rows that compute element by element the count is XLA's own for 83; where an input is kept as it is, and
where there are sums, XLA may move more.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from functools import cached_property

from trainfn.program import AXIS, COSTLY, DRAWS, Node, Program, Sort

_QUOTIENTS = frozenset({"div", "sqrt"})  # which XLA computes once
_MADE = COSTLY | AXIS | DRAWS | {"input", "when"}
_UNPINNED = frozenset({"add", "sub", "where"})
_CANDIDATES = _UNPINNED | {"mul", "matmul", "matmul_high"}
# Passes over what is read: the largest number, and each part that a factor is cut into.
_PASSES = {"matmul": 3, "matmul_high": 2, "axis_sum": 2}
# What a loop reads of a product that is not kept: float64 products of the parts, of two words.
_WORDS = {"matmul": 6, "matmul_high": 2}


def kept(program: Program) -> frozenset[int]:
    """The nodes to be kept.

    None where sums along axes are all that is done to whole arrays: those are too small to be counted as words.
    """
    if not program.is_elementwise and not any(node.op in COSTLY for node in program.nodes):
        return frozenset()
    best = _Traffic(program, frozenset())
    for i in best.candidates:
        best = min(best, _Traffic(program, best.kept | {i}), key=_Traffic.cost)
    for i in sorted(best.kept):  # what pays no longer beside others
        best = min(best, _Traffic(program, best.kept - {i}), key=_Traffic.cost)
    return best.kept


def words(program: Program, kept: frozenset[int]) -> int:
    """What the update moves for each element of the leaf, in float32."""
    return _Traffic(program, kept).cost()[0]


class _Traffic:
    """What the loops of a program read and write if some nodes are kept."""

    def __init__(self, program: Program, kept: frozenset[int]) -> None:
        self.nodes, self.levels, self.kept = program.nodes, program.levels, kept
        self.arrays = [i for i, node in enumerate(self.nodes) if node.sort.is_elementwise or node.is_reduction]
        self.overwritten = {i: "p" if k == "update" else k for k, i in program.outputs if self._is_written(i)}
        self.loops: list[set[Hashable]] = [set() for _ in self.nodes]  # those that compute each node, or read it
        self.in_memory: set[int] = set()
        for i in reversed(self.arrays):
            if self._is_in_memory(i):
                self.in_memory.add(i)
            for a in self.nodes[i].args:
                self.loops[a] |= self._loops_at(i)
        self.sources: list[frozenset[int]] = [frozenset()] * len(self.nodes)  # what a loop that reads it has to read
        for i in self.arrays:
            self.sources[i] = frozenset({i}) if i in self.in_memory else self._read(i)

    def cost(self) -> tuple[int, int]:
        """Words, and what is kept for them."""
        moved = sum(n + sum(map(self._words, read)) for read, n in self._traffic())
        return moved + 2 * len(self._copied()), len(self.kept)

    @property
    def candidates(self) -> list[int]:
        """What several loops compute or read."""
        return [i for i in self.arrays if self.nodes[i].op in _CANDIDATES and self._is_array(i) and self._is_shared(i)]

    def _is_shared(self, i: int) -> bool:
        return len(self.loops[i]) + (i in self.overwritten) > 1

    def _is_array(self, i: int) -> bool:
        return self.nodes[i].sort is Sort.ARRAY

    def _is_written(self, i: int) -> bool:
        return self._is_array(i) and self.nodes[i].op not in ("input", "fill")

    def _is_in_memory(self, i: int) -> bool:
        node = self.nodes[i]
        is_quotient = node.op in _QUOTIENTS and len(self.loops[i]) > 1
        return is_quotient or node.op in _MADE or i in self.kept or (i in self.overwritten and self._stays(node))

    def _stays(self, node: Node) -> bool:
        """Whether an output is read where it was written: XLA repeats what reads one array alone, such as a pin."""
        read = [a for a in node.args if self.nodes[a].sort.is_elementwise and self.nodes[a].op not in ("meet", "fill")]
        return node.op in _UNPINNED and len(read) > 1

    def _loops_at(self, i: int) -> set[Hashable]:
        """Those that read what a node reads."""
        node = self.nodes[i]
        if node.is_reduction:
            return {(self.levels[i], node.op.startswith("sum"))}
        if i in self.in_memory or i in self.overwritten:
            return {(i, k) for k in range(_PASSES.get(node.op, 1))}
        return self.loops[i]

    def _read(self, i: int) -> frozenset[int]:
        """What a loop that computes a node reads; the one of the update adds it to p."""
        p = self._inputs.get("p")
        of_p = [p] if p is not None and self.overwritten.get(i) == "p" else []
        return frozenset(of_p).union(*(self.sources[a] for a in self.nodes[i].args))

    @cached_property
    def _inputs(self) -> dict[str, int]:
        return {str(node.static): i for i, node in enumerate(self.nodes) if node.op == "input"}

    def _traffic(self) -> Iterator[tuple[Iterable[int], int]]:
        """For each loop the arrays it reads, and how many words it writes."""
        passes: dict[tuple[int, bool], frozenset[int]] = {}
        for i in self.arrays:
            node = self.nodes[i]
            if node.is_reduction:
                which = self.levels[i], node.op.startswith("sum")
                passes[which] = passes.get(which, frozenset()) | self._read(i)
            elif node.op in _MADE:
                yield from [(self.sources[a], 0) for a in node.args] * _PASSES.get(node.op, 1)
                if i in self.kept:
                    yield [], _WORDS.get(node.op, 1) + 1
            elif i in self.in_memory or i in self.overwritten:
                yield self._read(i), 1
        yield from ((read, 0) for read in passes.values())

    def _words(self, i: int) -> int:
        return 1 if i in self.kept else _WORDS.get(self.nodes[i].op, 1)

    def _copied(self) -> list[str]:
        """What one output overwrites and the loop of another reads, which need not come before it."""
        return [
            name
            for i, name in self.overwritten.items()
            if any(self._inputs.get(name) in self._read(j) for j in self.overwritten.keys() - self._behind(i))
        ]

    def _behind(self, i: int) -> set[int]:
        """What is computed before a node, and itself."""
        behind, stack = {i}, [i]
        while stack:
            new = [a for a in self.nodes[stack.pop()].args if a not in behind]
            behind.update(new)
            stack += new
        return behind
