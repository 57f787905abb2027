"""From the vocabulary of rules to the few operations every backend provides.

Lowering rewrites a program into one that uses only the primitives listed in `PRIMITIVES`: elementary functions and
min/max/sign are written out, and each reproducible sum becomes a maximum, which sets the grids, and two sums of
numbers rounded to those grids, which are exact and therefore free of order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any

from trainfn import elementary, random
from trainfn.program import COSTLY, GLOBAL, LEAF, Node, Program, Sort
from trainfn.trace import Graph, Value, emit

# What a backend's table must provide, by sort of the operands.
PRIMITIVES: dict[str, tuple[str, ...]] = {
    "scalar": ("add", "sub", "mul", "div", "sqrt", "neg", "abs", "floor", "exponent", "pow2", "single"),
    "words": ("threefry_0", "threefry_1"),
    "array": ("add", "sub", "mul", "div", "sqrt", "neg", "abs", "meet", "stored", "rounded", "fill"),
    "random": ("random_0", "random_1"),
    "whole": ("axis_sum", "axis_max", "transpose", "reshape", "leading", "identity", *sorted(COSTLY)),
    "branch": ("when",),
    "either": ("lt", "le", "eq", "and", "or", "not", "where"),
    "reduction": ("max", "max_abs", "sum_coarse", "sum_fine"),
}


@lru_cache(maxsize=4096)
def lower(program: Program) -> Program:
    """The same program in primitives."""
    graph = Graph()
    values: list[Value] = []
    for node in program.nodes:
        args = [values[a] for a in node.args]
        expand = _EXPANSIONS.get(node.op)
        values.append(expand(graph, node, *args) if expand else _copy(graph, node, args))
    return graph.program({name: values[i] for name, i in program.outputs}).keep(name for name, _ in program.outputs)


def _copy(graph: Graph, node: Node, args: list[Value]) -> Value:
    return graph.emit(node.op, tuple(a.index for a in args), node.sort, node.static)


def _maximum(graph: Graph, node: Node, x: Any, y: Any) -> Value:
    return _where((x > y) | (x != x), x, y)


def _minimum(graph: Graph, node: Node, x: Any, y: Any) -> Value:
    return _where((x < y) | (x != x), x, y)


def _sign(graph: Graph, node: Node, x: Any) -> Value:
    return _where(x > 0.0, 1.0, _where(x < 0.0, -1.0, x))


def _max(graph: Graph, node: Node, x: Any) -> Value:
    """Which of two zeros a maximum gives depends on their order: it gives +0."""
    largest: Any = _copy(graph, node, [x])
    return _where(emit("eq", largest, 0.0), 0.0, largest)


def _sum(graph: Graph, node: Node, *factors: Any) -> Value:
    """`trainfn.elementary.coarse_grid` says why the two sums are exact; a non-finite maximum is the sum.

    A leaf's sum of ones is its size, shards included, which every backend knows: no pass counts it.  Where a condition
    holds in it is counted in one pass: the largest is 1, and nothing is left over.  Of a sum over the model a leaf does
    not know what the others add.
    """
    scope = node.static
    arrays = tuple(f.index for f in factors)
    count = graph.input(f"count.{LEAF if scope == LEAF else GLOBAL}", Sort.SCALAR)
    if scope == LEAF and all(_is_one(graph, f) for f in factors):
        return count
    if scope == LEAF and len(factors) == 1 and _is_flags(graph, factors[0]):
        one: Any = graph.emit("const", (), Sort.SCALAR, 1.0)
        return graph.emit("sum_coarse", (elementary.coarse_grid(one, count).index, *arrays), Sort.SCALAR, scope)
    largest: Any = graph.emit("max_abs", arrays, Sort.SCALAR, scope)
    coarse: Any = elementary.coarse_grid(largest, count)
    fine: Any = elementary.fine_grid(coarse, count)
    high: Any = graph.emit("sum_coarse", (coarse.index, *arrays), Sort.SCALAR, scope)
    low: Any = graph.emit("sum_fine", (coarse.index, fine.index, *arrays), Sort.SCALAR, scope)
    return _where(largest < math.inf, high + low, largest)


def _uniform_like(graph: Graph, node: Node, seed: Any, *data: Any) -> Value:
    return random.uniform(_draw(graph, 0, seed, *data))  # type: ignore[no-any-return]


def _normal_like(graph: Graph, node: Node, seed: Any, *data: Any) -> Value:
    return random.normal(*(_draw(graph, i, seed, *data) for i in range(2)))  # type: ignore[no-any-return]


def _draw(graph: Graph, word: int, seed: Any, *data: Any) -> Any:
    high, low = random.folded(seed, *data)
    stream = graph.input("stream.leaf", Sort.SCALAR)
    return graph.emit(f"random_{word}", (high.index, low.index, stream.index), Sort.ARRAY)


def _is_one(graph: Graph, x: Value) -> bool:
    return graph.nodes[x.index].op == "fill" and _constant(graph, x.index) == 1.0


def _is_flags(graph: Graph, x: Value) -> bool:
    """Whether x is 1 where a condition holds and 0 elsewhere, or the other way round."""
    node = graph.nodes[x.index]
    return node.op == "where" and {_constant(graph, i) for i in node.args[1:]} == {0.0, 1.0}


def _constant(graph: Graph, index: int) -> Hashable:
    """The number that an array has in all places, if the program says it."""
    node = graph.nodes[index]
    return graph.nodes[node.args[0]].static if node.op in ("meet", "fill") else None


def _where(condition: Any, x: Any, y: Any) -> Value:
    return emit("where", condition, x, y)


_EXPANSIONS: dict[str, Callable[..., Value]] = {
    "exp": lambda graph, node, x: elementary.exp(x),
    "log": lambda graph, node, x: elementary.log(x),
    "cos": lambda graph, node, x: elementary.cos(x),
    "pow": lambda graph, node, x, y: elementary.pow(x, y),
    "maximum": _maximum,
    "minimum": _minimum,
    "sign": _sign,
    "uniform_like": _uniform_like,
    "normal_like": _normal_like,
    "max": _max,
    "sum": _sum,
}
