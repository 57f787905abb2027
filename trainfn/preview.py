"""What a run will do, to look at before it does: schedules as pictures and tables, and which leaf gets what.

    from trainfn import preview

    preview.plot({"short": warmup_cosine(1e-3, 10, 100), "long": warmup_cosine(1e-3, 10, 300)}, steps=300)
    preview.table(warmup_cosine(1e-3, 10, 100), steps=100)
    preview.leaves(adamw(weight_decay=by_leaf({"*.bias": 0.0}, otherwise=0.1)), dict(model.named_parameters()))

Drawing needs the extra `train` (matplotlib and rich); nothing here is imported by anything else.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from trainfn.files import replacing
from trainfn.rule import Rule, resolve
from trainfn.schedules.schedule import Schedule, is_family, spell
from trainfn.trace import Leaf

Schedules: TypeAlias = Schedule | Iterable[Schedule] | Mapping[str, Schedule]

_MOST_POINTS = 2000  # more than a picture has pixels
_BARS = " ▁▂▃▄▅▆▇█"


def plot(schedules: Schedules, steps: int, path: str | os.PathLike[str] = "schedules.png") -> Path:
    """Draw schedules over the steps 0 ... steps - 1 into a PNG file, and return its path.

    `schedules` is one schedule, several, or a dictionary of them by label.  The file is replaced as a whole or not at
    all.
    """
    named = _named(schedules)
    figure_module = _import("matplotlib.figure")
    figure = figure_module.Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    at = _steps(steps, _MOST_POINTS)
    for label, schedule in named.items():
        axes.plot(at, schedule(at), label=label, drawstyle="steps-post" if steps <= 200 else "default")
    axes.set(xlabel="step", ylabel="value", xlim=(0, max(steps - 1, 1)))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper left", fontsize="small", frameon=False)
    with replacing(path) as beside:
        figure.savefig(beside, format="png", dpi=150)
    return Path(path)


def table(schedules: Schedules, steps: int, rows: int = 11) -> None:
    """Print the values of schedules at `rows` steps from 0 to steps - 1, with a sketch of each curve."""
    named = _named(schedules)
    rich_table = _import("rich.table").Table(*["step", *named], caption=f"steps 0 to {steps - 1}")
    at = _steps(steps, rows)
    columns = [[f"{value:.4g}" for value in schedule(at)] for schedule in named.values()]
    for step, *values in zip(at, *columns, strict=True):
        rich_table.add_row(str(step), *values)
    rich_table.add_section()
    rich_table.add_row("", *(_sketch(schedule(_steps(steps, 24))) for schedule in named.values()))
    _import("rich.console").Console().print(rich_table)


def leaves(rule: Rule, params: Mapping[str, Any]) -> None:
    """Print for each leaf of a model its rule and hyperparameters.

    `params` has by name whatever has a shape, or the shape: `dict(model.named_parameters())` in torch, and in JAX
    `trainfn_jax.named_leaves(params)`.  The names are those the optimizer will see.
    """
    known = [Leaf(name, tuple(getattr(x, "shape", x))) for name, x in params.items()]
    rule.check_policies(known)
    rich_table = _import("rich.table").Table("leaf", "shape", "rule", "hyperparameters")
    for leaf in known:
        own = rule.of_leaf(leaf)
        values = ", ".join(f"{name}={_spell(value)}" for name, value in resolve(own, leaf).items())
        rich_table.add_row(leaf.name, " x ".join(map(str, leaf.shape)), own.name, values)
    rich_table.caption = f"{len(known)} leaves, {sum(leaf.size for leaf in known):,} parameters"
    _import("rich.console").Console().print(rich_table)


def _spell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _named(schedules: Schedules) -> dict[str, Schedule]:
    if isinstance(schedules, Mapping):
        named = {str(label): schedule for label, schedule in schedules.items()}
    else:
        several = [schedules] if isinstance(schedules, Schedule) or is_family(schedules) else list(schedules)
        named = {repr(schedule): schedule for schedule in several}
    for schedule in named.values():
        if not isinstance(schedule, Schedule):
            hint = f" Call it first, as in {spell(schedule)}." if is_family(schedule) else ""
            raise TypeError(f"schedules are drawn, not {schedule!r}.{hint}")
    if not named:
        raise ValueError("no schedules were given.")
    return named


def _steps(steps: int, most: int) -> Any:
    """At most so many whole steps from 0 to the last one, evenly spread."""
    if steps < 1:
        raise ValueError(f"steps = {steps} must be at least 1.")
    return np.unique(np.linspace(0, steps - 1, min(steps, most)).round().astype(np.int64))


def _sketch(values: Any) -> str:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "?" * len(values)
    low, high = min(finite.min(), 0.0), finite.max()
    heights = (values - low) / (high - low) if high > low else np.ones_like(values)
    return "".join(_BARS[round(h * 8)] if np.isfinite(h) else "?" for h in heights)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{module.partition('.')[0]} is needed to draw: pip install 'trainfn[train]'.", name=error.name
        ) from error
