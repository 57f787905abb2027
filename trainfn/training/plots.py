"""Pictures of runs: loss, learning rate, gradient norm, and the flow of gradients through the layers.

    plots.save("loss", {"first": read("a/metrics.jsonl"), "second": read("b/metrics.jsonl")}, "loss.png")

They read files of JSON lines only.  Drawing needs the extra `train` (matplotlib).
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from trainfn.extras import load
from trainfn.files import replacing
from trainfn.training.sinks.jsonl import Run

Runs: TypeAlias = Mapping[str, Run]

_COLORS = ("#3b7dd8", "#e8590c", "#2f9e44", "#9c36b5", "#0c8599", "#c2255c", "#b08900", "#868e96")
_BAD = "#e03131"
_INK = "#1f2329"  # of all that is neither curve nor colour; a report turns it into the page's own
_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.2,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
    "grid.color": _INK,
}
_BINS = 400  # more than a picture has pixels for a curve with its spread
_ROWS = 40  # labels of layers that have room
_LEAF = "grad_norm/"


def loss(runs: Runs) -> Any:
    """The loss of training, its spread where there are many values, and each loss of the evaluation with a mark."""
    figure, axes = _axes("loss")
    for color, (label, run) in _colored(runs):
        _curve(axes, run.series("train/loss"), color, label)
        steps, values = run.series("eval/loss")
        if steps:
            axes.plot(
                steps, _finite(values), "o--", color=color, markersize=4, linewidth=1, label=f"{label}, evaluation"
            )
    _scale(axes)
    _legend(figure, axes)
    return figure


def learning_rate(runs: Runs) -> Any:
    """The learning rate, of the leaf that has the largest."""
    figure, axes = _axes("learning rate")
    for color, (label, run) in _colored(runs):
        steps, values = run.series("train/lr")
        axes.plot(steps, _finite(values), color=color, label=label)
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def gradient_norm(runs: Runs) -> Any:
    """The norm of the whole gradient, before clipping."""
    figure, axes = _axes("norm of the gradient")
    for color, (label, run) in _colored(runs):
        _curve(axes, run.series("train/grad_norm"), color, label)
    _scale(axes)
    _legend(figure, axes)
    return figure


def gradient_flow(runs: Runs) -> Any:
    """The norm of each leaf's gradient, in the model's order from top to bottom, over the run; red is not finite."""
    flows = {label: _flow(run) for label, run in runs.items() if has("gradient_flow", {label: run})}
    heights = [0.8 + 0.18 * min(len(leaves), _ROWS) for leaves, _, _ in flows.values()]
    figure = load("matplotlib.figure", "train", "to draw").Figure(
        figsize=(9, max(sum(heights), 1)), layout="constrained"
    )
    colors = load("matplotlib", "train", "to draw").colormaps["viridis"].with_extremes(bad=_BAD)
    for axes, (label, (leaves, steps, norms)) in zip(
        figure.subplots(max(len(flows), 1), squeeze=False, gridspec_kw={"height_ratios": heights or [1]})[:, 0],
        flows.items(),
        strict=False,
    ):
        tiny = norms[norms > 0].min(initial=np.inf)
        logs = np.log10(np.fmax(norms, tiny if np.isfinite(tiny) else 1.0))  # nothing is as dark as the least
        shown = np.ma.masked_where(np.isnan(norms), logs)
        image = axes.pcolormesh(_edges(steps), np.arange(len(leaves) + 1), shown, cmap=colors, rasterized=True)
        every = -(-len(leaves) // _ROWS)
        axes.set_yticks(np.arange(len(leaves))[::every] + 0.5, leaves[::every], fontsize="small")
        axes.set(title=label if len(runs) > 1 else "", xlabel="batch")
        axes.invert_yaxis()
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, label="norm of the gradient, log10")
    return figure


FIGURES: Mapping[str, Callable[[Runs], Any]] = {
    "loss": loss,
    "learning_rate": learning_rate,
    "gradient_norm": gradient_norm,
    "gradient_flow": gradient_flow,
}
_NEEDS = {
    "loss": "train/loss",
    "learning_rate": "train/lr",
    "gradient_norm": "train/grad_norm",
    "gradient_flow": _LEAF,
}


def has(name: str, runs: Runs) -> bool:
    """Whether any of the runs has what a figure shows."""
    return any(metric.startswith(_NEEDS[name]) for run in runs.values() for metric in run.names())


def save(name: str, runs: Runs, path: str | os.PathLike[str]) -> Path:
    """Draw one of FIGURES into a PNG, which is replaced as a whole or not at all; its path."""
    path = Path(path)
    with replacing(path) as beside, _style():
        FIGURES[name](runs).savefig(beside, format="png", dpi=120)
    return path


def svg(name: str, runs: Runs) -> str:
    """One of FIGURES as an <svg> element for a page: transparent, its text and axes in the page's own colour."""
    text = io.StringIO()
    with _style({"svg.hashsalt": name}):  # the same names of elements each time, and others in another figure
        FIGURES[name](runs).savefig(text, format="svg", transparent=True, metadata={"Date": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(_INK, "currentColor")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', drawn))  # the other names are alike in each figure of a page
    return re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", drawn)


def _style(more: Mapping[str, Any] | None = None) -> Any:
    return load("matplotlib", "train", "to draw").rc_context({**_STYLE, **(more or {})})


def _axes(what: str) -> tuple[Any, Any]:
    figure = load("matplotlib.figure", "train", "to draw").Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel="batch", ylabel=what)
    return figure, axes


def _colored(runs: Runs) -> Any:
    return zip(itertools.cycle(_COLORS), runs.items(), strict=False)


def _curve(axes: Any, series: tuple[list[int], list[float]], color: str, label: str) -> None:
    """The means of bins over their spread; a mark on the axis where a value was not finite."""
    steps, values = series
    at, means, lows, highs = _binned(np.array(steps, np.float64), np.array(values, np.float64))
    if len(steps) > _BINS:
        axes.fill_between(at, lows, highs, color=color, alpha=0.25, linewidth=0)
    axes.plot(at, means, color=color, linewidth=1.5, label=label, marker="." if len(steps) == 1 else "")
    bad = [step for step, x in zip(steps, values, strict=True) if not np.isfinite(x)]
    if bad:
        axes.plot(bad, np.zeros(len(bad)), "x", color=_BAD, transform=axes.get_xaxis_transform(), clip_on=False)


def _binned(steps: Any, values: Any) -> tuple[Any, Any, Any, Any]:
    """Of at most so many runs of neighbours the middle, mean, least and greatest, of their finite values."""
    values = np.where(np.isfinite(values), values, np.nan)
    if len(values) <= _BINS:
        return steps, values, values, values
    bins = [b for b in np.array_split(np.arange(len(values)), _BINS) if np.isfinite(values[b]).any()]
    columns = [(steps[b].mean(), np.nanmean(values[b]), np.nanmin(values[b]), np.nanmax(values[b])) for b in bins]
    at, means, lows, highs = np.array(columns).reshape(-1, 4).T
    return at, means, lows, highs


def _finite(values: list[float]) -> Any:
    x = np.array(values, np.float64)
    return np.where(np.isfinite(x), x, np.nan)


def _scale(axes: Any) -> None:
    """Logarithmic where the values are positive and far apart."""
    values = np.concatenate([line.get_ydata() for line in axes.get_lines() if line.get_marker() != "x"] or [[]])
    values = values[np.isfinite(values)]
    if values.size and 0 < values.min() < values.max() / 30:
        axes.set_yscale("log")


def _legend(figure: Any, axes: Any) -> None:
    if len(axes.get_legend_handles_labels()[1]) > 1:
        figure.legend(loc="outside upper left", ncols=3, fontsize="small")


def _flow(run: Run) -> tuple[list[str], Any, Any]:
    """Leaves, steps, and their norms, leaf by step: means where steps are many, NaN where any is not finite."""
    leaves = [name for name in run.names() if name.startswith(_LEAF)]
    records = [record for record in run.records if any(name in record.values for name in leaves)]
    rows = np.array([[record.values.get(name, np.nan) for name in leaves] for record in records], np.float64)
    rows = np.where(np.isfinite(rows), rows, np.nan)
    bins = np.array_split(np.arange(len(records)), min(len(records), _BINS))
    norms = np.array([rows[b].mean(0) for b in bins]).T
    steps = np.array([np.mean([records[i].step for i in b]) for b in bins])
    return [name.removeprefix(_LEAF) for name in leaves], steps, norms


def _edges(steps: Any) -> Any:
    """Between the middles of neighbours."""
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middles = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[steps[0]], middles, [steps[-1]]])
