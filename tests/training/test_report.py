"""Pictures and pages of runs: what is drawn is what the files say, and the page stands alone."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainfn.training import plots
from trainfn.training.metrics import Record
from trainfn.training.report import _labels, render, report
from trainfn.training.sinks.jsonl import JSONL, Run

pytest.importorskip("matplotlib")

LEAVES = ("grad_norm/embed.weight", "grad_norm/body.weight", "grad_norm/head.weight")


def run(losses: Sequence[float], **more: float) -> Run:
    records = []
    for n, x in enumerate(losses, 1):
        norms = {name: (n + k) / 100 for k, name in enumerate(LEAVES)}
        values = {"train/loss": float(x), "train/lr": 1e-3 / n, "train/grad_norm": 1.0 / n, **norms, **more}
        records.append(Record(10 * n, values))
        if n % 5 == 0:
            records.append(Record(10 * n, {"eval/loss": float(x) + 0.5}))
    return Run({"updates": 100, "loss_scale": {}, "rule": "adamw(lr=<schedule>)"}, tuple(records))


def lines(figure: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in figure.axes[0].get_lines()}


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_drawn_as_it_was_written() -> None:
    drawn = lines(plots.loss({"a": run([3.0, 2.0, math.nan, 1.5, 1.0, -math.inf])}))
    assert list(drawn["a"].get_xdata()) == [10, 20, 30, 40, 50, 60]
    np.testing.assert_array_equal(drawn["a"].get_ydata(), [3.0, 2.0, math.nan, 1.5, 1.0, math.nan])
    (marks,) = (line for line in drawn.values() if line.get_marker() == "x")
    assert list(marks.get_xdata()) == [30, 60], "what is not finite is marked"
    assert (list(drawn["a, evaluation"].get_xdata()), list(drawn["a, evaluation"].get_ydata())) == ([50], [1.5])


def test_of_many_values_no_spike_is_lost() -> None:
    losses = np.full(5000, 2.0)
    losses[1234], losses[3000] = 50.0, 0.5
    figure = plots.loss({"a": run(losses)})
    (band,) = figure.axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.5, 50.0)
    assert len(lines(figure)["a"].get_xdata()) == 400


def test_the_scale_is_logarithmic_where_losses_are_far_apart() -> None:
    assert plots.loss({"a": run([3.0, 2.0, 1.0])}).axes[0].get_yscale() == "linear"
    assert plots.loss({"a": run([3.0, 0.2, 0.01])}).axes[0].get_yscale() == "log"
    assert plots.loss({"a": run([3.0, 0.2, -0.01])}).axes[0].get_yscale() == "linear"


def test_several_runs_have_colors_and_names() -> None:
    figure = plots.loss({"a": run([3.0, 2.0]), "b": run([3.0, 1.0])})
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["a", "b"]
    assert len({line.get_color() for line in figure.axes[0].get_lines()}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


@pytest.mark.parametrize("length", [1, 3, 1000])
def test_the_flow_of_gradients_goes_through_the_layers_in_their_order(length: int) -> None:
    known = run(np.ones(length))
    bad = dict(known.records[0].values) | {LEAVES[1]: math.inf}
    known = Run(known.run, (Record(10, bad), *known.records[1:]))
    axes, _ = plots.gradient_flow({"a": known}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["embed.weight", "body.weight", "head.weight"]
    assert axes.yaxis_inverted(), "the first is at the top"
    shown = axes.collections[0].get_array().reshape(3, -1)
    assert shown.shape[1] == min(length, 400)
    assert np.argwhere(np.ma.getmaskarray(shown)).tolist() == [[1, 0]], "what is not finite has a colour of its own"
    if length == 3:
        np.testing.assert_allclose(shown[2], np.log10([0.03, 0.04, 0.05]))


def test_a_model_with_many_leaves_has_room() -> None:
    values = {f"grad_norm/{k}.weight": 0.0 if k % 2 else 1.0 for k in range(500)}
    axes, _ = plots.gradient_flow({"a": Run({}, (Record(1, values), Record(2, values)))}).axes
    assert len(axes.get_yticks()) <= 40
    assert axes.figure.get_size_inches()[1] < 10


ODD = {
    "one": run([2.0]),
    "never finite": run([math.nan] * 3, **dict.fromkeys(LEAVES, math.nan), **{"train/grad_norm": math.inf}),
    "zeros": run([0.0] * 4, **dict.fromkeys(LEAVES, 0.0), **{"train/lr": 0.0}),
    "many, never finite": run([math.nan] * 900, **dict.fromkeys(LEAVES, math.nan)),
    "nothing": Run({}, ()),
}


@pytest.mark.parametrize("name", plots.FIGURES)
def test_odd_runs_are_drawn(name: str, tmp_path: Path) -> None:
    path = plots.save(name, ODD, tmp_path / "picture.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    for odd in ODD.values():
        plots.FIGURES[name]({"": odd})


def test_what_a_run_has_is_drawn() -> None:
    assert all(plots.has(name, {"a": ODD["nothing"], "b": run([1.0])}) for name in plots.FIGURES)
    assert not any(plots.has(name, {"a": ODD["nothing"]}) for name in plots.FIGURES)


# -- pages ------------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A page's elements, and its tables' cells."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.marked: list[str] = []
        self.tags: Counter[str] = Counter()
        self.feed(text)
        assert self.open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in self.VOID:
            self.open.append(tag)
        known = dict(attributes)
        self.ids += [known["id"] or ""] if "id" in known else []
        self.links += [x or "" for name, x in attributes if name in ("href", "src", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
            self.is_marked = known.get("class") == "differs"
        if tag in ("td", "th"):
            self.rows[-1].append("")
            if self.is_marked and len(self.rows[-1]) == 1:
                self.marked.append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
            if self.is_marked and len(self.rows[-1]) == 1:
                self.marked[-1] += data


def write(path: Path, known: Run) -> Path:
    sink = JSONL(path)
    sink.open(known.run)
    for record in known.records:
        sink.write(record)
    sink.close()
    return path


def test_a_page_of_one_run(tmp_path: Path) -> None:
    known = run([3.0, 2.0, 1.25, 1.5, math.nan, 1.0, 1.0, 1.0, 1.0, 2.5, math.nan])
    known = Run(known.run, (*known.records, Record(60, event="<script>alert('the loss & nan')</script>")))
    file = write(tmp_path / "digits" / "metrics.jsonl", known)
    text = report(file, tmp_path / "page.html").read_text()
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert "<title>digits</title>" in text
    assert page.tags["svg"] == page.tags["figure"] == len(plots.FIGURES)
    assert ["train/loss", "nan"] in page.rows
    assert ["batches", "110"] in page.rows
    assert ["eval/loss, least", "3"] in page.rows
    assert ["60", "<script>alert('the loss & nan')</script>"] in page.rows
    assert ["rule", "adamw(lr=<schedule>)"] in page.rows
    assert not any(row[0].startswith("grad_norm/") for row in page.rows), "leaves are in the picture"


def test_a_page_stands_alone_in_the_light_and_in_the_dark(tmp_path: Path) -> None:
    text = render({"a": run([3.0, 2.0]), "b": run([3.0, 1.0])})
    page = Page(text)
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == 0
    assert page.links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert "url(http" not in text
    assert "@import" not in text
    assert [name for name, count in Counter(page.ids).items() if count > 1] == [], "figures use each other's parts"
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "prefers-color-scheme: dark" in text
    drawings = text[text.index("<svg") :]
    assert plots._INK not in drawings, "ink on a dark page"
    assert "currentColor" in drawings
    assert "#000000" not in drawings
    assert "#ffffff" not in drawings.lower()


def test_runs_are_compared(tmp_path: Path) -> None:
    one, other = run([3.0, 2.0, 1.0, 1.0, 1.0]), run([3.0, 1.0])
    other = Run({**other.run, "rule": "sgd()", "new": {"deep": [1, 2]}}, other.records)
    files = [write(tmp_path / name / "metrics.jsonl", known) for name, known in (("one", one), ("other", other))]
    page = Page(report(files, tmp_path / "page.html").read_text())
    assert ["", "one", "other"] in page.rows
    assert ["train/loss", "1", "1"] in page.rows
    assert ["eval/loss", "1.5", ""] in page.rows
    assert ["new.deep", "", "[1, 2]"] in page.rows
    assert page.marked == ["rule", "new.deep"]


def test_of_many_events_the_first_and_the_last_are_shown() -> None:
    events = tuple(Record(n, event=f"event {n}.") for n in range(1000))
    rows = Page(render({"a": Run({}, events)})).rows
    assert ["99", "event 99."] in rows
    assert ["", "800 more are in the file of metrics."] in rows
    assert ["900", "event 900."] in rows
    assert ["100", "event 100."] not in rows


def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"run": {}}\n{"step": 1, "train/lo')
    assert Page(report(file, tmp_path / "page.html").read_text()).tags["svg"] == 0


def test_names_of_runs_are_what_differs_in_their_paths() -> None:
    def labels(*paths: str) -> list[str]:
        return _labels([Path(path) for path in paths])

    assert labels("/runs/a/metrics.jsonl") == ["a"]
    assert labels("/runs/a.jsonl") == ["a"]
    assert labels("/runs/a/1/metrics.jsonl", "/runs/b/1/metrics.jsonl") == ["a", "b"]
    assert labels("/runs/a/x.jsonl", "/runs/a/y.jsonl") == ["x", "y"]
    assert labels("/runs/a/1/metrics.jsonl", "/runs/b/2/metrics.jsonl") == ["a/1", "b/2"]
    assert len(set(labels("/runs/metrics.jsonl", "/runs/metrics.jsonl", "/runs/b/metrics.jsonl"))) == 3


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file of metrics was given"):
        report([], tmp_path / "page.html")
    with pytest.raises(FileNotFoundError, match="missing"):
        report(tmp_path / "missing", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command(tmp_path: Path) -> None:
    file = write(tmp_path / "metrics.jsonl", Run({"updates": 3}, (Record(1, event="begun"),)))
    command = [sys.executable, "-m", "trainfn.training.report", str(tmp_path / "page.html")]
    assert subprocess.run([*command, str(file)], capture_output=True, check=True, text=True).stdout.endswith(".html\n")
    assert ["1", "begun"] in Page((tmp_path / "page.html").read_text()).rows
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
