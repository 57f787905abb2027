"""What a run will do, to look at before it does: schedules as pictures and tables, and which leaf gets what.

    from trainfn import preview

    preview.plot({"short": warmup_cosine(1e-3, 10, 100), "long": warmup_cosine(1e-3, 10, 300)}, steps=300)
    preview.table(warmup_cosine(1e-3, 10, 100), steps=100)
    preview.leaves(adamw(weight_decay=by_leaf({"*.bias": 0.0}, otherwise=0.1)), model.named_parameters())

Drawing needs the extra `train` (matplotlib and rich); nothing here is imported by anything else.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from trainfn.extras import load
from trainfn.files import replacing
from trainfn.rule import Definition, Rule, resolve
from trainfn.schedules.schedule import Schedule, is_family, spell
from trainfn.trace import Leaf

Schedules: TypeAlias = Schedule | Iterable[Schedule] | Mapping[str, Schedule]

_PICTURES = ("png", "svg", "pdf")
_MOST_POINTS = 2000  # more than a picture has pixels
_BARS = " ▁▂▃▄▅▆▇█"


def plot(schedules: Schedules, steps: int, path: str | os.PathLike[str] = "schedules.png") -> Path:
    """Draw schedules over the steps 0 ... steps - 1 into a file, and return its path.

    `schedules` is one schedule, several, or a dictionary of them by label.  The suffix of the path says what sort of
    picture it is: .png, .svg or .pdf.  The file is replaced as a whole or not at all; its folder must be there.
    """
    named = _named(schedules)
    path = Path(path)
    kind = path.suffix.lower().removeprefix(".")
    if kind not in _PICTURES:
        raise ValueError(f"{path}: a picture ends in {', '.join(f'.{known}' for known in _PICTURES)}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.parent} to write the picture to; make it first.")
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
        figure.savefig(beside, format=kind, dpi=150)
    return path


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


def leaves(rule: Rule, params: Any) -> None:
    """Print for each leaf of a model its rule and hyperparameters.

    `params` are `model.named_parameters()` in torch; in JAX dictionaries of arrays, nested with others and with lists
    and tuples, or for other trees `trainfn_jax.named_leaves(params)`.  Instead of an array its shape will do, a tuple.
    The names are those the optimizer will see.
    """
    known = [Leaf(name, shape) for name, shape in _shapes("", params)]
    rule.check_policies(known)
    rich_table = _import("rich.table").Table("leaf", "shape", "rule", "hyperparameters")
    for leaf in known:
        own = rule.of_leaf(leaf)
        values = ", ".join(f"{name}={_spell(value)}" for name, value in resolve(own, leaf).items())
        rich_table.add_row(leaf.name, " x ".join(map(str, leaf.shape)), own.name, values)
    rich_table.caption = f"{len(known)} leaves, {sum(leaf.size for leaf in known):,} parameters"
    _import("rich.console").Console().print(rich_table)


def _shapes(name: str, params: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The shapes of leaves by name: `layers/0/kernel` in nested trees, as JAX's are called."""
    shape = getattr(params, "shape", params)
    if isinstance(shape, tuple) and all(isinstance(n, numbers.Integral) for n in shape):
        yield name, tuple(map(int, shape))
    elif params is not None:
        for key, x in _children(name, params).items():
            yield from _shapes(f"{name}/{key}" if name else str(key), x)


def _children(name: str, params: Any) -> Mapping[Any, Any]:
    """What is in a node of a tree by key; of pairs the first is the key."""
    given = params
    if hasattr(params, "_asdict"):
        return params._asdict()  # type: ignore[no-any-return]
    if isinstance(params, Iterator | list | tuple):
        params = list(params)
        if all(isinstance(x, tuple) and len(x) == 2 and isinstance(x[0], str) for x in params):
            params = dict(params)
        elif not isinstance(given, Iterator):
            params = dict(enumerate(params))
    if not isinstance(params, Mapping):
        raise TypeError(
            f"{f'{name!r} is' if name else 'these are'} {given!r}, and leaves are wanted by name, with shapes: "
            "model.named_parameters(), or in JAX trainfn_jax.named_leaves(params)."
        )
    return params


def _spell(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _named(schedules: Schedules) -> dict[str, Schedule]:
    if isinstance(schedules, Rule | Definition):
        raise TypeError(
            f"schedules are drawn, not the rule {schedules.name}: give those it has, as in "
            "rule.hyper['lr']; leaves(rule, params) shows which leaf gets what."
        )
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
    return load(module, "train", "to draw")
