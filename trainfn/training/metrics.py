"""What a run writes down: records of numbers and events, and the sinks that take them.

A sink that fails is left out from then on, with one warning: it never stops the training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Record:
    """step: batches taken so far; values: by name, `train/loss`; event: a sentence, for what is no number."""

    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    event: str = ""


class Sink:
    """Somewhere that records go.  What a sink has no use for it leaves out."""

    def open(self, run: Mapping[str, Any]) -> None:
        """Before the first record: what the run is, for JSON."""

    def write(self, record: Record) -> None:
        """Take a record."""

    def histograms(self, step: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Take arrays, such as weights or gradients by leaf."""

    def close(self) -> None:
        """After the last record."""


class Sinks(Sink):
    """Several sinks as one."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = list(sinks)

    def open(self, run: Mapping[str, Any]) -> None:
        self._each(lambda sink: sink.open(run))

    def write(self, record: Record) -> None:
        self._each(lambda sink: sink.write(record))

    def histograms(self, step: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._each(lambda sink: sink.histograms(step, arrays))

    def close(self) -> None:
        self._each(lambda sink: sink.close())

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:  # a sink is foreign code, and may fail with anything
                self._sinks.remove(sink)
                warnings.warn(
                    f"{type(sink).__name__} failed and takes no more records of this run: {type(error).__name__}: "
                    f"{error}. The training goes on.",
                    stacklevel=3,
                )
