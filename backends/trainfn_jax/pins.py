"""Where XLA would merge two roundings into one: programs with a `pin` at each such place, and a `flush`.

A pin costs little time and some compile time, so a program gets one only between operations that XLA is known to
rewrite together; `tests/jax/test_canaries.py` shows each of these rewritings happening, and random programs search for
others.  Gradients, parameters and state are pinned too, since they may be products made in the same jit.

Subnormal numbers are zero for the arithmetic, comparisons and conversions of XLA's CPU code, not for what only moves
bits: there an input is flushed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from trainfn.program import Node, Program
from trainfn.trace import Graph, Value

# Operations that round an array, and those that hand on its bits, from which contraction looks through.
_ARITHMETIC = frozenset({"add", "sub", "mul", "div", "sqrt"})
_MOVES = frozenset({"neg", "abs", "where", "stored"})
_ROUNDED_LATE = frozenset({"mul", "div", "sqrt"})


@lru_cache(maxsize=4096)
def with_pins(program: Program) -> Program:
    """The same lowered program, with nodes `pin` and `flush`, for the table of `trainfn_jax.arrays`."""
    graph = Graph()
    values: list[Value] = []

    def guarded(kind: str | None, index: int) -> int:
        value = values[index]
        return graph.emit(kind, (value.index,), value.sort).index if kind else value.index

    for node in program.nodes:
        args = tuple(guarded(kind, a) for a, kind in zip(node.args, _guards(program, node), strict=True))
        values.append(graph.emit(node.op, args, node.sort, node.static))
    outputs = {}
    for name, index in program.outputs:
        kind = _moved(program.nodes[index])
        outputs[name] = values[index] if kind is None else graph.emit(kind, (values[index].index,), values[index].sort)
    return graph.program(outputs)


def _guards(program: Program, node: Node) -> Iterator[str | None]:
    for position, index in enumerate(node.args):
        argument = program.nodes[index]
        if not argument.sort.is_elementwise:
            yield None
        elif node.op in _MOVES:
            yield _moved(argument)
        elif node.op in _ARITHMETIC and any(
            _is_rewritten(program, node, position, seen) for seen in _seen_through(program, argument)
        ):
            yield "pin"
        else:
            yield None


def _moved(argument: Node) -> str | None:
    if argument.op == "input" and argument.sort.is_elementwise:
        return "flush"
    return "pin" if argument.op in _ROUNDED_LATE and argument.sort.is_elementwise else None


def _seen_through(program: Program, node: Node) -> Iterator[Node]:
    """The node, and what takes its place if a number in it turns out to be one that changes nothing: x + 0, x * 1."""
    yield node
    if node.op in _ARITHMETIC and _has_number(program, node):
        for index in node.args:
            yield from _seen_through(program, program.nodes[index])


def _is_rewritten(program: Program, node: Node, position: int, argument: Node) -> bool:
    """Whether XLA may compute `node` with something else than the rounded result of `argument`."""
    if argument.op == "input":
        return True
    numbers = _has_number(program, node) and _has_number(program, argument)
    if node.op in ("add", "sub"):  # a * b + c in one rounding, (x + s) + t to x + (s + t)
        return argument.op == "mul" or (argument.op in ("add", "sub") and numbers)
    if node.op == "mul":  # (x * s) * t to x * (s * t)
        return argument.op == "mul" and numbers
    if node.op == "div":  # (x / y) / z to x / (y * z), x / (y / z) to (x * z) / y, x / sqrt(y) to x * rsqrt(y)
        return argument.op == "div" or (position == 1 and argument.op == "sqrt")
    return argument.op == "mul"  # sqrt(x * x) to |x|


def _has_number(program: Program, node: Node) -> bool:
    """Whether an operand is the same for all elements."""
    return any(program.nodes[a].op in ("meet", "fill") for a in node.args)
