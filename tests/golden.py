"""Golden trajectories: hashes of all that every rule leaves behind in 10, 100 and 1,000 float32 steps.

They hold the meaning of each rule still: whoever changes a formula, an order of operations or a rounding changes a
hash, on every execution at once, and has to say so by running `.venv/bin/python -m tests.golden`, which writes them
anew.  Rows of the class *bounded* have none: their bits are those of one machine's LAPACK.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import trainfn as tf
from tests.bits import as_integers
from tests.catalogue import EXACT
from tests.executions import Execution, Trajectory, run_reference
from tests.inputs import numbers

FILE = Path(__file__).with_name("golden.json")
STEPS = (10, 100, 1000)
SHAPES = {"w": (6, 5), "b": (3,)}


@cache
def inputs(steps: int = STEPS[-1], dtype: str = "float32") -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """Parameters and a stream of gradients over eight decades, from the counter generator."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    params = {k: numbers(i, shape).astype(kind) for i, (k, shape) in enumerate(SHAPES.items())}
    keys = {k: 1000 * i for i, k in enumerate(SHAPES, start=1)}
    return params, tuple(
        {k: numbers(keys[k] * 1000 + n, shape).astype(kind) for k, shape in SHAPES.items()} for n in range(steps)
    )


def given(rule: tf.Rule, steps: int = STEPS[-1], dtype: str = "float32") -> tuple[dict[str, Any], Sequence[Any]]:
    """What a rule is given on its golden trajectory; rules that skip get something to skip."""
    params, grads = inputs(steps, dtype)
    return params, tuple(map(_poisoned, range(steps), grads)) if "applied" in rule.program().output else grads


def run(execution: Execution, rule: tf.Rule, steps: int = STEPS[-1], dtype: str = "float32") -> Trajectory:
    """A rule's golden trajectory on one execution."""
    return execution(rule, *given(rule, steps, dtype))


def _poisoned(n: int, g: dict[str, Any]) -> dict[str, Any]:
    special = {2: -np.inf, 5: np.inf, 7: np.nan}.get(n % 10)
    return g if special is None else {**g, "b": np.where(np.arange(3) == 1, np.float32(special), g["b"])}


def digests(trajectory: Iterable[dict[str, Any]]) -> Iterator[str]:
    """After each step a hash of everything that it and the steps before it left behind, names included."""
    hasher = hashlib.sha256()
    for left in trajectory:
        for name in sorted(left):
            x = as_integers(left[name])
            hasher.update(f"{name} {np.shape(left[name])} {x.dtype.itemsize} ".encode())
            hasher.update(x.astype(x.dtype.newbyteorder("<")).tobytes())
        yield hasher.hexdigest()[:32]


def hashes(trajectory: Trajectory) -> list[str]:
    """The digests after `STEPS`, as far as the trajectory goes."""
    return [digest for n, digest in enumerate(digests(trajectory), start=1) if n in STEPS]


HOW = "Write the hashes with `.venv/bin/python -m tests.golden`, and see in `git diff` that no other row changed."


def read() -> dict[str, list[str]]:
    loaded: dict[str, list[str]] = json.loads(FILE.read_text())
    return loaded


def expected(row: str) -> list[str]:
    """The committed digests of a row."""
    table = read()
    assert row in table, f"{row} is not in tests/{FILE.name}. {HOW}"
    return table[row]


if __name__ == "__main__":
    table = {row.name: hashes(run(run_reference, row.rule(), dtype=row.dtype)) for row in EXACT}
    FILE.write_text(json.dumps(table, indent=1) + "\n")
    print(f"wrote {len(table)} rows to {FILE.name}")
