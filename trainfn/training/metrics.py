"""What a run writes down: records of numbers and events, and the sinks that take them.

    sinks = Sinks([JSONL("run/metrics.jsonl"), Console(), TensorBoard("run/tensorboard")])
    sinks.open({"updates": 1000, "batch_size": 64})
    sinks.write(Record(10, {"train/loss": 2.3, "train/lr": 1e-3}))
    sinks.write(Record(10, event="the loss rose to 5.1"))
    sinks.close()

Names of values have their group in front: `train/`, `eval/`, `time/`, and `grad_norm/LEAF` for the norms of leaves'
gradients, of which plots make the flow of gradients.  A sink that fails is left out from then on, with one warning: it
never stops the training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainfn.convert import BFLOAT16, cast

_RESERVED = ("step", "event", "run")


@dataclass(frozen=True)
class Record:
    """step: batches taken so far; values: by name, `train/loss`; event: a sentence, for what is no number."""

    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    event: str = ""

    def __post_init__(self) -> None:
        taken = [name for name in _RESERVED if name in self.values]
        if taken:
            raise ValueError(
                f"Record: {taken[0]!r} is no name for a value, because files of records have it for something else: "
                f"call it train/{taken[0]}, say."
            )
        broken = [name for name in self.values if len(name.splitlines()) != 1]
        if broken:
            raise ValueError(f"Record: the name {broken[0]!r} is not one line, as tables and files of records want it.")


class Sink:
    """Somewhere that records go.  What a sink has no use for it leaves out."""

    def open(self, run: Mapping[str, Any]) -> None:
        """Before the first record: what the run is, for JSON.

        Some of it means something to sinks: `updates` are how many are planned, and `batches` those after which the
        run goes on.  A sink drops what it has of later ones; without `batches` it goes on behind what is there.
        """

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
        failed = []
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:  # a sink is foreign code, and may fail with anything
                self._sinks.remove(sink)
                failed.append(f"{type(sink).__name__} failed with {type(error).__name__}: {error}")
                with suppress(Exception):
                    sink.close()
        for what in failed:  # when all others have been served: where warnings are errors, this one ends it
            warnings.warn(
                f"{what}. It takes no more records, and the training goes on. When it is mended, "
                "trainfn.training.sinks.jsonl.replay fills it from the run's metrics.jsonl.",
                stacklevel=3,
            )


def histogram(array: np.ndarray[Any, Any], bins: int = 32) -> tuple[Any, Any] | None:
    """How many of an array's numbers fall between which edges, as numpy.histogram has it; None where none is finite.

    Numbers that are not finite are left out; of complex ones it is their size that is counted.
    """
    x = array.ravel()
    if x.dtype == BFLOAT16:
        x = cast(x, "float32")
    x = np.abs(x) if np.iscomplexobj(x) else x.astype(np.float64)
    x = x[np.isfinite(x)]
    return np.histogram(x, bins) if x.size else None
