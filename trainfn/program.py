"""What a rule becomes once traced: a straight-line program, as plain data.

A program lists nodes in the order in which the rule computed them; a node names its operation and the earlier
nodes it reads.  There is no control flow and nothing library-specific, so that one program has one meaning
everywhere: numpy (`trainfn.reference`) defines it, every backend executes it with the same bits, `trainfn.formulas`
prints it, and this module counts what it costs.

Four sorts of value exist.  An ARRAY is shaped like the leaf, or as sums along its axes and matrix products make it
(float32, or float64 for float64 leaves); a MASK is its boolean companion.  A SCALAR is one float64 number, a FLAG one
boolean.  A SCALAR enters array arithmetic through a `meet` node, which rounds it once to the arrays' dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from itertools import zip_longest


class Sort(Enum):
    """What a node's value is."""

    ARRAY = "array"
    MASK = "mask"
    SCALAR = "scalar"
    FLAG = "flag"

    @property
    def is_elementwise(self) -> bool:
        """Whether the value has one entry per element of the leaf."""
        return self in (Sort.ARRAY, Sort.MASK)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: `op` applied to the values of the nodes numbered `args`; `static` is what is not a value."""

    op: str
    args: tuple[int, ...]
    sort: Sort
    static: Hashable = None

    @property
    def is_reduction(self) -> bool:
        """Whether the node turns ARRAYs into one SCALAR, which needs a pass over the leaf (or the whole model)."""
        return self.op in REDUCTIONS

    @property
    def scope(self) -> str | None:
        """The leaves a reduction over several of them goes over: `global`, all; others, those of a partition."""
        return str(self.static) if self.is_reduction and self.static != LEAF else None


# Reductions as a rule writes them, and the primitive ones they are lowered to (`trainfn.lowering`).
REDUCTIONS = frozenset({"sum", "max", "max_abs", "sum_coarse", "sum_fine"})

# What a reduction goes over: one leaf, or the whole model.
LEAF, GLOBAL = "leaf", "global"

# Operations on whole arrays, whose elements are not computed from those in the same place.
AXIS = frozenset({"axis_sum", "axis_max"})  # along the axis that `static` counts from the last one
STATIC = AXIS | {"reshape", "leading", "identity"}  # operations on arrays that are told `static`
PRODUCTS = frozenset({"matmul", "matmul_high", "matmul_fast"})
DECOMPOSITIONS = frozenset({"eigenvectors", "orthogonal"})
COSTLY = PRODUCTS | DECOMPOSITIONS  # what takes more time than a pass over the leaf
BOUNDED = frozenset({"matmul_fast"}) | DECOMPOSITIONS  # what each library rounds its own way, whatever the dtype
WHOLE = STATIC | COSTLY | {"transpose", "when"}

# Random numbers, one for each element of the leaf, as a rule writes them and as lowered: read Scalars as they are.
DRAWS = frozenset({"random_0", "random_1"})
RANDOM = DRAWS | {"uniform_like", "normal_like"}

# What a flop count counts: operations that round, and how many of them random numbers are made by.
ARITHMETIC = frozenset({"add", "sub", "mul", "div", "sqrt"})
FLOPS: Mapping[str, int] = {**dict.fromkeys(ARITHMETIC, 1), "uniform_like": 1, "normal_like": 41}


def shape_of(
    node: Node, args: Sequence[tuple[int, ...]], of_input: Callable[[str], tuple[int, ...]]
) -> tuple[int, ...]:
    """The shape of a node's value; Scalars, and what they are where they meet arrays, have none: ()."""
    if not node.sort.is_elementwise or node.op == "meet":
        return ()
    if node.op == "input":
        return of_input(str(node.static))
    if node.op == "fill" or node.op in RANDOM:
        return of_input("p")
    if node.op in AXIS:
        assert isinstance(node.static, int)
        axis = len(args[0]) + node.static
        return (*args[0][:axis], 1, *args[0][axis + 1 :])
    if node.op == "transpose":
        return (*args[0][:-2], *args[0][:-3:-1])
    if node.op in ("reshape", "identity"):
        assert isinstance(node.static, tuple)
        return node.static
    if node.op == "leading":
        assert isinstance(node.static, int)
        return (*args[0][:-1], node.static)
    if node.op in DECOMPOSITIONS:
        return args[0]
    if node.op in PRODUCTS:
        (*batch, rows, inner), (*other, same, columns) = args
        if inner != same or batch != other:
            raise ValueError(f"matrices of shapes {args[0]} and {args[1]} cannot be multiplied")
        return (*batch, rows, columns)
    return broadcast(args)


def broadcast(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape that arrays of these make together, by numpy's rules; raises if they do not fit."""
    sizes = []
    for at in zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1):
        several = {n for n in at if n != 1}
        if len(several) > 1:
            raise ValueError(f"arrays of shapes {' and '.join(map(str, filter(None, shapes)))} do not fit together")
        sizes.append(several.pop() if several else 1)
    return tuple(sizes[::-1])


@dataclass(frozen=True)
class Phase:
    """One pass over the arrays: the scalars it needs first, the elementwise nodes, and what the pass ends in."""

    scalars: tuple[int, ...]
    elementwise: tuple[int, ...]
    reductions: tuple[int, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    flops: int

    @property
    def words(self) -> int:
        """Array elements moved to or from memory for each parameter."""
        return len(self.reads) + len(self.writes)


@dataclass(frozen=True)
class Program:
    """A traced rule.

    outputs: maps a name to the node that computes it: `update`, what is added to p; `p` after that; `state.*`; if there
        are such, the flags `applied`, without which nothing happens, and `counted`, without which no counter advances.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[tuple[str, int], ...]
    labels: Mapping[int, str] = field(default_factory=dict, compare=False, repr=False)

    def __eq__(self, other: object) -> bool:
        """Whether both compute the same: 0.0 and -0.0, which are equal, are other constants."""
        if not isinstance(other, Program):
            return NotImplemented
        return self is other or (hash(self) == hash(other) and self._identity == other._identity)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # once: programs are the keys of every cache, and have hundreds of nodes
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[Hashable, ...]:
        return self.nodes, self.outputs, self._negative

    @cached_property
    def _negative(self) -> tuple[int, ...]:
        """The constants with a sign."""
        constants = (i for i, node in enumerate(self.nodes) if node.op == "const")
        return tuple(i for i in constants if math.copysign(1.0, self.nodes[i].static) < 0)  # type: ignore[arg-type]

    @cached_property
    def output(self) -> dict[str, int]:
        return dict(self.outputs)

    @cached_property
    def has_reductions(self) -> bool:
        return any(node.is_reduction for node in self.nodes)

    @cached_property
    def scopes(self) -> frozenset[str]:
        """Of which leaves the reductions over several leaves are."""
        return frozenset(node.scope for node in self.nodes if node.scope)

    @cached_property
    def is_elementwise(self) -> bool:
        """Whether arrays are computed element by element, but for reductions to one number."""
        return not any(node.op in WHOLE for node in self.nodes)

    @cached_property
    def is_bounded(self) -> bool:
        """Whether libraries agree on it within bounds only, in float32 too: docs/contract.md says which."""
        return any(node.op in BOUNDED for node in self.nodes)

    @cached_property
    def is_random(self) -> bool:
        """Whether it draws random numbers, which depend on the leaf's name and on where in the leaf an element is."""
        return any(node.op in RANDOM for node in self.nodes)

    @property
    def is_rounded_once(self) -> bool:
        """Whether the update is added to the parameter as it is, so that the sum alone is rounded to its dtype."""
        return self.nodes[self.output["update"]].op != "stored"

    def shapes(self, of_input: Callable[[str], tuple[int, ...]]) -> list[tuple[int, ...]]:
        """The shape of each node's value, from those of inputs."""
        shapes: list[tuple[int, ...]] = []
        for node in self.nodes:
            shapes.append(shape_of(node, [shapes[a] for a in node.args], of_input))
        return shapes

    def inputs(self, sort: Sort) -> tuple[str, ...]:
        """Names of the inputs of one sort, in the order of first use."""
        return tuple(str(n.static) for n in self.nodes if n.op == "input" and n.sort is sort)

    # -- passes ---------------------------------------------------------------------------------------------------

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """For each node, how many reductions lie behind it: a node of level k can be computed in pass k."""
        levels: list[int] = []
        for node in self.nodes:
            behind = max((levels[a] for a in node.args), default=0)
            levels.append(behind + node.is_reduction)
        return tuple(levels)

    def reductions(self, level: int) -> tuple[int, ...]:
        """The reductions that pass `level` ends in."""
        return self._reductions.get(level, ())

    @cached_property
    def _reductions(self) -> Mapping[int, tuple[int, ...]]:
        reductions: dict[int, list[int]] = {}
        for i, node in enumerate(self.nodes):
            if node.is_reduction:
                reductions.setdefault(self.levels[i] - 1, []).append(i)
        return {level: tuple(nodes) for level, nodes in reductions.items()}

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The program cut at its reductions.

        Elementwise values are computed anew in each pass that needs them rather than kept in memory, and all arrays
        are written in the last pass, when nothing reads the old ones any more.
        """
        last = max(self.levels, default=0)
        return tuple(self._phase(level, level == last) for level in range(last + 1))

    def _phase(self, level: int, is_last: bool) -> Phase:
        reductions = self.reductions(level)
        stored = {name: i for name, i in self.outputs if self.nodes[i].sort.is_elementwise} if is_last else {}
        needed = self._needed([a for r in reductions for a in self.nodes[r].args] + list(stored.values()))
        elementwise = tuple(i for i in needed if self.nodes[i].sort.is_elementwise)
        scalars = tuple(
            i
            for i, n in enumerate(self.nodes)
            if not n.sort.is_elementwise and not n.is_reduction and self.levels[i] == level
        )
        reads = tuple(str(self.nodes[i].static) for i in elementwise if self.nodes[i].op == "input")
        writes = tuple(name for name, i in stored.items() if not self._is_unchanged(name, i))
        flops = sum(FLOPS.get(self.nodes[i].op, 0) for i in elementwise) + sum(
            len(self.nodes[r].args) for r in reductions
        )
        return Phase(scalars, elementwise, reductions, reads, writes, flops)

    def _is_unchanged(self, name: str, index: int) -> bool:
        node = self.nodes[index]
        return node.op == "input" and node.static == name

    def _needed(self, roots: Iterable[int]) -> list[int]:
        """Elementwise nodes behind `roots`, in order; the walk stops at scalars, which a pass is handed."""
        seen: set[int] = set()
        stack = [r for r in roots if self.nodes[r].sort.is_elementwise]
        while stack:
            index = stack.pop()
            if index not in seen:
                seen.add(index)
                stack += [a for a in self.nodes[index].args if self.nodes[a].sort.is_elementwise]
        return sorted(seen)

    # -- transformation -------------------------------------------------------------------------------------------

    def keep(self, names: Iterable[str]) -> Program:
        """The program that computes only the named outputs (those it has)."""
        wanted = [(n, self.output[n]) for n in names if n in self.output]
        alive: set[int] = set()
        stack = [i for _, i in wanted]
        while stack:
            index = stack.pop()
            if index not in alive:
                alive.add(index)
                stack += self.nodes[index].args
        order = sorted(alive)
        new = {old: i for i, old in enumerate(order)}
        nodes = tuple(
            Node(n.op, tuple(new[a] for a in n.args), n.sort, n.static) for n in (self.nodes[i] for i in order)
        )
        labels = {new[i]: name for i, name in self.labels.items() if i in new}
        return Program(nodes, tuple((n, new[i]) for n, i in wanted), labels)

    # -- cost and print -------------------------------------------------------------------------------------------

    @property
    def words(self) -> int:
        """Array elements moved for each parameter, all passes together."""
        return sum(phase.words for phase in self.phases)

    @property
    def flops(self) -> int:
        """Floating-point operations for each parameter, all passes together."""
        return sum(phase.flops for phase in self.phases)

    def __str__(self) -> str:
        from trainfn.formulas import cost_and_formulas

        return "\n".join(cost_and_formulas(self))
