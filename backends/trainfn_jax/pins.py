"""Where XLA would merge two roundings into one: programs with a `pin` at each such place, and a `flush`.

XLA's rewritings are many and change with every release, so nothing is left to it: whatever arithmetic or a comparison
reads is pinned if it was rounded by a product, quotient or square root, or was an input, which may be a product made in
the same jit.  Sums are pinned where a number on both sides would let XLA regroup them.  `tests/jax/test_canaries.py`
shows rewritings that happen, and random programs search for others.

What leaves the program meets arithmetic that nobody here sees: a sum of ours and a number of the user's would be
regrouped, too.  Such sums are not pinned but held (`held`), because XLA would put the operations of a pin into each
loop that reads the result, and compute all before them there a second time.  What `trainfn_jax.keeping` says that XLA
should keep in memory is divided by a one (`kept`): a quotient it does not repeat.

Subnormal numbers are zero for the arithmetic of XLA's CPU code, but not for what only moves bits, and not for
comparisons of what was widened from 16 bits: there an input is flushed.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from trainfn.program import WHOLE, Node, Program, Sort
from trainfn.trace import Graph, Value
from trainfn_jax.keeping import kept

# Operations that round an array, and those that hand on its bits or may, through which contraction looks.
_ARITHMETIC = frozenset({"add", "sub", "mul", "div", "sqrt"})
_COMPARISONS = frozenset({"lt", "le", "eq"})
_MOVES = frozenset({"neg", "abs", "where", "stored", "rounded"}) | WHOLE
_ROUNDED_LATE = frozenset({"mul", "div", "sqrt"})


@lru_cache(maxsize=4096)
def with_pins(program: Program) -> Program:
    """The same lowered program, with nodes `pin` and `flush`, for the table of `trainfn_jax.arrays`."""
    graph = Graph()
    values: list[Value] = []

    def guarded(kind: str | None, index: int) -> Value:
        value = values[index]
        return graph.emit(kind, (value.index,), value.sort) if kind else value

    to_keep = kept(program)
    for i, node in enumerate(program.nodes):
        args = tuple(guarded(kind, a).index for a, kind in zip(node.args, _guards(program, node), strict=True))
        value = graph.emit(node.op, args, node.sort, node.static)
        if i in to_keep:
            inner = graph.emit("pin", (value.index,), value.sort) if node.op in _ROUNDED_LATE else value
            value = graph.emit("kept", (inner.index,), value.sort)
        values.append(value)
    outputs = {}
    for name, index in program.outputs:
        leaving = guarded(_leaving(name, program.nodes[index]), index)
        old = _overwritten(program, name, index)
        outputs[name] = (
            leaving if old is None else graph.emit("beside", (leaving.index, values[old].index), leaving.sort)
        )
    return graph.program(outputs)


def _overwritten(program: Program, name: str, index: int) -> int | None:
    """The array whose memory an output takes, if other outputs alone are computed from it.

    XLA does not know that those come first: it would keep the output apart, a copy of the array beside it, and copy
    the output over it in the end.
    """
    nodes = program.nodes
    old = next((i for i, n in enumerate(nodes) if n.op == "input" and n.sort is Sort.ARRAY and n.static == name), None)
    behind, stack = {index}, [index]
    while stack:
        new = [a for a in nodes[stack.pop()].args if a not in behind]
        behind.update(new)
        stack += new
    return None if old in behind else old


def _guards(program: Program, node: Node) -> Iterator[str | None]:
    for index in node.args:
        argument = program.nodes[index]
        if not argument.sort.is_elementwise:
            yield None
        elif node.op in _MOVES or node.op in _COMPARISONS:
            yield _moved(argument)
        elif node.op in _ARITHMETIC and _merges(program, node, argument):
            yield "pin"
        else:
            yield None


def _moved(argument: Node) -> str | None:
    if argument.op == "input" and argument.sort.is_elementwise:
        return "flush"
    return "pin" if argument.op in _ROUNDED_LATE and argument.sort.is_elementwise else None


def _leaving(name: str, output: Node) -> str | None:
    if output.op == "input" and output.static == name:
        return None  # state that stays as it is, and need not be written
    is_computed = output.op in _ARITHMETIC | _MOVES and output.sort.is_elementwise
    return _moved(output) or ("held" if is_computed else None)


def _merges(program: Program, node: Node, argument: Node) -> bool:
    """Whether XLA might compute `node` with something else than the rounded result of `argument`."""
    if argument.op == "input" or argument.op in _ROUNDED_LATE:
        return True
    regroups = node.op in ("add", "sub") and argument.op in ("add", "sub")  # (x + s) + t to x + (s + t)
    return regroups and _has_number(program, node) and _has_number(program, argument)


def _has_number(program: Program, node: Node) -> bool:
    """Whether an operand is the same for all elements, or may be, as sums along axes are."""
    return not program.is_elementwise or any(program.nodes[a].op in ("meet", "fill") for a in node.args)
