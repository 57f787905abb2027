"""Running programs one operation at a time, over any library.

A backend is a `Table`: for each primitive operation, how its library computes it.  The walk below is the same for
numpy, torch and JAX.  It runs the programs of all leaves side by side, because a reduction over the model needs every
leaf before any of them can go on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainfn.order import Order, order_of
from trainfn.program import GLOBAL, STATIC, Node, Program, Sort

LEAVES_DISAGREE = (
    "the leaves of this model do not agree on what is reduced over the whole model: a rule that branches on a leaf's "
    "shape or name must call global_sum and global_max in every branch, in one order (on zeros_like(g) where it has "
    "nothing to add)."
)


@dataclass(frozen=True)
class Table:
    """How one library computes what belongs to no leaf (`trainfn.lowering.PRIMITIVES`).

    scalars: operations on float64 numbers and flags.
    combine: (op, parts) -> a reduction over the model from its leaves' parts.
    constant: a Python number as one of this library's scalars.
    branch: (flag, compute, otherwise, decomposes) -> the arrays compute() if the flag holds, else `otherwise`, as many
        of the same shapes; `decomposes` says that compute() decomposes matrices.
    """

    scalars: Mapping[str, Callable[..., Any]]
    combine: Callable[[str, Sequence[Any]], Any]
    constant: Callable[[float], Any]
    branch: Callable[[Any, Callable[[], list[Any]], list[Any], bool], list[Any]]


@dataclass
class Call:
    """One leaf's program on its inputs, by name; `values` fills up node by node.

    arrays: how the library computes elementwise primitives and reductions for a leaf of this dtype and shape: `meet`
    takes a scalar or flag, `fill` a scalar, `random_*` three, a reduction gives a scalar for the leaf.
    """

    program: Program
    inputs: Mapping[str, Any]
    arrays: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)
    order: Order = field(init=False)

    def __post_init__(self) -> None:
        self.values = [None] * len(self.program.nodes)
        self.order = order_of(self.program)

    def arguments(self, node: Node) -> list[Any]:
        return [self.values[a] for a in node.args]

    def reduced(self, nodes: Sequence[Node]) -> Iterator[Any]:
        """The reductions of one pass, one at a time, so that memory of what each read can be let go before the next."""
        for node in nodes:
            yield self.arrays[node.op](*self.arguments(node))

    def forget(self, index: int, values: list[Any] | None = None) -> None:
        """Let go of what nothing reads after node `index`: a whole model's temporaries would not fit in memory.

        values: those of a branch, where it is computed in one.
        """
        values = self.values if values is None else values
        for spent in self.order.spent[index]:
            values[spent] = None

    @property
    def outputs(self) -> dict[str, Any]:
        return {name: self.values[i] for name, i in self.program.outputs}


def run(calls: Sequence[Call], table: Table, scalars: SharedScalars | None = None) -> list[dict[str, Any]]:
    """Evaluate lowered programs side by side; returns each one's outputs.

    scalars: those of the table, which leaves that are evaluated one after the other share.
    """
    scalars = scalars or SharedScalars(table)
    last = max((max(call.program.levels, default=0) for call in calls), default=0)
    for level in range(last + 1):
        for call in calls:
            _evaluate_level(call, level, scalars)
        _reduce(calls, level, table)
    return [call.outputs for call in calls]


def _evaluate_level(call: Call, level: int, scalars: SharedScalars) -> None:
    for i in call.order.due(level):
        node = call.program.nodes[i]
        if node.op == "input":
            call.values[i] = scalars.given(_input(call, node))
        elif node.sort.is_elementwise:
            _array(call, i, call.values, scalars.table)
        else:
            call.values[i] = scalars(node, call.arguments(node))
        call.forget(i)


def _array(call: Call, index: int, values: list[Any], table: Table) -> None:
    """Put the value of a node in its place; of a `when`, all that are decided with it."""
    program = call.program
    node = program.nodes[index]
    if node.op != "when":
        values[index] = _operation(call, node)(*(values[a] for a in node.args))
        return
    compute = functools.partial(_branch, call, index, values, table)
    otherwise = [values[program.nodes[i].args[2]] for i in call.order.together[index]]
    chosen = table.branch(values[node.args[0]], compute, otherwise, call.order.decomposes(index))
    for i, x in zip(call.order.together[index], chosen, strict=True):
        values[i] = x


def _branch(call: Call, when: int, values: Sequence[Any], table: Table) -> list[Any]:
    """What is decided with a `when` whose flag holds, from the arrays behind it that nothing else needs."""
    inside = list(values)  # what is computed inside stays inside
    for i in call.order.branches[when]:
        _array(call, i, inside, table)
        call.forget(i, inside)
    return [inside[call.program.nodes[i].args[1]] for i in call.order.together[when]]


def _operation(call: Call, node: Node) -> Callable[..., Any]:
    operation = call.arrays[node.op]
    return functools.partial(operation, node.static) if node.op in STATIC else operation


def _input(call: Call, node: Node) -> Any:
    try:
        return call.inputs[str(node.static)]
    except KeyError:
        raise KeyError(
            f"the program reads {node.static!r}, which was not given; given: {sorted(call.inputs)}"
        ) from None


class SharedScalars:
    """Evaluates scalar nodes, each distinct one once however many leaves ask for it.

    Three hundred leaves with equal hyperparameters share one bias correction; under a tracing library that is three
    hundred times less to compile.  Arguments are told apart by identity and kept, so an identity stays taken; equal
    numbers of Python that are given are made one.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.known: dict[object, tuple[Any, list[Any]]] = {}
        self.numbers: dict[tuple[float, float], float] = {}

    def given(self, x: Any) -> Any:
        return self.numbers.setdefault((x, math.copysign(1.0, x)), x) if isinstance(x, float) else x

    def __call__(self, node: Node, args: list[Any]) -> Any:
        constant = node.static.hex() if isinstance(node.static, float) else node.static
        key = (node.op, constant, *map(id, args))
        known = self.known.get(key)
        if known is None:
            if node.op == "const":
                assert isinstance(node.static, float)
                value = self.table.constant(node.static)
            else:
                value = self.table.scalars[node.op](*args)
            known = self.known[key] = (value, args)
        return known[0]


def _reduce(calls: Sequence[Call], level: int, table: Table) -> None:
    """Evaluate the reductions that pass `level` ends in; the k-th one over some leaves is the same one in each."""
    for call in calls:
        due = call.program.reductions(level)
        for i, value in zip(due, call.reduced([call.program.nodes[i] for i in due]), strict=True):
            call.values[i] = value
            call.forget(i)
    for scope in sorted({scope for call in calls for scope in call.program.scopes}):
        some = members([call.program for call in calls], scope)
        _combine([calls[k] for k in some], scope, level, table)


def members(programs: Sequence[Program], scope: str) -> list[int]:
    """The leaves that a reduction over several goes over: all, or those of one rule of a partition."""
    return [k for k, program in enumerate(programs) if scope == GLOBAL or scope in program.scopes]


def _combine(calls: Sequence[Call], scope: str, level: int, table: Table) -> None:
    which = [[i for i in call.program.reductions(level) if call.program.nodes[i].scope == scope] for call in calls]
    if len({tuple(c.program.nodes[i].op for i in some) for c, some in zip(calls, which, strict=True)}) > 1:
        raise ValueError(LEAVES_DISAGREE)
    for same in zip(*which, strict=True):
        op = calls[0].program.nodes[same[0]].op
        total = table.combine(op, [call.values[i] for call, i in zip(calls, same, strict=True)])
        for call, i in zip(calls, same, strict=True):
            call.values[i] = total


def evaluate_scalars(program: Program, inputs: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """Evaluate a program of scalars alone, such as a schedule."""
    assert all(node.sort in (Sort.SCALAR, Sort.FLAG) for node in program.nodes)
    return run([Call(program, inputs)], table)[0]
