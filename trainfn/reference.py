"""numpy: what a program means.

Every other execution is right when it gives the bits of this one.  Scalars are float64, Python floats or whole arrays
of them (a schedule's curve), in the written order.  Arrays are float32, every operation rounded on its own, subnormal
inputs and results flushed to zero of their sign - the only meaning XLA's CPU code can share.  bfloat16 and float16
widen on load; float64 leaves are computed in float64.

`init` and `update` run a whole rule on a model given as a dictionary of arrays.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from trainfn import decompositions, random
from trainfn.elementary import grids, slices
from trainfn.interpret import Call, Table, run
from trainfn.lowering import lower
from trainfn.program import Node, Program, Sort
from trainfn.rule import EXTRAS, Rule, check_agreement, check_weight, resolve
from trainfn.trace import Graph, Leaf, emit

# -- Scalars ---------------------------------------------------------------------------------------------------------


def _divide(x: Any, y: Any) -> Any:
    try:
        return x / y
    except ZeroDivisionError:  # Python floats only; IEEE 754 gives an infinity or NaN
        return math.nan if x == 0.0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)


def _sqrt(x: Any) -> Any:
    if isinstance(x, float):
        return math.sqrt(x) if x >= 0.0 else (x if x != x else math.nan)
    return np.sqrt(x)


def _floor(x: Any) -> Any:
    if isinstance(x, float):
        return float(math.floor(x)) if math.isfinite(x) else x
    return np.floor(x) + 0.0  # -0.0 is 0.0, as for Python's numbers


def _exponent(x: Any) -> Any:
    """The e of |x| = 1.f * 2**e, as a float; -1023 for zero and subnormals, 1024 for infinity and NaN."""
    if isinstance(x, float):
        return max(float(math.frexp(x)[1] - 1), -1023.0) if math.isfinite(x) and x else 1024.0 if x else -1023.0
    bits = np.asarray(x, np.float64).view(np.int64)
    return (((bits >> 52) & 0x7FF) - 1023).astype(np.float64)


def _pow2(k: Any) -> Any:
    """2**k for a whole k, which is first clamped to what a normal number can hold; NaN counts as the least."""
    if isinstance(k, float):
        return math.ldexp(1.0, int(min(k, 1023.0)) if k >= -1022.0 else -1022)
    return np.ldexp(1.0, np.where(k >= -1022, np.minimum(k, 1023), -1022).astype(np.int64))


def _single(x: Any) -> Any:
    """x rounded to float32 and back: how Scalar state is stored."""
    with np.errstate(over="ignore"):
        rounded = _flush(np.float32(x))
    return rounded.astype(np.float64) if np.ndim(x) else float(rounded)


def word(x: Any) -> int:
    """The word that a number counts as: its whole part in [0, 2**32), and 0 otherwise."""
    return int(x) if 0.0 <= x < 2.0**32 else 0


def _threefry(key: float, key_low: float, x: float, y: float) -> tuple[float, float]:
    high, low = random.threefry2x32((word(key), word(key_low)), (word(x), word(y)))
    return float(high), float(low)


def _where(condition: Any, x: Any, y: Any) -> Any:
    if isinstance(condition, bool):
        return x if condition else y
    return np.where(condition, x, y)


def _not(x: Any) -> Any:
    return not x if isinstance(x, bool) else np.logical_not(x)


SCALARS: Mapping[str, Callable[..., Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": _divide,
    "sqrt": _sqrt,
    "neg": operator.neg,
    "abs": abs,
    "floor": _floor,
    "exponent": _exponent,
    "pow2": _pow2,
    "single": _single,
    "threefry_0": lambda *words: _threefry(*words)[0],
    "threefry_1": lambda *words: _threefry(*words)[1],
    "lt": operator.lt,
    "le": operator.le,
    "eq": operator.eq,
    "and": operator.and_,
    "or": operator.or_,
    "not": _not,
    "where": _where,
}


def evaluate_numbers(op: str, *operands: Any) -> Any:
    """A verb on Python numbers: what it would compute inside a rule."""
    graph = Graph()
    names = [f"x{i}" for i in range(len(operands))]
    sorts = [Sort.FLAG if isinstance(x, bool | np.bool_) else Sort.SCALAR for x in operands]
    result = emit(op, *(graph.input(n, s) for n, s in zip(names, sorts, strict=True)))
    values = {n: x if s is Sort.FLAG else float(x) for n, x, s in zip(names, operands, sorts, strict=True)}
    return evaluate(graph.program({"result": result}), values)["result"]


def evaluate(program: Program, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate a program of scalars alone, such as a schedule; an input may be an array of numbers."""
    inputs = {name: np.asarray(x, np.float64) if np.ndim(x) else float(x) for name, x in inputs.items()}
    if all(isinstance(x, float) for x in inputs.values()):
        return dict(zip(program.output, compiled(program)(inputs), strict=True))
    with np.errstate(all="ignore"):
        return run([Call(lower(program), inputs)], TABLE)[0]


@lru_cache(maxsize=4096)
def compiled(program: Program) -> Callable[[Mapping[str, float]], tuple[float, ...]]:
    """A program of scalars as one Python function from its inputs to its outputs: what a step can afford.

    It computes what walking the program computes, some forty times as fast.
    """
    lowered = lower(program)
    names: dict[str, Any] = {f"{op}_": function for op, function in SCALARS.items() if op not in _PYTHON}
    lines = []
    for i, node in enumerate(lowered.nodes):
        if node.op == "const":
            names[f"c{i}"] = node.static
        arguments = [_python_name(lowered, a) for a in node.args]
        if node.op != "const":
            lines.append(f"    v{i} = {_python_text(node, arguments)}")
    results = "".join(f"{_python_name(lowered, i)}, " for _, i in lowered.outputs)
    exec("\n".join(["def function(inputs):", *lines, f"    return ({results})"]), names)
    function: Callable[[Mapping[str, float]], tuple[float, ...]] = names["function"]
    return function


_PYTHON = {
    "add": "{} + {}",
    "sub": "{} - {}",
    "mul": "{} * {}",
    "neg": "-{}",
    "abs": "abs({})",
    "lt": "{} < {}",
    "le": "{} <= {}",
    "eq": "{} == {}",
    "and": "{} and {}",
    "or": "{} or {}",
    "not": "not {}",
    "where": "{1} if {0} else {2}",
}


def _python_name(program: Program, index: int) -> str:
    return f"{'c' if program.nodes[index].op == 'const' else 'v'}{index}"


def _python_text(node: Node, arguments: list[str]) -> str:
    if node.op == "input":
        return f"inputs[{node.static!r}]"
    return _PYTHON.get(node.op, f"{node.op}_({', '.join(arguments)})").format(*arguments)


# -- Arrays ----------------------------------------------------------------------------------------------------------

_SMALLEST_NORMAL = np.float32(2.0**-126)
# An exact product or quotient below this rounds, with float32's 24 bits, to less than the smallest normal number.
# Processors that flush decide after that rounding, not on the value as float32 can hold it.
FLUSHED_BELOW = 2.0**-126 - 2.0**-151


def _flush(x: Any) -> Any:
    """Subnormal numbers become zero of their sign."""
    tiny = np.finfo(x.dtype).smallest_normal
    return np.where(np.abs(x) < tiny, np.copysign(x.dtype.type(0), x), x)


def _rounded_once(operation: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A float32 product or quotient from the float64 one, which has bits to spare, flushed as hardware does."""

    def apply(x: Any, y: Any) -> Any:
        if x.dtype == np.float64:
            return _flush(operation(x, y))
        wide = operation(x.astype(np.float64), y.astype(np.float64))
        narrow = wide.astype(np.float32)
        return np.where(np.abs(wide) < FLUSHED_BELOW, np.copysign(np.float32(0), narrow), narrow)

    return apply


def _flushed(operation: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *xs: _flush(operation(*xs))


def _products(*factors: Any) -> Any:
    """The summands of a reduction in float64, where a product of two float32 numbers is exact."""
    wide = [np.asarray(f, np.float64) for f in factors]
    return wide[0] if len(wide) == 1 else wide[0] * wide[1]


def _coarse(coarse: Any, x: Any) -> Any:
    return (x + coarse) - coarse


def _axis_sum(axis: int, x: Any) -> Any:
    """Sums along an axis, exact like those over leaves, with grids for each."""
    wide = np.asarray(x, np.float64)
    largest = np.max(np.abs(wide), axis, keepdims=True, initial=0.0)
    coarse, fine = run([Call(grids(), {"largest": largest, "count": float(x.shape[axis])})], TABLE)[0].values()
    high = _coarse(coarse, wide)
    sums = np.sum(high, axis, keepdims=True) + np.sum(_coarse(fine, wide - high), axis, keepdims=True)
    return _flush(np.where(largest < math.inf, sums, largest).astype(x.dtype))


def _axis_max(axis: int, x: Any) -> Any:
    return np.max(x, axis, keepdims=True, initial=-math.inf) + x.dtype.type(0)  # -0.0 + 0.0 is 0.0


def _matmul(is_highest: bool, x: Any, y: Any) -> Any:
    """The matrix product in exact parts: of the first alone, or of all but the smallest; zeros are +0."""
    if x.dtype == np.float64:
        return _flush(np.matmul(x, y))
    (a, a_rest), (b, b_rest) = _slices(-1, x), _slices(-2, y)
    high = a @ b
    product = _flush((high + (a @ b_rest + a_rest @ b) if is_highest else high).astype(x.dtype))
    return np.where(product == 0, x.dtype.type(0), product)


def _decomposed(operation: Callable[..., Any]) -> Callable[[Any], Any]:
    """In float64, rounded once."""

    def apply(x: Any) -> Any:
        eps = float(np.finfo(x.dtype).eps) / 2
        return _flush(operation(np, np.asarray(x, np.float64), eps).astype(x.dtype))

    return apply


eigenvectors = _decomposed(decompositions.eigenvectors)
orthogonal = _decomposed(decompositions.orthogonal)


def _slices(axis: int, x: Any) -> tuple[Any, Any]:
    wide = np.asarray(x, np.float64)
    largest = np.max(np.abs(wide), axis, keepdims=True, initial=0.0)
    coarse, fine = slices(x.shape[axis])
    high = _coarse(coarse * largest, wide)
    return high, _coarse(fine * largest, wide - high)


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "axis_sum": _axis_sum,
    "axis_max": _axis_max,
    "matmul": functools.partial(_matmul, True),
    "matmul_high": functools.partial(_matmul, False),
    "matmul_fast": _flushed(np.matmul),
    "eigenvectors": eigenvectors,
    "orthogonal": orthogonal,
    "transpose": lambda x: np.swapaxes(x, -1, -2),
    "reshape": lambda shape, x: np.reshape(x, shape),
    "leading": lambda n, x: x[..., :n],
    "add": _flushed(np.add),
    "sub": _flushed(np.subtract),
    "mul": _rounded_once(np.multiply),
    "div": _rounded_once(np.divide),
    "sqrt": np.sqrt,
    "neg": np.negative,
    "abs": np.abs,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "not": np.logical_not,
    "where": np.where,
    "max": lambda x: float(np.max(np.asarray(x, np.float64), initial=-math.inf)),
    "max_abs": lambda *xs: float(np.max(np.abs(_products(*xs)), initial=0.0)),
    "sum_coarse": lambda m, *xs: float(np.sum(_coarse(m, _products(*xs)))),
    "sum_fine": lambda m, n, *xs: float(np.sum(_coarse(n, _products(*xs) - _coarse(m, _products(*xs))))),
}


def compute_dtype(storage: Any) -> np.dtype[Any]:
    """The dtype arithmetic happens in for a leaf stored as `storage`."""
    return np.dtype(np.float64 if np.dtype(storage) == np.float64 else np.float32)


def arrays(storage: Any, shape: tuple[int, ...]) -> dict[str, Callable[..., Any]]:
    """The elementwise table for a leaf of this dtype and shape."""
    compute = compute_dtype(storage)

    def meet(x: Any) -> Any:
        return x if isinstance(x, bool | np.bool_) else _flush(np.asarray(x).astype(compute))

    def stored(x: Any) -> Any:
        return np.asarray(x).astype(storage).astype(compute)

    def fill(x: Any) -> Any:
        return np.full(shape, meet(x), compute)

    def random_words(*words: Any) -> Any:
        key_high, key_low, stream = map(word, words)
        counter = random.place(np.arange(math.prod(shape)).reshape(shape), stream)
        return [random.upper_bits(x).astype(compute) for x in random.threefry2x32((key_high, key_low), counter)]

    return {
        **_ELEMENTWISE,
        "meet": meet,
        "stored": stored,
        "rounded": stored,
        "fill": fill,
        "identity": lambda shape: np.eye(*shape, dtype=compute),
        "random_0": lambda *words: random_words(*words)[0],
        "random_1": lambda *words: random_words(*words)[1],
    }


def load(x: Any) -> Any:
    """An array as a program reads it: widened, subnormals flushed."""
    return _flush(np.asarray(x).astype(compute_dtype(np.asarray(x).dtype)))


def _combine(op: str, parts: Sequence[Any]) -> Any:
    if op.startswith("sum"):
        return functools.reduce(operator.add, parts)  # exact, and so in any order
    return math.nan if any(p != p for p in parts) else max(parts)


def _branch(flag: bool, compute: Callable[[], list[Any]], otherwise: list[Any], decomposes: bool) -> list[Any]:
    return compute() if flag else otherwise


TABLE = Table(SCALARS, _combine, float, _branch)

# -- whole models ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Everything an optimizer remembers.

    count: updates applied to the model.
    model: the rule's ModelScalars by program input name.
    steps: updates applied to each leaf.
    leaves: the rest of the rule's state, for each leaf by field: arrays in the dtype of `init`; scalars as floats,
        pairs under `field.high` and `field.low`.
    """

    count: int
    model: Mapping[str, float]
    steps: Mapping[str, int]
    leaves: Mapping[str, Mapping[str, Any]]


def init(rule: Rule, params: Mapping[str, Any], state_dtype: Any = None) -> State:
    """The state before the first update.

    state_dtype: of the state's arrays, float32 or less, whatever the dtype of parameters, float64 ones excepted; by
        default that of each parameter.
    """
    _check_model(rule, params)
    rule.check_policies(Leaf(name, np.shape(p)) for name, p in params.items())
    model: dict[str, float] = {}
    leaves = {}
    for name, p in params.items():
        leaf = Leaf(name, np.shape(p))
        inputs = {"p": load(p), **_hyperparameters(rule, leaf, 0)}
        outputs = run([Call(lower(rule.init_program(leaf)), inputs, arrays(p.dtype, leaf.shape))], TABLE)[0]
        dtype = p.dtype if state_dtype is None or p.dtype == np.float64 else state_dtype
        leaves[name] = _store(rule, leaf, outputs, {f.name: dtype for f in rule.fields}, model)
    return State(0, model, dict.fromkeys(params, 0), leaves)


def update(
    rule: Rule, state: State, grads: Mapping[str, Any], params: Mapping[str, Any], **extras: float
) -> tuple[dict[str, Any], State]:
    """What to add to each parameter, and the next state.

    The update is in the parameter's dtype, or in float32 if the rule wants the sum alone rounded.

    `extras` are what the rule declares beyond the gradient, such as `value` for the loss.
    """
    _check_model(rule, params)
    _check_fit(state, grads, params)
    unknown = sorted(extras.keys() - set(EXTRAS))
    if unknown:
        raise TypeError(f"update knows no {', '.join(unknown)}; a rule may ask for {', '.join(EXTRAS)}.")
    check_weight(rule, extras.get("weight"))
    total = sum(np.size(p) for p in params.values())
    leaves_of_model = [Leaf(name, np.shape(p)) for name, p in params.items()]
    check_agreement(rule, ((leaf, _hyperparameters(rule, leaf, state.count)) for leaf in leaves_of_model))
    calls = []
    for leaf, (name, p) in zip(leaves_of_model, params.items(), strict=True):
        numbers = {k: float(v) for k, v in {**_DEFAULTS, **extras}.items()}
        inputs = _inputs(rule, state, leaf, {"p": load(p), "g": load(grads[name]), **numbers})
        inputs["count.global"] = float(total)
        calls.append(Call(lower(rule.program(leaf)), inputs, arrays(p.dtype, leaf.shape)))
    with np.errstate(all="ignore"):
        results = run(calls, TABLE)
        if not all(result.get("applied", True) for result in results):
            # -0.0 is what changes no number it is added to: -0.0 + 0.0 would be 0.0.
            return {name: np.full_like(p, -0.0) for name, p in params.items()}, state
        model: dict[str, float] = {}
        updates, leaves = {}, {}
        for leaf, (name, p), result in zip(leaves_of_model, params.items(), results, strict=True):
            is_rounded_once = rule.program(leaf).is_rounded_once
            updates[name] = result["update"].astype(compute_dtype(p.dtype) if is_rounded_once else p.dtype)
            dtypes = {k: x.dtype for k, x in state.leaves[name].items() if isinstance(x, np.ndarray | np.generic)}
            leaves[name] = _store(rule, leaf, result, dtypes, model)
    counted = int(all(result.get("counted", True) for result in results))
    return updates, State(state.count + counted, model, {k: n + counted for k, n in state.steps.items()}, leaves)


def eval_params(rule: Rule, state: State, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters to evaluate, such as an average that the rule keeps; by default those that are trained."""
    _check_model(rule, params)
    _check_fit(state, params, params)
    evaluated = {}
    for name, p in params.items():
        leaf = Leaf(name, np.shape(p))
        call = Call(
            lower(rule.eval_program(leaf)), _inputs(rule, state, leaf, {"p": load(p)}), arrays(p.dtype, leaf.shape)
        )
        with np.errstate(all="ignore"):
            evaluated[name] = run([call], TABLE)[0]["p"].astype(p.dtype)
    return evaluated


def _inputs(rule: Rule, state: State, leaf: Leaf, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """What a program reads: one leaf's state and hyperparameters beside the arrays it is given."""
    fields = {f.name for f in rule.fields if f.is_array}
    kept = {**state.model, **state.leaves[leaf.name]}
    return {
        **{f"state.{k}": load(x) if k in fields else x for k, x in kept.items()},
        **_hyperparameters(rule, leaf, state.count),
        "step": float(state.steps[leaf.name]),
        "count.leaf": float(leaf.size),
        "stream.leaf": float(random.stream(leaf.name)),
        **arrays,
    }


_DEFAULTS = {name: value for name, value in EXTRAS.items() if value is not None}
_DTYPES = ("float32", "float64", "bfloat16", "float16")


def _check_model(rule: Rule, params: Mapping[str, Any]) -> None:
    if not isinstance(rule, Rule):
        raise TypeError(f"a rule with its hyperparameters is due, such as adamw(lr=1e-3), not {rule!r}.")
    if not isinstance(params, Mapping):
        raise TypeError(f"params is a dictionary of numpy arrays by name, not {params!r}.")
    for name, p in params.items():
        if not isinstance(p, np.ndarray | np.generic) or p.dtype.name not in _DTYPES:
            what = f"of dtype {p.dtype}" if hasattr(p, "dtype") else f"a {type(p).__name__}"
            raise TypeError(f"parameter {name!r} is {what}; it must be a numpy array of {', '.join(_DTYPES)}.")


def _check_fit(state: State, grads: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    if not isinstance(state, State):
        raise TypeError(f"the state is what init or the last update returned, not {state!r}.")
    for what, given in (("gradients", grads), ("state", state.leaves)):
        if given.keys() != params.keys():
            raise ValueError(f"names of the {what}: {sorted(given)}; of the parameters: {sorted(params)}.")
    for name, p in params.items():
        if np.shape(grads[name]) != np.shape(p):
            raise ValueError(f"the gradient of {name!r} has shape {np.shape(grads[name])}, and {name!r} {np.shape(p)}.")
        dtype = np.asarray(grads[name]).dtype
        if dtype.name not in _DTYPES:
            raise TypeError(f"the gradient of {name!r} is of dtype {dtype}; it must be one of {', '.join(_DTYPES)}.")


def _hyperparameters(rule: Rule, leaf: Leaf, count: int) -> dict[str, float]:
    return {
        name: float(value(count)) if callable(value) else float(value) for name, value in resolve(rule, leaf).items()
    }


def _store(
    rule: Rule, leaf: Leaf, outputs: Mapping[str, Any], dtypes: Mapping[str, Any], model: dict[str, float]
) -> dict[str, Any]:
    """One leaf's outputs as state, arrays in the dtypes given by field; what belongs to the model goes into `model`."""
    kept: dict[str, Any] = {}
    for f in rule.fields_of(leaf):
        for name in f.inputs:
            value = outputs[name].astype(dtypes[f.name]) if f.is_array else float(outputs[name])
            (model if f.is_of_model else kept)[name.removeprefix("state.")] = value
    return kept
