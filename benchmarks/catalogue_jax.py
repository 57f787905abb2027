"""A row in JAX: the jitted update, parameters and state donated, beside its optax namesake's."""

from __future__ import annotations

from typing import Any

import trainfn_jax
from benchmarks.catalogue import LAYER, timed
from benchmarks.jax_suite import model, step, update
from benchmarks.models import count
from benchmarks.pairs import compare
from tests.catalogue import Row
from tests.catalogue.upstream import optax_transformation
from tests.executions import extras


def _contenders(row: Row) -> tuple[Any, Any]:
    assert row.optax is not None
    return trainfn_jax.transform(row.rule()), optax_transformation(row.optax)


def words(row: Row) -> list[float]:
    """Elements that the compiled updates read and write for each parameter, ours and theirs, as XLA counts them."""
    params, grads = model(LAYER)
    moved = []
    for tx in _contenders(row):
        compiled = update(tx, **extras(row.rule(), 0)).lower(params, tx.init(params), grads).compile()
        moved.append(round(compiled.cost_analysis()["bytes accessed"] / 4 / count(LAYER), 2))
    return moved


def times(row: Row) -> list[float]:
    """The median of ours / theirs and its 95 % interval; both medians in milliseconds."""
    ours, theirs = (step(tx, timed(row), **extras(row.rule(), 0)) for tx in _contenders(row))
    ratio = compare(ours, theirs, pairs=40, seconds=3.0)
    return [round(x, 3) for x in (ratio.median, ratio.low, ratio.high, 1e3 * ratio.ours, 1e3 * ratio.theirs)]
