"""Scalars that are float64 tensors, as on devices and of whole curves: the reference's bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import trainfn as tf
from tests.bits import differing
from tests.torch.test_kernels import EDGES, ONE, TWO
from trainfn import reference
from trainfn.interpret import Call, run
from trainfn.lowering import lower
from trainfn.program import Program, Sort
from trainfn.trace import Graph, emit
from trainfn_torch import scalars


def program_of(op: str, arity: int) -> Program:
    graph = Graph()
    result: Any = emit(op, *(graph.input(f"x{i}", Sort.SCALAR) for i in range(arity)))
    return graph.program({"result": emit("where", result, 1.0, 0.0) if result.sort is Sort.FLAG else result})


def check(op: str, *xs: Any) -> None:
    program = program_of(op, len(xs))
    rows = [dict(zip([f"x{i}" for i in range(len(xs))], map(float, row), strict=True)) for row in zip(*xs, strict=True)]
    expected = np.array([reference.evaluate(program, row)["result"] for row in rows])
    curves = {f"x{i}": torch.from_numpy(np.array(x, np.float64)) for i, x in enumerate(xs)}
    actual = run([Call(lower(program), curves)], scalars.TABLE)[0]["result"]
    assert differing(expected, actual.numpy()) == 0


@pytest.mark.parametrize("op", ONE)
def test_of_one_number(op: str) -> None:
    x = np.concatenate([EDGES, *ONE[op]])
    check(op, x[np.isnan(x) | (x == np.floor(x))] if op == "pow2" else x)


@pytest.mark.parametrize("op", TWO)
def test_of_two_numbers(op: str) -> None:
    pairs = [np.array([(a, b) for a in EDGES for b in EDGES]).T, *map(np.array, TWO[op])]
    check(op, *np.concatenate(pairs, axis=1))


def test_a_schedule_of_a_square_root() -> None:
    """torch's is off by one unit in the last place in one of some hundred."""

    @tf.schedule
    def growing(step: Any, *, scale: Any = 1.0) -> Any:
        return scale * tf.verbs.sqrt(step)

    steps = np.arange(20_000)
    curve = growing()
    assert differing(curve(steps), curve(torch.from_numpy(steps)).numpy()) == 0
    many = torch.func.vmap(curve)(torch.arange(5))
    torch.testing.assert_close(many, curve(torch.arange(5)), rtol=1e-15, atol=0)
