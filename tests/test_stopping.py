"""Early stopping by hand, on both sides, with numbers that are none."""

from __future__ import annotations

import math
from typing import Any

import pytest

from trainfn.training.stopping import early_stopping


def _stops(metrics: list[float], **options: Any) -> list[float]:
    stopping = early_stopping(**options)
    state, stops = stopping.init(), []
    for x in metrics:
        state, stop = stopping(state, x)
        stops.append(stop)
    return stops


@pytest.mark.parametrize(
    ("metrics", "options", "stops"),
    [
        ([3, 2, 2, 2], {"patience": 2}, [0, 0, 0, 1]),
        ([3, 2, 2, 1], {"patience": 2}, [0, 0, 0, 0]),
        ([1, 2, 2, 2], {"patience": 2, "mode": "max"}, [0, 0, 0, 1]),
        ([3, 2.9, 2.8], {"patience": 2, "min_delta": 0.5}, [0, 0, 1]),
        ([3, 2.9, 2.4], {"patience": 2, "min_delta": 0.5}, [0, 0, 0]),
        ([math.nan, math.nan, 5], {"patience": 3}, [0, 0, 0]),
        ([5, math.nan, math.nan], {"patience": 2}, [0, 0, 1]),
        ([math.inf, math.inf], {"patience": 2}, [0, 1]),
        ([1] * 9, {"patience": math.inf}, [0] * 9),
        ([3], {"patience": 1}, [0]),
    ],
    ids=str,
)
def test_when_it_stops(metrics: list[float], options: dict[str, Any], stops: list[float]) -> None:
    assert _stops(metrics, **options) == stops


def test_a_last_metric_that_is_the_best_says_so() -> None:
    stopping = early_stopping(mode="max")
    state, _ = stopping(stopping.init(), 0.5)
    assert (state.best, state.bad) == (-0.5, 0.0)
    assert stopping(state, 0.25)[0].bad == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "up"}, "mode = 'up' must be 'min' or 'max'"),
        ({"patience": 0}, "patience = 0 must be a whole number"),
        ({"patience": 1.5}, "patience = 1.5 must be a whole number"),
        ({"min_delta": -1.0}, "min_delta = -1.0 must be at least 0"),
        ({"min_delta": math.nan}, "min_delta = nan must be at least 0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        early_stopping(**options)
