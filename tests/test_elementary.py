"""exp, log, cos and pow against 60-digit arithmetic, and at their edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from trainfn import reference
from trainfn.program import Sort
from trainfn.trace import Graph, emit

RNG = np.random.default_rng(7)
EXPONENTS = RNG.uniform(-700, 700, 1000)
NEAR_ZERO = RNG.uniform(-1, 1, 1000) * 10.0 ** RNG.uniform(-12, 0, 1000)
POSITIVE = np.concatenate([10.0 ** RNG.uniform(-300, 300, 1000), [2.0**-1022, 2.0**1023, 1e308, 1.7e308]])


def _run(op: str, *xs: Any) -> Any:
    graph = Graph()
    inputs = [graph.input(f"x{i}", Sort.SCALAR) for i in range(len(xs))]
    program = graph.program({"result": emit(op, *inputs)})
    return reference.evaluate(program, {f"x{i}": x for i, x in enumerate(xs)})["result"]


def _error_in_ulp(got: Any, exact: list[Any]) -> float:
    rounded = np.array([float(x) for x in exact])
    ulp = np.spacing(np.abs(rounded))
    errors = [abs(mpmath.mpf(float(a)) - b) / mpmath.mpf(float(u)) for a, b, u in zip(got, exact, ulp, strict=True)]
    return float(max(errors))


@pytest.mark.parametrize(
    ("op", "exact", "xs", "bound"),
    [
        ("exp", mpmath.exp, np.concatenate([EXPONENTS, NEAR_ZERO]), 1.2),
        ("log", mpmath.log, np.concatenate([POSITIVE, 1 + NEAR_ZERO / 2]), 0.7),
    ],
)
def test_error(op: str, exact: Callable[[Any], Any], xs: Any, bound: float) -> None:
    with mpmath.workdps(60):
        assert _error_in_ulp(_run(op, xs), [exact(mpmath.mpf(float(x))) for x in xs]) <= bound


@pytest.mark.parametrize("largest", [4.0, 1e6])
def test_error_of_cos(largest: float) -> None:
    xs = RNG.uniform(-largest, largest, 2000)
    with mpmath.workdps(60):
        exact = [mpmath.cos(mpmath.mpf(float(x))) for x in xs]
        error = max(abs(mpmath.mpf(float(a)) - b) for a, b in zip(_run("cos", xs), exact, strict=True))
    assert error <= 1.5 * 2.0**-53


DECAYS = RNG.uniform(0.5, 0.99999, 2000), np.floor(10 ** RNG.uniform(0, 4.8, 2000))
OTHERS = 10.0 ** RNG.uniform(-300, 308, 4000), RNG.uniform(-40, 40, 4000)


@pytest.mark.parametrize(("base", "power"), [DECAYS, OTHERS], ids=["decays", "others"])
def test_error_of_pow(base: Any, power: Any) -> None:
    got = _run("pow", base, power)
    with mpmath.workdps(60):
        for x, y, z in zip(base, power, got, strict=True):
            exact = mpmath.mpf(float(x)) ** mpmath.mpf(float(y))
            if 1e-300 < exact < 1e308:
                assert abs(mpmath.mpf(float(z)) - exact) / exact <= (2 + 2 * abs(y * math.log(x))) * 2.0**-52


@pytest.mark.parametrize(
    ("op", "xs", "expected"),
    [
        ("exp", (0.0,), 1.0),
        ("exp", (-math.inf,), 0.0),
        ("exp", (-709.0,), 0.0),
        ("exp", (math.inf,), math.inf),
        ("exp", (1000.0,), math.inf),
        ("exp", (math.nan,), math.nan),
        ("log", (1.0,), 0.0),
        ("log", (0.0,), -math.inf),
        ("log", (5e-324,), -math.inf),
        ("log", (-1.0,), math.nan),
        ("log", (math.inf,), math.inf),
        ("log", (math.nan,), math.nan),
        ("cos", (0.0,), 1.0),
        ("cos", (math.pi,), -1.0),
        ("cos", (math.inf,), math.nan),
        ("pow", (0.0, 0.0), 1.0),
        ("pow", (0.0, 3.0), 0.0),
        ("pow", (0.3, 1.0), 0.3),
        ("pow", (0.3, 2.0), 0.3 * 0.3),
        ("pow", (2.0, 0.5), math.sqrt(2.0)),
        ("pow", (-2.0, 2.0), 4.0),
        ("pow", (-2.0, 1.5), math.nan),
        ("pow", (math.nan, 0.0), 1.0),
        ("pow", (0.5, math.nan), math.nan),
    ],
)
def test_edges(op: str, xs: tuple[float, ...], expected: float) -> None:
    for got in (_run(op, *xs), _run(op, *(np.array([x]) for x in xs))[0]):
        assert got == expected or (math.isnan(got) and math.isnan(expected))


def test_whole_powers_of_negative_numbers() -> None:
    assert _run("pow", -3.0, 3.0) == -_run("pow", 3.0, 3.0) < 0
    assert _run("pow", -3.0, 4.0) == _run("pow", 3.0, 4.0) > 0
    assert _run("pow", -3.0, -3.0) == -_run("pow", 3.0, -3.0) < 0


@pytest.mark.parametrize("op", ["exp", "log", "cos", "pow", "floor"])
def test_numbers_and_arrays_give_the_same_bits(op: str) -> None:
    xs = np.concatenate([EXPONENTS, NEAR_ZERO, POSITIVE, [0.0, -0.0, math.inf, -math.inf, math.nan]])
    arguments = (np.abs(xs), RNG.uniform(-3, 3, xs.size)) if op == "pow" else (xs,)
    curve = _run(op, *arguments)
    one_by_one = np.array([_run(op, *(float(a[i]) for a in arguments)) for i in range(xs.size)])
    assert np.array_equal(curve, one_by_one, equal_nan=True)
    assert np.array_equal(np.signbit(curve[curve == 0]), np.signbit(one_by_one[one_by_one == 0]))
