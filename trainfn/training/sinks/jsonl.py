"""A file of JSON lines: the record of truth, from which reports are made and every other sink can be filled again.

    {"run": {...}}
    {"step": 10, "train/loss": 2.5, ...}
    {"step": 10, "event": "..."}

NaN and infinities are written as Python's json spells them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainfn.files import replacing
from trainfn.training.metrics import Record, Sink


class JSONL(Sink):
    """Appends to a file, a line for each record, which is there when `write` returns.

    resume_at: batches that the run goes on from: lines about later ones, of the run that was interrupted, are dropped,
        and so is a line that was not written to its end.  None goes on behind all whole lines.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume_at: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            _cut(self.path, resume_at)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def open(self, run: Mapping[str, Any]) -> None:
        self._line({"run": dict(run)})

    def write(self, record: Record) -> None:
        self._line({"step": record.step, **record.values, **({"event": record.event} if record.event else {})})

    def close(self) -> None:
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def _line(self, content: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(content) + "\n")
        self._file.flush()


@dataclass(frozen=True)
class Run:
    """What a file says.  run: what it was, as sinks are told when it begins, or goes on; records: in order."""

    run: Mapping[str, Any]
    records: tuple[Record, ...]

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """The steps and values of a metric."""
        pairs = [(r.step, r.values[name]) for r in self.records if name in r.values]
        return [step for step, _ in pairs], [x for _, x in pairs]


def read(path: str | os.PathLike[str]) -> Run:
    """What a file of JSON lines says."""
    run: Mapping[str, Any] = {}
    records = []
    for content in _contents(Path(path)):
        if "run" in content:
            run = content["run"]
        else:
            values = {k: v for k, v in content.items() if k not in ("step", "event")}
            records.append(Record(content["step"], values, content.get("event", "")))
    return Run(run, tuple(records))


def replay(path: str | os.PathLike[str], sink: Sink) -> None:
    """Give a sink all that a file says."""
    known = read(path)
    sink.open(known.run)
    for record in known.records:
        sink.write(record)
    sink.close()


def _contents(path: Path) -> Iterator[Any]:
    with open(path, encoding="utf-8") as file:
        for i, line in enumerate(file):
            try:
                content = json.loads(line)
                content.get("step")
            except (ValueError, AttributeError):
                if line.endswith("\n"):
                    raise ValueError(f"line {i + 1} of {path} is not one that JSONL wrote: {line[:80]!r}") from None
                return  # not written to its end
            yield content


def _cut(path: Path, resume_at: int | None) -> None:
    kept = [c for c in _contents(path) if resume_at is None or c.get("step", 0) <= resume_at]
    with replacing(path) as beside:
        beside.write_text("".join(json.dumps(content) + "\n" for content in kept), encoding="utf-8")
