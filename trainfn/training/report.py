"""A report of one run, or of several beside each other: one HTML file with everything inside it.

    report("runs/a/metrics.jsonl", "report.html")
    report(["runs/a/metrics.jsonl", "runs/b/metrics.jsonl"], "report.html")

    python -m trainfn.training.report report.html runs/a/metrics.jsonl runs/b/metrics.jsonl

It is made from files of JSON lines only, also while a run goes on.  Pictures need the extra `train` (matplotlib).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

from trainfn.files import replacing
from trainfn.training import plots
from trainfn.training.metrics import Record
from trainfn.training.sinks.jsonl import Run, read

_Path: TypeAlias = str | os.PathLike[str]

_STYLE = Path(__file__).with_name("report.css")
_MOST_EVENTS = 200
_CAPTIONS = {
    "loss": "Loss. Where values are many the line is their mean, and the band goes from the least to the greatest; red "
    "crosses on the axis are values that are not finite.",
    "learning_rate": "Learning rate, the largest of any leaf.",
    "gradient_norm": "Norm of the whole gradient.",
    "gradient_flow": "Norm of each leaf's gradient, in the model's order from top to bottom. Red is not finite.",
}


def report(metrics: _Path | Sequence[_Path], path: _Path) -> Path:
    """Write the report of one file of JSON lines, or of several, to a page, which is replaced as a whole; its path."""
    paths = [Path(p) for p in ([metrics] if isinstance(metrics, str | os.PathLike) else metrics)]
    if not paths:
        raise ValueError("report: no file of metrics was given.")
    runs = dict(zip(_labels(paths), map(read, paths), strict=True))
    with replacing(path) as beside:
        beside.write_text(render(runs), encoding="utf-8")
    return Path(path)


def render(runs: Mapping[str, Run]) -> str:
    """The page."""
    title = " and ".join(runs)
    sections = (_numbers, _figures, _events, _configuration)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{"".join(section(runs) for section in sections)}
<footer>Made by trainfn from the metrics of {len(runs)} run{"s" * (len(runs) > 1)}.</footer>
</body>
</html>
"""


def _numbers(runs: Mapping[str, Run]) -> str:
    """The last of each metric, and of the evaluation's the least and greatest too."""
    names = dict.fromkeys(name for run in runs.values() for name in run.names() if not name.startswith("grad_norm/"))
    rows = []
    for name in names:
        rows.append([name, *(_spell(_finals(run, name)[0]) for run in runs.values())])
        if name.startswith("eval/"):
            for i, which in ((1, "least"), (2, "greatest")):
                rows.append([f"{name}, {which}", *(_spell(_finals(run, name)[i]) for run in runs.values())])
    last = [str(max((record.step for record in run.records), default=0)) for run in runs.values()]
    return f"<h2>Final numbers</h2>{_table(['', *runs], [['batches', *last], *rows], 'n')}"


def _finals(run: Run, name: str) -> tuple[float | None, ...]:
    """The last value, and the least and greatest of those that are numbers."""
    values = run.series(name)[1]
    known = [x for x in values if not math.isnan(x)]
    return values[-1] if values else None, min(known, default=None), max(known, default=None)


def _figures(runs: Mapping[str, Run]) -> str:
    drawn = [name for name in plots.FIGURES if plots.has(name, runs)]
    return "<h2>Curves</h2>" + "".join(
        f"<figure>{plots.svg(name, runs)}<figcaption class=faint>{escape(_CAPTIONS[name])}</figcaption></figure>"
        for name in drawn
    )


def _events(runs: Mapping[str, Run]) -> str:
    tables = []
    for label, run in runs.items():
        events = [record for record in run.records if record.event]
        head = f"<h3>{escape(label)}</h3>" if len(runs) > 1 else ""
        tables.append(head + (_event_table(events) if events else "<p>None.</p>"))
    return "<h2>Events</h2>" + "".join(tables)


def _event_table(events: Sequence[Record]) -> str:
    """All, or where they are many the first and the last."""
    half = _MOST_EVENTS // 2
    left_out = len(events) - 2 * half
    shown = [*events[:half], *events[-half:]] if left_out > 0 else events
    rows = [[str(record.step), record.event] for record in shown]
    if left_out > 0:
        rows.insert(half, ["", f"{left_out} more are in the file of metrics."])
    return _table(["batch", "event"], rows, "event")


def _configuration(runs: Mapping[str, Run]) -> str:
    """What each run was, with a mark where they differ."""
    flat = [dict(_flat("", run.run)) for run in runs.values()]
    names = dict.fromkeys(name for one in flat for name in one)
    rows = [[name, *(one.get(name, "") for one in flat)] for name in names]
    differing = {i for i, row in enumerate(rows) if len(set(row[1:])) > 1}
    note = "<p class=faint>Where the runs differ the row is marked.</p>" if differing else ""
    return f"<h2>Configuration</h2>{note}{_table(['', *runs], rows, '', differing)}"


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
    """Nested names with a point between them."""
    if isinstance(value, Mapping) and (value or not prefix):
        for name, x in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), x)
    else:
        yield prefix, str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str, marked: Iterable[int] = ()) -> str:
    """kind: the class of all cells but the first of each row."""
    marked = set(marked)
    top = "".join(f'<th class="{kind if i else ""}">{escape(cell)}</th>' for i, cell in enumerate(head))
    body = "".join(
        f'<tr class="{"differs" if n in marked else ""}">'
        + "".join(f'<td class="{kind if i else ""}">{escape(cell)}</td>' for i, cell in enumerate(row))
        + "</tr>\n"
        for n, row in enumerate(rows)
    )
    return f'<div class="scroll"><table><tr>{top}</tr>\n{body}</table></div>'


def _spell(x: float | None) -> str:
    if x is None:
        return ""
    return f"{x:,.0f}" if math.isfinite(x) and x == int(x) and abs(x) < 1e9 else f"{x:.5g}"


def _labels(paths: Sequence[Path]) -> list[str]:
    """The parts of the paths in which they differ; of a single one the folder's name."""
    parts = [[*path.absolute().parts[1:-1], *([] if path.name == "metrics.jsonl" else [path.stem])] for path in paths]
    if len(paths) == 1:
        return ["/".join(parts[0][-1:]) or str(paths[0])]
    while all(parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    while all(parts) and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    labels = ["/".join(p) or str(path) for p, path in zip(parts, paths, strict=True)]
    return labels if len(set(labels)) == len(labels) else [f"{i + 1}: {label}" for i, label in enumerate(labels)]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("python -m trainfn.training.report PAGE.html METRICS.jsonl ...")
    print(report(sys.argv[2:], sys.argv[1]))
