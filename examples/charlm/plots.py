"""The figures of the report, each a function from the results to a matplotlib figure."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .results import Results

TORCH, FLAX, TRAINFN, BASELINE = "#d9480f", "#1c5d99", "#2b8a3e", "#868e96"

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def learning_rate(r: Results) -> Figure:
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(r.torch.lr, color=TORCH, linewidth=5, alpha=0.45, label="PyTorch")
    axes.plot(r.flax.lr, color=FLAX, linewidth=1.4, label="flax")
    axes.set(xlabel="update", ylabel="learning rate", ylim=(0, None))
    axes.legend()
    return figure


def replay(r: Results) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    kinds = {"parameters": "parameters", "m": "first moment", "v": "second moment"}
    for axes, (kind, title) in zip(panels, kinds.items(), strict=True):
        for agreement, color, label in (
            (r.replay.baseline, BASELINE, "torch.optim against optax"),
            (r.replay.torch_flax, TRAINFN, "trainfn in PyTorch against trainfn in JAX"),
        ):
            share = 100 * np.array(agreement.differing[kind]) / agreement.words[kind]
            axes.plot(np.arange(1, len(share) + 1), share, color=color, linewidth=2.5, label=label, clip_on=False)
        axes.set(title=title, xlabel="update", ylim=(0, 100))
    panels[0].set_ylabel("values that differ in any bit, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def losses(r: Results) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout=ConstrainedLayoutEngine(w_pad=0.15))
    left, right = figure.subplots(1, 2)
    left.plot(r.torch.loss, color=TORCH, linewidth=3, alpha=0.45, label="PyTorch")
    left.plot(r.flax.loss, color=FLAX, linewidth=1, label="flax")
    left.set(xlabel="update", ylabel="loss, nats per character", ylim=(0, None))
    left.legend()
    # Equal losses have no place on a logarithmic axis: they are left out.
    difference = np.where(r.loss_differences > 0, r.loss_differences, np.nan)
    right.semilogy(difference, ".", color="#5f3dc4", markersize=3)
    right.set(xlabel="update", ylabel="|loss in PyTorch - loss in flax|")
    return figure


def timings(r: Results) -> Figure:
    figure = Figure(figsize=(9, 0.9 + 0.6 * len(r.timings)), layout="constrained")
    axes = figure.subplots()
    for y, t in enumerate(reversed(r.timings)):
        low, high = t.interval
        axes.plot(t.ratios, np.full(len(t.ratios), y), "|", color=BASELINE, markersize=9, alpha=0.5)
        axes.plot([low, high], [y, y], color=TRAINFN, linewidth=6, solid_capstyle="butt", alpha=0.5)
        axes.plot(t.ratio, y, "o", color=TRAINFN, markersize=8)
    axes.axvline(1, color="#1f2328", linewidth=1)
    axes.set_yticks(range(len(r.timings)), [t.what for t in reversed(r.timings)])
    right_end = 1.15 * max(1.0, *(float(t.ratios.max()) for t in r.timings))
    axes.set(
        xlim=(0, right_end),
        ylim=(-0.6, len(r.timings) - 0.4),
        xlabel="trainfn's time for a step / the library's own",
    )
    axes.grid(axis="y", visible=False)
    return figure


FIGURES = {"learning_rate": learning_rate, "replay": replay, "losses": losses, "timings": timings}


def svg(name: str, results: Results) -> str:
    """The figure as an <svg> element that stands in HTML."""
    # The salt makes element names the same from run to run and distinct between figures.
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        FIGURES[name](results).savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def png(name: str, results: Results, path: str) -> None:
    """The figure as a picture file, for looking at it alone."""
    with matplotlib.rc_context(STYLE):
        FIGURES[name](results).savefig(path, format="png", dpi=110)
