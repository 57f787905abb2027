"""Measuring two things against each other on a machine that others use too.

One absolute time says little here: the neighbours' load changes it by half.  Two contenders are therefore run in turn,
many times, so that each pair sees the same moment of the machine, and the median of the pairs' ratios is reported with
the interval that holds the true median with 95 % confidence (order statistics; no assumption about the noise).
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ratio:
    """The median of (ours / theirs), its 95 % interval, and both medians in seconds."""

    median: float
    low: float
    high: float
    ours: float
    theirs: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def measure(step: Callable[[], object]) -> float:
    """Seconds one call takes."""
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def said(step: Callable[[], object]) -> float:
    """What a call returns, of one that takes the time of a part of what it does."""
    seconds = step()
    assert isinstance(seconds, float)
    return seconds


def compare(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    pairs: int = 40,
    warmup: int = 5,
    seconds: float = 30.0,
    measure: Callable[[Callable[[], object]], float] = measure,
) -> Ratio:
    """Time both in turn, in alternating order; fewer pairs than asked when they would take over `seconds`."""
    for _ in range(warmup):
        ours()
        theirs()
    gc.collect()
    gc.disable()
    try:
        times: list[tuple[float, float]] = []
        end = time.perf_counter() + seconds
        while len(times) < pairs and (len(times) < 12 or time.perf_counter() < end):
            if len(times) % 2:
                theirs_time = measure(theirs)
                times.append((measure(ours), theirs_time))
            else:
                times.append((measure(ours), measure(theirs)))
    finally:
        gc.enable()
    ratios = sorted(a / b for a, b in times)
    low, high = _interval(len(ratios))
    return Ratio(
        statistics.median(ratios),
        ratios[low],
        ratios[high],
        statistics.median(a for a, _ in times),
        statistics.median(b for _, b in times),
    )


def _interval(n: int) -> tuple[int, int]:
    """Indices of the order statistics that enclose the median with 95 % confidence (normal approximation)."""
    spread = 0.98 * n**0.5
    return max(0, int(n / 2 - spread)), min(n - 1, int(n / 2 + spread))
