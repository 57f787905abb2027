"""Random rules have the reference's bits in every execution of torch: parameters, states and counters.

Leaves of both dtypes are in one model, so that executions must tell them apart where they work on many at a time.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

import trainfn as tf
from tests.bits import assert_same_bits
from tests.executions import Trajectory, run_reference, run_torch
from tests.inputs import numbers, with_specials
from tests.random_rules import rules
from trainfn import reference
from trainfn_torch import executions, pieces, scalars

SHAPES: dict[str, tuple[int, ...]] = {"a": (301,), "b": (3, 5), "c": (), "d": (0,), "e": (67,), "f": (2, 3)}
NARROW = {"c", "e", "f"}
STEPS = 3


def leaves(key: int, decades: int = 8, largest: float = 1.0, special: bool = False) -> dict[str, Any]:
    arrays = {name: numbers(key + i, shape, decades, largest) for i, (name, shape) in enumerate(SHAPES.items())}
    if special:
        arrays = {name: with_specials(x, key) for name, x in arrays.items()}
    return {name: x.astype(ml_dtypes.bfloat16) if name in NARROW else x for name, x in arrays.items()}


def run_unflushed(rule: tf.Rule, params: Any, grads: Any) -> Trajectory:
    """The reference as `foreach` computes: subnormal numbers of arrays stay."""
    flushing = reference.arrays

    def arrays(storage: Any, shape: tuple[int, ...]) -> dict[str, Any]:
        plain = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}
        return {**flushing(storage, shape), **plain}

    def load(x: Any) -> Any:
        return np.asarray(x).astype(reference.compute_dtype(np.asarray(x).dtype))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "arrays", arrays)
        patch.setattr(reference, "load", load)
        return run_reference(rule, params, grads)


def run_as_on_a_device(execution: str, rule: tf.Rule, params: Any, grads: Any) -> Trajectory:
    """Made believe of the CPU: the host reads no count, state or sum, and every scalar made from one is a tensor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scalars, "_READ_BY_HOST", ())
        return run_torch(execution, rule, params, grads)


def run_in_pieces(rule: tf.Rule, params: Any, grads: Any) -> Trajectory:
    """As what works along axes is run, whether it does or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executions, "choose", lambda leaf, preferred: pieces)
        return run_torch("fused", rule, params, grads)


def assert_same(expected: Trajectory, actual: Trajectory, execution: str) -> None:
    for n, (a, b) in enumerate(zip(expected, actual, strict=True)):
        assert_same_bits(a, b, f"{execution}, step {n + 1}")


# Each try compiles: a failure is shown as it was found.
@settings(max_examples=20, phases=[Phase.generate])
@given(rule=rules(), key=st.integers(0, 2**20), is_wide=st.booleans(), special=st.booleans())
def test_random_rules(rule: tf.Rule, key: int, is_wide: bool, special: bool) -> None:
    params = leaves(key)
    magnitudes = (60, 2.0**60) if is_wide else (8, 1.0)
    grads = [leaves(key + 100 * n, *magnitudes, special) for n in range(1, STEPS + 1)]
    note(str(rule.program(tf.Leaf("a", SHAPES["a"]))))
    expected = run_reference(rule, params, grads)
    assert_same(expected, run_torch("single", rule, params, grads), "single")
    assert_same(expected, run_as_on_a_device("single", rule, params, grads), "single on a device")
    assert_same(expected, run_torch("fused", rule, params, grads), "fused")
    assert_same(expected, run_in_pieces(rule, params, grads), "pieces")
    unflushed = run_unflushed(rule, params, grads)
    assert_same(unflushed, run_torch("foreach", rule, params, grads), "foreach")
    assert_same(unflushed, run_as_on_a_device("foreach", rule, params, grads), "foreach on a device")


@settings(max_examples=12, phases=[Phase.generate])
@given(rule=rules(along_axes=True), key=st.integers(0, 2**20), special=st.booleans())
def test_random_rules_along_axes(rule: tf.Rule, key: int, special: bool) -> None:
    params = leaves(key)
    grads = [leaves(key + 100 * n, special=special) for n in range(1, STEPS + 1)]
    note(str(rule.program(tf.Leaf("b", SHAPES["b"]))))
    expected = run_reference(rule, params, grads)
    assert_same(expected, run_torch("single", rule, params, grads), "single")
    assert_same(expected, run_torch("fused", rule, params, grads), "fused and in pieces")
