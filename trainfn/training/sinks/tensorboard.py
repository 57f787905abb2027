"""Event files for TensorBoard, written by its own package, which needs neither TensorFlow nor torch for it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainfn.extras import load
from trainfn.training.metrics import Record, Sink, histogram

_FLUSH = 5  # seconds that a record may wait in memory


class TensorBoard(Sink):
    """Values as scalars, which TensorBoard keeps in float32; events and what the run is as texts; arrays as histograms.

    Records wait in memory for some seconds.  A run that goes on writes another file, whose beginning tells TensorBoard
    to forget later batches of the files before it.  Of several events of one batch TensorBoard may show the last only.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self._package = _load("tensorboard.summary.writer.event_file_writer")
        self._event = _load("tensorboard.compat.proto.event_pb2")
        self._summary = _load("tensorboard.compat.proto.summary_pb2")
        self._tensor = _load("tensorboard.compat.proto.tensor_pb2")
        self._dtype = _load("tensorboard.compat.proto.types_pb2")
        self._file: Any = None

    def open(self, run: Mapping[str, Any]) -> None:
        self._begin()
        if "batches" in run:
            starts = self._event.SessionLog(status=self._event.SessionLog.START)
            self._add(int(run["batches"]) + 1, session_log=starts)
        rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in run.items()]
        self._write(int(run.get("batches", 0)), [self._text("run", "\n".join(["| | |", "| - | - |", *rows]))])

    def write(self, record: Record) -> None:
        values = [self._summary.Summary.Value(tag=tag, simple_value=float(x)) for tag, x in record.values.items()]
        self._write(record.step, [*values, *([self._text("event", record.event)] if record.event else [])])

    def histograms(self, step: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        counted = {name: histogram(array) for name, array in arrays.items()}
        self._write(step, [self._histogram(name, *some) for name, some in counted.items() if some is not None])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self.close()
        self._file = self._package.EventFileWriter(str(self.directory), flush_secs=_FLUSH)

    def _write(self, step: int, values: list[Any]) -> None:
        if self._file is None:
            self._begin()
        if values:
            self._add(step, summary=self._summary.Summary(value=values))

    def _add(self, step: int, **content: Any) -> None:
        self._file.add_event(self._event.Event(wall_time=time.time(), step=step, **content))

    def _text(self, tag: str, text: str) -> Any:
        plugin = self._summary.SummaryMetadata.PluginData(plugin_name="text")
        return self._summary.Summary.Value(
            tag=tag,
            metadata=self._summary.SummaryMetadata(plugin_data=plugin),
            tensor=self._tensor.TensorProto(dtype=self._dtype.DT_STRING, string_val=[text.encode()]),
        )

    def _histogram(self, tag: str, counts: Any, edges: Any) -> Any:
        """Sums are those of the bins' middles."""
        middles = (edges[:-1] + edges[1:]) / 2
        proto = self._summary.HistogramProto(
            min=edges[0],
            max=edges[-1],
            num=counts.sum(),
            sum=(counts * middles).sum(),
            sum_squares=(counts * middles**2).sum(),
            bucket_limit=edges[1:],
            bucket=counts,
        )
        return self._summary.Summary.Value(tag=tag, histo=proto)


def _load(module: str) -> Any:
    return load(module, "tensorboard", "for event files")


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
