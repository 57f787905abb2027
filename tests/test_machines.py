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


def _greedy_by_hand(metrics: Any, lr: float, low: float, high: float, options: dict[str, Any]) -> list[float]:
    """GreedyLR with its learning rate multiplied and divided, from its description."""
    start, path = lr, []
    best, good, bad, rest, stuck = math.inf, 0, 0, 0, 0
    for metric in metrics:
        x = -metric if options["mode"] == "max" else metric
        t = options["threshold"] * (1 if options["mode"] == "min" else -1)
        if rest:
            rest, good, bad = rest - 1, 0, 0
        elif x < (best * (1 - t) if options["relative"] else best - abs(t)):
            best, good, bad = x, good + 1, 0
        else:
            good, bad = 0, bad + 1
        if good > options["patience"]:
            lr, good, rest, stuck = min(lr / options["factor"], high), 0, options["rest_after_rise"], 0
        elif bad > options["patience"]:
            lr, bad, rest = max(lr * options["factor"], low), 0, options["rest_after_fall"]
            stuck += lr == low
            if stuck == options["reset"]:
                lr, best, good, bad, rest, stuck = start, math.inf, 0, 0, 0, 0
        path.append(lr)
    return path


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(("fall", "rise", "patience", "reset"), [(0, 0, 0, 2), (2, 1, 1, 1), (0, 3, 2, 500)])
def test_greedy_by_hand(mode: str, relative: bool, fall: int, rise: int, patience: int, reset: int) -> None:
    options = {"mode": mode, "relative": relative, "rest_after_fall": fall, "rest_after_rise": rise, "reset": reset}
    options |= {"patience": patience, "factor": 0.7, "threshold": 1e-3}
    metrics = np.float32([*(3 - np.arange(40) / 40), *METRICS, *(0.9 - np.arange(40) / 100), *[0.6] * 60])
    metrics = metrics if mode == "min" else 1 / metrics
    expected = _greedy_by_hand(map(float, metrics), 0.5, 0.1, 2.0, options)
    greedy = tf.greedy(peak=0.5, floor=0.1, ceiling=2.0, **options)
    state = greedy.init()
    for metric, lr in zip(metrics, expected, strict=True):
        state, value = greedy(state, metric)
        assert value == pytest.approx(lr, rel=1e-13)
    assert max(expected) == 2.0
    assert min(expected) < 0.15


def test_greedy_holds_what_is_out_of_its_bounds() -> None:
    """A learning rate below the floor does not fall up to it, and 0 stays what it is; the third fall is a reset."""
    for peak in (0.0, 0.05):
        greedy = tf.greedy(peak=peak, floor=0.1, patience=0, reset=3)
        state, path = greedy.init(), []
        for metric in (1.0, 2.0, 2.0, 2.0, 2.0):
            state, value = greedy(state, metric)
            path.append(value)
        risen = peak / 0.95
        assert path == pytest.approx([risen, risen, risen, peak, risen])


@pytest.mark.parametrize(
    "plateau",
    [
        tf.reduce_on_plateau(factor=0.3, patience=1, threshold=1e-3),
        tf.greedy(factor=0.7, patience=1, threshold=1e-3, floor=0.2, reset=2),
    ],
    ids=lambda machine: machine.name,
)
def test_machines_have_the_same_bits_everywhere(plateau: Any) -> None:
    import jax
    import jax.numpy as jnp
    import torch

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
        (lambda: tf.greedy(mode="low"), "mode = 'low' must be 'min' or 'max'"),
        (lambda: tf.greedy(factor=1.0), r"factor = 1.0 must be in \(0, 1\): a rise divides by it"),
        (lambda: tf.greedy(reset=0), "patience = 10 must be at least 0, and reset = 0 at least 1"),
        (lambda: tf.greedy(peak=-1.0), "peak = -1.0 must be at least 0 and finite"),
        (lambda: tf.greedy(floor=2.0), "floor = 2.0 must be at least 0, and at most ceiling = 1.0"),
        (lambda: tf.reduce_on_plateau()(None, 1.0), "the state is what init or the last call returned, not None"),
        (lambda: _called_with(), "reduce_on_plateau takes a state and metric; 1 were given"),
        (lambda: _called_with(None), "reduce_on_plateau: metric is None: call it with what was measured"),
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
