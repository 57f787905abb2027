"""The promise: every rule, on every execution, leaves the bits numpy does - parameters and all states, every step.

Shapes come from fixed buckets, so that compiled executions compile few programs; Hypothesis chooses numbers,
magnitudes, dtypes and the edges of hyperparameters.

Rows of the class *bounded*, which decompose matrices, have numpy's bits in torch, whose decompositions are numpy's, and
in JAX numbers that are close.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bits import assert_same_bits
from tests.catalogue import FIRST, ROWS, Row
from tests.executions import EXECUTIONS, run_reference
from tests.inputs import numbers, with_specials

OTHERS = [name for name in EXECUTIONS if name != "reference"]
# Zero, one, around a vector register, beyond a chunk of a thread, matrices and a 0-d tensor.
MODELS: tuple[dict[str, tuple[int, ...]], ...] = (
    {"a": (0,), "b": (1,), "c": ()},
    {"a": (15,), "b": (16,), "c": (17,), "d": (3, 5)},
    {"a": (70, 500), "b": (7,)},
)
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def _inputs(model: Any, key: int, steps: int, magnitude: float, special: bool, dtype: Any) -> Any:
    with np.errstate(over="ignore"):
        params = {k: numbers(key + i, s).astype(dtype) for i, (k, s) in enumerate(model.items())}
        grads = []
        for n in range(1, steps + 1):
            g = {k: numbers(key + 31 * n + i, s, largest=magnitude) for i, (k, s) in enumerate(model.items())}
            if special:
                g = {k: with_specials(x, key + n) for k, x in g.items()}
            grads.append({k: x.astype(dtype) for k, x in g.items()})
    return params, grads


def _check(name: str, row: Row, rule: Any, params: Any, grads: Any) -> None:
    expected = run_reference(rule, params, grads)
    actual = EXECUTIONS[name](rule, params, grads)
    compare = assert_close if row.is_bounded and name.startswith("jax") else assert_same_bits
    for n, (a, b) in enumerate(zip(expected, actual, strict=True)):
        compare(a, b, f"{row.name} on {name}, step {n}")


# Of a leaf's parameter or state, within a few updates, in units of its largest number.
BOUND = 1e-4


def assert_close(expected: Mapping[str, Any], actual: Mapping[str, Any], context: str) -> None:
    """The same numbers within `BOUND`, and the same infinities and NaNs.

    Close numbers may be rounded to neighbours where they are stored in 16 bits.
    """
    assert expected.keys() == actual.keys(), context
    for name, x in expected.items():
        x, y = np.asarray(x), np.asarray(actual[name])
        assert (x.dtype, x.shape) == (y.dtype, y.shape), f"{context}: {name}"
        size = float(np.max(np.abs(x), where=np.isfinite(x), initial=0))
        bound = BOUND + (float(ml_dtypes.finfo(x.dtype).eps) if x.dtype.itemsize == 2 else 0.0)
        np.testing.assert_allclose(y, x, rtol=0, atol=bound * size, err_msg=f"{context}: {name}")


def _edges(row: Row) -> list[dict[str, float]]:
    return [{}] + [{k: v} for k, values in row.edges.items() for v in values]


def _leaves_subnormals(name: str) -> bool:
    """Executions that do not flush; `trainfn_torch.foreach` says why."""
    return name == "torch_foreach"


@pytest.mark.parametrize("execution", OTHERS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_same_bits(row: Row, execution: str) -> None:
    models = MODELS[:-1] if row.is_bounded else MODELS  # decomposing a matrix of 500 rows takes a second
    together = {f"{name}{i}": shape for i, model in enumerate(models) for name, shape in model.items()}
    _check(execution, row, row.rule(), *_inputs(together, 1000, 4, 1.0, False, DTYPES[row.dtype]))


# Eager JAX runs the jitted function: `test_same_bits` shows it.
@pytest.mark.parametrize("execution", [name for name in OTHERS if name != "jax_eager"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@given(data=st.data())
def test_same_bits_at_all_magnitudes(
    row: Row, execution: str, data: st.DataObject, pytestconfig: pytest.Config
) -> None:
    special = not _leaves_subnormals(execution) and data.draw(st.booleans())
    magnitude = 2.0 ** data.draw(
        st.sampled_from((0, 30, 60) if _leaves_subnormals(execution) else (-90, -40, 0, 40, 90))
    )
    # Each dtype is a compilation, in JAX each setting and each leaf, too: the whole choice is for the first rows.
    is_whole = row.name in FIRST or pytestconfig.getoption("--long")
    is_jax = execution.startswith("jax")
    dtype = data.draw(st.sampled_from(list(DTYPES))) if is_whole else row.dtype
    hyper = data.draw(st.sampled_from(_edges(row))) if dtype == row.dtype and (is_whole or not is_jax) else {}
    key = data.draw(st.integers(0, 2**20))
    model = MODELS[1] if is_whole or not is_jax else {"a": (17,), "b": (3, 5)}
    _check(execution, row, row.rule(**hyper), *_inputs(model, key, 3, magnitude, special, DTYPES[dtype]))


@pytest.mark.parametrize("execution", OTHERS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_float64_is_bounded(row: Row, execution: str) -> None:
    """float64 leaves: at most 4 ulp of the largest parameter or state of the leaf from the reference, each step.

    Where matrices are decomposed it is 1e-12, and of bases of a null space there is no bound.
    """
    bound = 1e-12 if row.is_bounded else 4 * 2.0**-52
    params, grads = _inputs(MODELS[1], 77, 1, 1.0, False, np.float64)
    (expected,), (actual,) = (EXECUTIONS[name](row.rule(), params, grads) for name in ("reference", execution))
    for name, x in expected.items():
        if np.size(x):
            scale = max(float(np.max(np.abs(x))), math.ldexp(1, -1000))
            apart = np.abs(np.asarray(x, np.float64) - np.asarray(actual[name], np.float64))
            assert np.max(apart) <= bound * scale, name
