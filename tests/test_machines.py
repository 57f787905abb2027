"""State machines, plateaus first: what torch's does, the same bits on every library's numbers, and bad input."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

import trainfn as tf
from tests.inputs import numbers
from trainfn.machine import machine
from trainfn.verbs import minimum

METRICS = 1.0 + np.abs(np.cumsum(numbers(5, (80,)).clip(-0.2, 0.2).astype(np.float64)))
METRICS[[3, 40]] = math.nan, math.inf
PLATEAUS: list[dict[str, Any]] = [
    {"mode": mode, "relative": relative, "patience": patience, "cooldown": cooldown}
    for mode in ("min", "max")
    for relative in (True, False)
    for patience, cooldown in ((0, 0), (3, 0), (2, 4))
]


@pytest.mark.parametrize("options", PLATEAUS, ids=str)
def test_plateau_is_torchs(options: dict[str, Any]) -> None:
    import torch

    plateau = tf.reduce_on_plateau(**options, factor=0.5, threshold=0.01, floor=0.01)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        mode=options["mode"],
        threshold_mode="rel" if options["relative"] else "abs",
        patience=options["patience"],
        cooldown=options["cooldown"],
        factor=0.5,
        threshold=0.01,
        min_lr=0.01,
        eps=0.0,
    )
    state = plateau.init()
    for metric in METRICS.astype(np.float32):
        theirs.step(float(metric))
        state, factor = plateau(state, float(metric))
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-14)
    assert factor < 1.0


def test_plateau_has_the_same_bits_everywhere() -> None:
    import jax
    import jax.numpy as jnp
    import torch

    plateau = tf.reduce_on_plateau(factor=0.3, patience=1, threshold=1e-3)
    jitted = jax.jit(plateau.__call__)
    states = [plateau.init()] * 4
    for metric in METRICS:
        given = (float(metric), np.float64(metric), torch.tensor(metric), jnp.float32(metric))
        results = [(jitted if i == 3 else plateau)(s, x) for i, (s, x) in enumerate(zip(states, given, strict=True))]
        states = [state for state, _ in results]
        assert len({tuple(map(float, state)) for state in states}) == 1
        factors = [float(value) for _, value in results]
        assert factors[0] == factors[1] == factors[2]
        assert np.float32(factors[0]) == np.float32(factors[3])


def test_a_metric_that_stands_still_is_not_better() -> None:
    plateau = tf.reduce_on_plateau(threshold=0.0, patience=0)
    state, _ = plateau(plateau.init(), 0.1)
    assert plateau(state, 0.1)[1] == 0.1
    assert tf.reduce_on_plateau(patience=0, factor=0.5, eps=0.5)(state, 1.0)[1] == 1.0


def test_it_prints_as_formulas() -> None:
    text = str(tf.reduce_on_plateau(patience=3))
    assert text.startswith("reduce_on_plateau(mode='min', factor=0.1, patience=3,")
    assert "value = " in text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf.reduce_on_plateau(mode="low"), "mode = 'low' must be 'min' or 'max'"),
        (lambda: tf.reduce_on_plateau(factor=1.0), r"factor = 1.0 must be in \(0, 1\)"),
        (lambda: tf.reduce_on_plateau(patience=-1), "patience = -1 must be at least 0"),
        (lambda: tf.reduce_on_plateau(patients=1), "patients"),
        (lambda: tf.reduce_on_plateau()(None, 1.0), "the state is what init or the last call returned, not None"),
        (lambda: _called_with(), "reduce_on_plateau takes a state and metric; 1 were given"),
        (lambda: _called_with("0.5"), r"'0.5' \(str\) is no number of Python, numpy, torch or JAX"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def _called_with(*signals: Any) -> Any:
    plateau = tf.reduce_on_plateau()
    return plateau(plateau.init(), *signals)


class Best(NamedTuple):
    lowest: Any = math.inf


def test_a_machine_of_ones_own() -> None:
    @machine()
    def best_so_far(state: Best, metric, *, offset=0.0):  # type: ignore[no-untyped-def]
        lowest = minimum(state.lowest, metric + offset)
        return Best(lowest), lowest

    best = best_so_far(offset=1.0)
    state, _ = best(best.init(), 3.0)
    assert best(state, 5.0) == (Best(4.0), 4.0)

    @machine()
    def forgetful(state: Best, metric):  # type: ignore[no-untyped-def]
        return metric

    with pytest.raises(TypeError, match="machine forgetful: it must return Best"):
        forgetful()
