"""The whole vocabulary of rules and schedules, on one page.

Besides + - * / ** and comparisons, a rule may use the verbs below.  They take traced values.  Those on numbers, from
`sqrt` to `floor`, give a Python number for Python numbers; reductions and what makes state are about a leaf and need
one: a whole rule is tried out on numpy arrays with `trainfn.reference.init` and `update`.  Minimum, maximum, sign and
clip are *defined* by comparison and selection, because numpy, torch and JAX disagree about them at NaN and signed zero.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

from trainfn import trace
from trainfn.program import COSTLY, GLOBAL, Sort, broadcast
from trainfn.trace import Array, Flag, Operand, TraceError, Value

__all__ = [
    "abs",
    "apply_if",
    "axis_max",
    "axis_mean",
    "axis_sum",
    "clip",
    "cos",
    "count_if",
    "eigenvectors",
    "exp",
    "floor",
    "full_like",
    "global_dot",
    "global_max",
    "global_norm",
    "global_sum",
    "identity",
    "isfinite",
    "leading",
    "leaf_dot",
    "leaf_max",
    "leaf_norm",
    "leaf_sum",
    "log",
    "matmul",
    "maximum",
    "minimum",
    "normal_like",
    "orthogonal",
    "pi",
    "reshape",
    "rounded",
    "sign",
    "sqrt",
    "square",
    "transpose",
    "uniform_like",
    "unrounded",
    "when",
    "where",
    "zeros_like",
]

pi = math.pi


# -- elementwise, on Arrays and Scalars ------------------------------------------------------------------------------


def sqrt(x: Operand) -> Any:
    """The square root, correctly rounded."""
    return _call("sqrt", x)


def square(x: Any) -> Any:
    """x * x."""
    return x * x


def abs(x: Operand) -> Any:
    """|x|: clears the sign bit."""
    return _call("abs", x)


def sign(x: Operand) -> Any:
    """1 where x > 0, -1 where x < 0, and x itself at zero and NaN."""
    return _call("sign", x)


def maximum(x: Operand, y: Operand) -> Any:
    """x where x > y or x is NaN, else y: NaN wins; of two zeros the second."""
    return _call("maximum", x, y)


def minimum(x: Operand, y: Operand) -> Any:
    """x where x < y or x is NaN, else y: NaN wins; of two zeros the second."""
    return _call("minimum", x, y)


def clip(x: Operand, low: Operand, high: Operand) -> Any:
    """minimum(maximum(x, low), high)."""
    return minimum(maximum(x, low), high)


def where(condition: Any, x: Any, y: Any) -> Any:
    """x where the condition holds, else y.  Both are computed; neither spoils the other."""
    return _call("where", condition, x, y)


def when(condition: Flag, x: Array, y: Array) -> Any:
    """x if a condition of the leaf or the model holds, else y, of one shape; what only x needs is left out otherwise.

    It is `where`, for what is worth not computing: matrix products and decompositions that a rule renews now and then.
    Left out are arrays; reductions to Scalars, and what they are of, are computed all the same.
    """
    graph = _expect_array("when", x).graph
    chosen = [
        trace.lift(graph, "when", v).index
        for v in (expect_flag("when", condition, of="leaf"), x, _expect_array("when", y))
    ]
    one, other = (graph.shapes[i] for i in chosen[1:])
    if one != other:
        raise TraceError(f"when chooses between arrays of one shape, not of {one} and {other}.")
    if not any(node.op in COSTLY for node in graph.nodes):
        return where(condition, x, y)
    return graph.emit("when", tuple(chosen), Sort.ARRAY)


def isfinite(x: Operand) -> Any:
    """Whether x is neither infinite nor NaN."""
    return abs(x) < math.inf


# -- on Scalars --------------------------------------------------------------------------------------------------------
# Defined by + - * / alone in `trainfn.elementary`, so that their last bit is the same everywhere.


def exp(x: Operand) -> Any:
    """e**x of a Scalar."""
    return _call("exp", x)


def log(x: Operand) -> Any:
    """The natural logarithm of a Scalar."""
    return _call("log", x)


def cos(x: Operand) -> Any:
    """The cosine of a Scalar, in radians; |x| up to 1e6."""
    return _call("cos", x)


def floor(x: Operand) -> Any:
    """The largest whole number that is at most x, for a Scalar."""
    return _call("floor", x)


# -- reductions: Scalars that depend on the multiset of elements only, not on order, layout or shards -----------


def leaf_sum(x: Array) -> Any:
    """The sum of x over this leaf."""
    return _reduce("leaf_sum", x)


def leaf_dot(x: Array, y: Array) -> Any:
    """The sum of x * y over this leaf; products of float32 numbers are not rounded before they are summed."""
    return _reduce("leaf_dot", x, y)


def leaf_norm(x: Array) -> Any:
    """The Euclidean norm of x over this leaf."""
    return sqrt(_reduce("leaf_norm", x, x))


def leaf_max(x: Array) -> Any:
    """The largest element of x in this leaf; NaN wins; -inf for an empty leaf."""
    return _reduce("leaf_max", x)


def global_sum(x: Array) -> Any:
    """The sum of x over the whole model, all leaves and shards."""
    return _reduce("global_sum", x)


def global_dot(x: Array, y: Array) -> Any:
    """The sum of x * y over the whole model; products of float32 numbers are not rounded before they are summed."""
    return _reduce("global_dot", x, y)


def global_norm(x: Array) -> Any:
    """The Euclidean norm of x over the whole model."""
    return sqrt(_reduce("global_norm", x, x))


def global_max(x: Array) -> Any:
    """The largest element of x in the whole model; NaN wins."""
    return _reduce("global_max", x)


# -- along axes, and matrices: Arrays of other shapes, which fit those of the leaf by numpy's rules -------------------


def axis_sum(x: Array, axis: int) -> Any:
    """Sums along one axis, which is kept with length 1; each is what leaf_sum would give, rounded to x's dtype."""
    return _along_axis("axis_sum", x, axis)


def axis_mean(x: Array, axis: int) -> Any:
    """axis_sum(x, axis) divided by the length of the axis."""
    return axis_sum(x, axis) / x.shape[axis]


def axis_max(x: Array, axis: int) -> Any:
    """The largest elements along one axis, which is kept with length 1; NaN wins."""
    return _along_axis("axis_max", x, axis)


def matmul(x: Array, y: Array, precision: str = "highest") -> Any:
    """The matrix product over the last two axes.

    precision:
        "highest", the same bits everywhere: three products of float64 matrices, each free of rounding whatever the
            order of its sums, and more accurate than a product in float32;
        "high", the same bits everywhere: the first of these alone.  Before it each row of x and column of y is rounded
            to whole numbers of (53 - bits of its length) / 2 bits, in units set by its largest element: 21 for a
            thousand, where bfloat16 has 8;
        "library", not the same bits: the library's own product of float32 matrices, the fastest, and close.

    A row of x or column of y in which a number is not finite makes its elements NaN.  float64 leaves get the library's.
    """
    for matrix in (x, y):
        _expect_matrix("matmul", matrix)
    if precision not in _PRECISIONS:
        raise TraceError(f"matmul: precision = {precision!r} must be one of {', '.join(map(repr, _PRECISIONS))}.")
    return trace.emit(_PRECISIONS[precision], x, y)


_PRECISIONS = {"highest": "matmul", "high": "matmul_high", "library": "matmul_fast"}


def transpose(x: Array) -> Any:
    """x with its last two axes exchanged."""
    _expect_matrix("transpose", x)
    return trace.emit("transpose", x)


def reshape(x: Array, shape: tuple[int, ...]) -> Any:
    """The elements of x, in the order of its last axis first, in another shape of as many."""
    if math.prod(_expect_array("reshape", x).shape) != math.prod(shape):
        raise TraceError(f"reshape: {x!r} of shape {x.shape} has another number of elements than {shape}.")
    return x if x.shape == tuple(shape) else x.graph.emit("reshape", (x.index,), Sort.ARRAY, tuple(shape))


def leading(x: Array, n: int) -> Any:
    """The first n columns of x: what comes first along its last axis."""
    columns = _expect_array("leading", x).shape[-1] if x.ndim else 0
    if not _is_whole(n) or n > columns:
        raise TraceError(f"leading: n = {n!r} must be a whole number of columns, and {x!r} has {columns}.")
    return x if columns == n else x.graph.emit("leading", (x.index,), Sort.ARRAY, n)


def eigenvectors(x: Array) -> Any:
    """The eigenvectors of a symmetric matrix, as columns, that of the largest eigenvalue first (class *bounded*).

    They are computed in float64 and rounded once.  `trainfn.decompositions` says what fixes their signs, and what
    decides where eigenvalues coincide.  The eigenvalues are axis_sum(q * matmul(x, q), -2) for the vectors q.
    """
    _expect_square("eigenvectors", x)
    return x.graph.emit("eigenvectors", (x.index,), Sort.ARRAY)


def orthogonal(x: Array) -> Any:
    """Q of x = Q R, where R is triangular and its diagonal not negative: x made orthogonal column by column (bounded).

    x has no more columns than rows.  It is computed in float64 and rounded once.
    """
    _expect_matrix("orthogonal", x)
    if x.shape[-1] > x.shape[-2]:
        raise TraceError(f"orthogonal: {x!r} has more columns than rows, {x.shape}, which cannot all be orthogonal.")
    return x.graph.emit("orthogonal", (x.index,), Sort.ARRAY)


# -- making state ------------------------------------------------------------------------------------------------------


def full_like(x: Array, value: Operand) -> Array:
    """An Array of x's shape with `value` everywhere."""
    return _full("full_like", x, value)


def zeros_like(x: Array) -> Array:
    """An Array of x's shape with zero everywhere."""
    return _full("zeros_like", x, 0.0)


def identity(x: Array, n: int) -> Array:
    """The identity matrix of n rows, in x's dtype."""
    graph = _expect_array("identity", x).graph
    if not _is_whole(n):
        raise TraceError(f"identity: n = {n!r} must be a whole number of rows.")
    return graph.emit("identity", (), Sort.ARRAY, (n, n))  # type: ignore[return-value]


# -- chance: functions of whole numbers, the leaf's name and the place in the leaf (`trainfn.random`) ------------------


def uniform_like(x: Array, seed: Operand, *data: Operand) -> Any:
    """An Array of x's shape, uniform in [0, 1), of multiples of 2**-24.

    The same numbers come for the same `seed` and `data`, whole numbers below 2**32, in leaves of the same name, as in
    uniform_like(g, seed, step): a rule that draws twice in an update adds another number to one of both.
    """
    return _random("uniform_like", x, seed, *data)


def normal_like(x: Array, seed: Operand, *data: Operand) -> Any:
    """An Array of x's shape, of standard normal numbers; what they depend on is said at `uniform_like`."""
    return _random("normal_like", x, seed, *data)


# -- low precision ----------------------------------------------------------------------------------------------------


def rounded(x: Array) -> Any:
    """x rounded to the nearest numbers that the parameter's dtype holds: x itself in float32 and float64."""
    return _expect_array("rounded", x).graph.emit("rounded", (x.index,), Sort.ARRAY)


def unrounded(update: Array) -> Any:
    """`update`, which is added to the parameter as it is.

    Otherwise the update is rounded to the parameter's dtype first, and the sum a second time, as optax does.
    """
    _expect_array("unrounded", update).graph.unrounded = update
    return update


# -- gating ------------------------------------------------------------------------------------------------------------


def apply_if(condition: Flag, result: Any) -> Any:
    """`result`, of a whole update of which nothing happens unless the condition holds.

    A skipped update changes no parameter, no state and no counter, of any leaf.
    """
    expect_flag("apply_if", condition).graph.gates.append(condition)
    return result


def count_if(condition: Flag, result: Any) -> Any:
    """`result`, of an update that counts as one only if the condition holds.

    Otherwise no counter advances, neither the step of a leaf nor the count of updates that schedules read; parameters
    and states change all the same.  So a rule spreads one update over several calls.
    """
    expect_flag("count_if", condition).graph.counts.append(condition)
    return result


# -- how it works ------------------------------------------------------------------------------------------------------


def _call(op: str, *operands: Any) -> Any:
    if any(isinstance(x, Value) for x in operands):
        return trace.emit(op, *operands)
    from trainfn.reference import evaluate_numbers

    for x in operands:
        if type(x).__name__ == "Schedule":
            raise TraceError(
                f"{op} was given {x!r}: schedules are joined by + - * / and **. For more write one: put "
                "@trainfn.schedule above a function of the step, in which verbs stand."
            )
        if not isinstance(x, numbers.Real | np.bool_):
            raise TraceError(f"{op} takes what a rule is given and Python numbers, not {x!r} ({type(x).__name__}).")
    return evaluate_numbers(op, *operands)


def _reduce(verb: str, *arrays: Any) -> Any:
    scope, _, op = verb.partition("_")
    graph = _expect_array(verb, arrays[0]).graph
    indices = tuple(trace.lift(graph, verb, _expect_array(verb, x)).index for x in arrays)
    if op != "max":
        _expect_no_more_than_leaf(verb, graph, indices)
    return graph.emit("max" if op == "max" else "sum", indices, Sort.SCALAR, scope + graph.some * (scope == GLOBAL))


def _full(verb: str, x: Any, value: Any) -> Array:
    graph = _expect_leafs(verb, x).graph
    number = trace.lift(graph, verb, value)
    if not isinstance(number, trace.Scalar):
        raise TraceError(f"{verb} takes a number to put everywhere, not {number!r}.")
    return graph.emit("fill", (number.index,), Sort.ARRAY)  # type: ignore[return-value]


def _expect_no_more_than_leaf(verb: str, graph: trace.Graph, indices: tuple[int, ...]) -> None:
    """Sums are free of order for as many numbers as the leaf has (`trainfn.elementary.coarse_grid`)."""
    if graph.leaf is None:
        return
    try:
        shape = broadcast([graph.shapes[i] for i in indices])
    except ValueError as error:
        raise TraceError(f"{verb}: {error}.") from None
    if 0 < graph.leaf.size < math.prod(shape):
        raise TraceError(
            f"{verb} sums no more numbers than the leaf has, whose shape is {graph.leaf.shape}, and was given {shape}: "
            "sum along an axis first, as in leaf_sum(axis_sum(x, -1))."
        )


def _random(verb: str, x: Any, *words: Any) -> Any:
    graph = _expect_leafs(verb, x).graph
    numbers = [trace.lift(graph, verb, word) for word in words]
    for number, word in zip(numbers, words, strict=True):
        if not isinstance(number, trace.Scalar):
            raise TraceError(f"{verb} takes Scalars and whole numbers to draw by, such as seed and step, not {word!r}.")
        if number.node.op == "const" and not (0 <= word < 2**32 and word == math.floor(word)):
            raise TraceError(f"{verb} was given {word!r} to draw by, which is no whole number in [0, 2**32).")
    return graph.emit(verb, tuple(number.index for number in numbers), Sort.ARRAY)


def _along_axis(verb: str, x: Any, axis: int) -> Any:
    ndim = _expect_array(verb, x).ndim
    if isinstance(axis, bool) or not isinstance(axis, int) or not -ndim <= axis < ndim:
        raise TraceError(f"{verb}: axis = {axis!r} must be a whole number in [-{ndim}, {ndim}) for {x!r}.")
    return x.graph.emit(verb, (x.index,), Sort.ARRAY, axis if axis < 0 else axis - ndim)


def _is_whole(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and n >= 0


def _expect_leafs(verb: str, x: Any) -> Array:
    graph = _expect_array(verb, x).graph
    if graph.leaf is not None and graph.shapes[x.index] != graph.leaf.shape:
        raise TraceError(f"{verb} makes arrays of the leaf's shape: of others write axis_sum(zeros_like(p), axis).")
    return x  # type: ignore[no-any-return]


def _expect_square(verb: str, x: Any) -> None:
    _expect_matrix(verb, x)
    rows, columns = x.shape[-2:]
    if rows != columns:
        raise TraceError(f"{verb} takes square matrices, and {x!r} has shape {x.shape}.")


def _expect_matrix(verb: str, x: Any) -> None:
    if _expect_array(verb, x).ndim < 2:
        raise TraceError(f"{verb} takes matrices, and {x!r} has {x.ndim} axes: branch on g.ndim.")


def expect_flag(verb: str, condition: Any, of: str = "model") -> Flag:
    if isinstance(condition, Flag):
        return condition
    raise TraceError(
        f"{verb} needs one condition for the whole {of} and was given {condition!r}: reduce it first, as in "
        "global_max(abs(g)) < inf."
    )


def _expect_array(verb: str, x: Any) -> Array:
    if isinstance(x, Array):
        return x
    hint = " Count with where(c, 1.0, 0.0)." if isinstance(x, trace.Condition) else ""
    raise TraceError(f"{verb} takes an Array (p, g, array state or what is computed from them), not {x!r}.{hint}")
