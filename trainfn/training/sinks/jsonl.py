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
    """Appends to a file, a line for each record.

    When `write` returns, the line is with the operating system, and survives the end of this process, however it ends;
    the disk itself is waited for only by `close`.

    resume_at: batches that the run goes on from: lines about later ones, of the run that was interrupted, are dropped,
        and so is a line that was not written to its end.  None goes on behind all whole lines, or from where `open`
        is told that the run does.
    """

    def __init__(self, path: str | os.PathLike[str], *, resume_at: int | None = None) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._resume_at = resume_at
        self._begin(resume_at)

    def open(self, run: Mapping[str, Any]) -> None:
        if self._resume_at is None and "batches" in run:
            self._file.close()
            self._begin(int(run["batches"]))
        self._line({"run": dict(run)})

    def write(self, record: Record) -> None:
        values = {name: float(x) for name, x in record.values.items()}
        self._line({"step": int(record.step), **values, **({"event": record.event} if record.event else {})})

    def close(self) -> None:
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def _begin(self, resume_at: int | None) -> None:
        if self.path.exists():
            _cut(self.path, resume_at)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115

    def _line(self, content: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(content, default=str) + "\n")
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

    def names(self) -> list[str]:
        """The metrics that it has, in the order in which they came."""
        return list(dict.fromkeys(name for record in self.records for name in record.values))


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
    """Give a sink all that a file says, in place of what it may have of that run."""
    known = read(path)
    sink.open({**known.run, "batches": 0})
    for record in known.records:
        sink.write(record)
    sink.close()


def _contents(path: Path) -> Iterator[Any]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for i, line in enumerate(file):
            content = _content(line)
            if content is None:
                if line.endswith("\n"):
                    raise ValueError(f"line {i + 1} of {path} is not one that JSONL wrote: {line[:80]!r}")
                return  # not written to its end
            yield content


def _content(line: str) -> Any:
    """What a line says, or None if JSONL did not write it, or not to its end."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    is_ours = isinstance(content, dict) and ("run" in content or isinstance(content.get("step"), int))
    return content if is_ours and line.endswith("\n") else None


def _cut(path: Path, resume_at: int | None) -> None:
    kept = [c for c in _contents(path) if resume_at is None or c.get("step", 0) <= resume_at]
    with replacing(path) as beside:
        beside.write_text("".join(json.dumps(content) + "\n" for content in kept), encoding="utf-8")
