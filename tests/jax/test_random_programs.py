"""Random programs: every composition of operations has numpy's bits under jit, so no rewriting of XLA is left unpinned.

Numbers in a program are drawn among those that XLA treats specially, arrays hold all magnitudes, the inputs are
products made in the same jit and the results are added to something there, which is where contraction would happen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from jax import lax

from tests.bits import assert_same_bits
from tests.inputs import numbers, with_specials
from trainfn import reference, verbs
from trainfn.interpret import Call, run
from trainfn.lowering import lower
from trainfn.program import Program, Sort
from trainfn.trace import Graph, emit
from trainfn_jax import arrays
from trainfn_jax.pins import with_pins
from trainfn_jax.scalars import TABLE, in_float64, widen

NUMBERS = (0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 3.0, 0.1, 1e-8, 1e30, -0.9)
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
UNARY = ("sqrt", "neg", "abs", "sign")
SIZE = 1031
FACTOR = np.float32(0.7)

Instruction = tuple[str, int, int, int]
_INDEX = st.integers(0, 7)
_INSTRUCTIONS = st.lists(
    st.tuples(st.sampled_from(BINARY * 2 + UNARY + ("where",)), _INDEX, _INDEX, _INDEX), min_size=3, max_size=9
)


def array_program(instructions: list[Instruction], constants: list[float]) -> Program:
    """Each instruction takes its operands among the latest values, the inputs and numbers known and unknown to XLA."""
    graph = Graph()
    values: list[Any] = [graph.input(name, Sort.ARRAY) for name in ("g", "p")]
    known: list[Any] = [graph.constant(c) for c in constants] + [graph.input("s", Sort.SCALAR)]
    for op, i, j, k in instructions:
        x = values[-1 - i % len(values)]
        y = known[k % len(known)] if j % 3 == 0 else values[-1 - j % len(values)]
        if op in UNARY:
            values.append(emit(op, x))
        elif op == "where":
            values.append(emit("where", emit("lt", x, y), x, values[-1 - k % len(values)]))
        else:
            values.append(emit(op, x, y) if k % 2 else emit(op, y, x))
    return lower(graph.program({"last": values[-1], "before": values[-2]}))


def expected(program: Program, inputs: dict[str, Any]) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        table = reference.arrays(np.float32, (SIZE,))
        made = {k: table["mul"](reference.load(x), FACTOR) for k, x in inputs.items() if np.ndim(x)}
        numpys = {k: float(x) for k, x in inputs.items() if not np.ndim(x)}
        out = run([Call(program, {**made, **numpys}, table)], reference.TABLE)[0]
        return {k: table["add"](np.broadcast_to(x, SIZE), inputs["p"]) for k, x in out.items()}


@in_float64
def in_jax(programs: list[Program], inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Inputs are made by a product with a number, which XLA likes to merge with ours; results are summands."""
    made = {k: widen(x) if np.ndim(x) == 0 else lax.mul(x, lax.full_like(x, FACTOR)) for k, x in inputs.items()}
    results = []
    for program in programs:
        table = arrays.table(np.float32, np.float32, arrays.FLOAT32, arrays.Meetings())
        out = run([Call(with_pins(program), made, table)], TABLE)[0]
        results.append({k: lax.add(arrays.spread(x, inputs["p"]), inputs["p"]) for k, x in out.items()})
    return results


def check(programs: list[Program], key: int, s: float) -> None:
    g = with_specials(numbers(key, (SIZE,), 60, 2.0**90), key)
    p = numbers(key + 1, (SIZE,))  # no subnormal numbers: p is what the results are added to
    inputs = {"g": g, "p": p, "s": np.float32(s)}
    got = jax.jit(lambda inputs: in_jax(programs, inputs))(inputs)
    for program, actual in zip(programs, got, strict=True):
        assert_same_bits(expected(program, inputs), actual, f"\n{program}\n")


@settings(max_examples=7, phases=[Phase.generate])
@given(data=st.data(), key=st.integers(0, 1000))
def test_array_programs(data: st.DataObject, key: int) -> None:
    programs = [
        array_program(data.draw(_INSTRUCTIONS), [data.draw(st.sampled_from(NUMBERS)) for _ in range(2)])
        for _ in range(8)
    ]
    check(programs, key, data.draw(st.sampled_from(NUMBERS)))


# Each a program in which XLA would rewrite something; found by the test above, or known from its sources.
REWRITTEN: tuple[Callable[[Any, Any, Any], Any], ...] = (
    lambda g, p, s: g * p + p,
    lambda g, p, s: p - -(g * p),
    lambda g, p, s: abs(g * p) + g,
    lambda g, p, s: verbs.where(p > 0, g * p, p) + g,
    lambda g, p, s: g * p + 0.1,
    lambda g, p, s: (g * p + 0.0) + p,
    lambda g, p, s: (g * p * 1.0) - g,
    lambda g, p, s: g + 0.3,
    lambda g, p, s: g * 0.3,
    lambda g, p, s: (g * s) * 0.7,
    lambda g, p, s: ((g + p) * 0.3) * 0.7,
    lambda g, p, s: (g * 0.3 + 0.0) * 0.7,
    lambda g, p, s: (p + 1.0) + 0.1,
    lambda g, p, s: ((g + p) + 1.0) + 0.1,
    lambda g, p, s: (verbs.maximum(g, p) + 1.0) + 0.1,
    lambda g, p, s: 1.0 - (0.7 - p),
    lambda g, p, s: g / verbs.sqrt(abs(p)),
    lambda g, p, s: g / (verbs.sqrt(abs(p)) + 0.0),
    lambda g, p, s: 1.0 / (verbs.sqrt(abs(p)) * 1.0),
    lambda g, p, s: (p / g) / (p + 3.0),
    lambda g, p, s: p / (g / (p + 3.0)),
    lambda g, p, s: verbs.sqrt(g * g),
    lambda g, p, s: p / verbs.full_like(p, 3.0),
    lambda g, p, s: g / verbs.full_like(p, s),
    lambda g, p, s: 1.0 / (p * -0.0 + 0.0),
    lambda g, p, s: verbs.where(p > 0, g, p),
    lambda g, p, s: -g,
    lambda g, p, s: g,
)


def test_known_rewritings() -> None:
    programs = []
    for formula in REWRITTEN:
        graph = Graph()
        g, p, s = (graph.input(*x) for x in (("g", Sort.ARRAY), ("p", Sort.ARRAY), ("s", Sort.SCALAR)))
        programs.append(lower(graph.program({"result": formula(g, p, s)})))
    for number in (0.1, 3.0):
        check(programs, 5, number)


# -- Scalars -----------------------------------------------------------------------------------------------------------

SCALAR_UNARY = ("sqrt", "neg", "abs", "sign", "floor", "exp", "log", "cos")


def scalar_program(instructions: list[Instruction], constants: list[float]) -> Program:
    graph = Graph()
    values: list[Any] = [graph.input(name, Sort.SCALAR) for name in ("s", "t")]
    values += [graph.constant(c) for c in constants]
    for op, i, j, k in instructions:
        x, y = values[-1 - i % len(values)], values[-1 - j % len(values)]
        if op in UNARY:
            values.append(emit(SCALAR_UNARY[(j + k) % len(SCALAR_UNARY)], x))
        elif op == "where":
            values.append(emit("where", emit("lt", x, y), x, values[-1 - k % len(values)]))
        else:
            values.append(emit(op, x, y))
    return lower(graph.program({"last": values[-1], "before": values[-2]}))


# Each try compiles: a failure is shown as it was found.
@settings(max_examples=10, phases=[Phase.generate])
@given(data=st.data())
def test_scalar_programs(data: st.DataObject) -> None:
    check_scalars(
        [
            scalar_program(data.draw(_INSTRUCTIONS), [data.draw(st.sampled_from(NUMBERS)) for _ in range(3)])
            for _ in range(6)
        ],
        numbers(data.draw(st.integers(0, 1000)), (64,), decades=3, largest=10.0),
    )


REWRITTEN_SCALARS: tuple[Callable[[Any, Any], Any], ...] = (
    lambda s, t: s * t + t,
    lambda s, t: t * 0.3 + 0.1,
    lambda s, t: (t + 0.1) + 0.2,
    lambda s, t: 1.0 - (0.7 - t),
    lambda s, t: (t * 0.3) * 0.7,
    lambda s, t: t / 3.0,
    lambda s, t: (s / t) / (t + 7.0),
    lambda s, t: t / verbs.sqrt(s),
    lambda s, t: 1.0 / (verbs.sqrt(s) + 0.0),
    lambda s, t: 1.0 / (t * -0.0 + 0.0),
    lambda s, t: 1.0 / verbs.floor(t * -0.0),
)


def test_known_rewritings_of_scalars() -> None:
    programs = []
    for formula in REWRITTEN_SCALARS:
        graph = Graph()
        s, t = graph.input("s", Sort.SCALAR), graph.input("t", Sort.SCALAR)
        programs.append(lower(graph.program({"result": formula(s, t)})))
    check_scalars(programs, numbers(3, (64,), decades=2))


def check_scalars(programs: list[Program], t: Any) -> None:
    """float64 bits, at 64 values of the inputs at once; whatever is subnormal apart."""
    s = np.arange(1, 65, dtype=np.int32)

    @jax.jit
    @in_float64
    def run_all(s: Any, t: Any) -> Any:
        def one(s: Any, t: Any) -> Any:
            calls = [Call(program, {"s": widen(s), "t": widen(t)}) for program in programs]
            return [run([call], TABLE)[0] for call in calls]

        return [{k: _halves(x) for k, x in out.items()} for out in jax.vmap(one)(s, t)]

    for program, actual in zip(programs, run_all(s, t), strict=True):
        inputs = {"s": s.astype(np.float64), "t": t.astype(np.float64)}
        want = {k: np.broadcast_to(np.asarray(x, np.float64), 64) for k, x in _evaluate(program, inputs).items()}
        got = {k: np.ascontiguousarray(np.asarray(x)).view(np.float64)[:, 0] for k, x in actual.items()}
        subnormal = {k: (x != 0) & (np.abs(x) < np.finfo(np.float64).smallest_normal) for k, x in want.items()}
        assert_same_bits(
            {k: np.where(subnormal[k], 0, x) for k, x in want.items()},
            {k: np.where(subnormal[k], 0, x) for k, x in got.items()},
            f"\n{program}\n",
        )


def _evaluate(program: Program, inputs: dict[str, Any]) -> dict[str, Any]:
    with np.errstate(all="ignore"):
        return run([Call(program, inputs)], reference.TABLE)[0]


def _halves(x: Any) -> Any:
    """As bits: float64 would leave the jit as something else."""
    x = lax.broadcast_in_dim(x, (64,), (0,)) if np.ndim(x) else lax.full((64,), x, np.float64)
    return lax.bitcast_convert_type(x, np.uint32)
