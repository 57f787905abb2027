"""A table for spreadsheets, a row for each record."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainfn.files import replacing
from trainfn.training.metrics import Record, Sink

_FIRST = ("step", "event")


class CSV(Sink):
    """The columns are step, event and each metric's; a metric that comes later is one more column.

    For a new column the file is rewritten, as a whole or not at all.  A number that a record does not have is an empty
    field; NaN is `nan`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._columns = list(_FIRST)
        self._file: Any = None

    def open(self, run: Mapping[str, Any]) -> None:
        self._begin(run.get("batches"))

    def write(self, record: Record) -> None:
        if self._file is None:
            self._begin(None)
        values = {name: repr(float(x)) for name, x in record.values.items()}
        row = {"step": str(int(record.step)), "event": " ".join(record.event.splitlines()), **values}
        new = [name for name in row if name not in self._columns]
        if new:
            self._rewrite([*self._columns, *new], _read(self.path)[1])
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _begin(self, batches: int | None) -> None:
        """Behind what is there of batches up to this one, or of all."""
        columns, rows = _read(self.path) if self.path.exists() else (list(_FIRST), [])
        self._rewrite(columns, (row for row in rows if batches is None or int(row["step"]) <= batches))

    def _rewrite(self, columns: list[str], rows: Iterable[Mapping[str, str]]) -> None:
        self.close()
        with replacing(self.path) as beside, open(beside, "w", encoding="utf-8", newline="") as file:
            writer = _writer(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns
        self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115
        self._writer = _writer(self._file, columns)


def _writer(file: Any, columns: list[str]) -> csv.DictWriter[str]:
    return csv.DictWriter(file, columns, restval="", lineterminator="\n")


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a file; a row that was not written to its end is left out."""
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    if not whole:
        return list(_FIRST), []
    reader = csv.DictReader(whole.decode("utf-8").splitlines())
    columns = list(reader.fieldnames or ())
    if tuple(columns[:2]) != _FIRST:
        raise ValueError(f"{path} is no table that CSV wrote: its first columns are {', '.join(columns[:2])}.")
    return columns, list(reader)
