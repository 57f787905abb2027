"""Cycles: up and down again and again, once and for all (one cycle), and up, level, down.

A step before 0 counts as step 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainfn.schedules.schedule import Count, Schedule, Span, schedule
from trainfn.schedules.shapes import along, between, part_of_way
from trainfn.trace import Static
from trainfn.verbs import floor, maximum, where

_MODES: Mapping[str, Callable[[Any, Any, Any], Any]] = {  # the height of a cycle, of its number, the step and gamma
    "triangular": lambda n, step, gamma: 1.0,
    "triangular2": lambda n, step, gamma: 0.5**n,
    "exp_range": lambda n, step, gamma: gamma**step,
}


def _has_one_scale(mode: Any, scale: Any, scale_by: Any, **_: Any) -> None:
    if mode not in _MODES:
        raise ValueError(f"cyclical: mode = {mode!r} must be one of {', '.join(map(repr, _MODES))}.")
    if scale_by not in ("cycle", "step"):
        raise ValueError(f"cyclical: scale_by = {scale_by!r} must be 'cycle' or 'step'.")
    if scale is not None and not isinstance(scale, Schedule):
        raise TypeError(f"cyclical: scale = {scale!r} must be a schedule, of the cycle or of the step.")


@schedule(check=_has_one_scale)
def cyclical(
    step: Any,
    *,
    low: float,
    peak: float,
    up: Span,
    down: Span | None = None,
    mode: Static[str] = "triangular",
    gamma: float = 1.0,
    scale: Any = None,
    scale_by: Static[str] = "cycle",
) -> Any:
    """low + (peak - low) s w: s rises from 0 to 1 in `up` steps and falls to 0 in `down` (as many if not given).

    The height w is 1 ("triangular"), 2^-n in the n-th cycle from 0 ("triangular2"), gamma^step ("exp_range"), or what
    `scale`, a schedule, has for the cycle or, with scale_by = "step", for the step.  Smith, arXiv:1506.01186v6.
    """
    step = maximum(step, 0)
    length = up + (up if down is None else down)
    n = floor(step / length)
    within = step - n * length
    s = where(within < up, part_of_way(within, 0.0, up), 1 - part_of_way(within, up, length))
    height = _MODES[mode](n, step, gamma) if scale is None else scale(n if scale_by == "cycle" else step)
    return low + (peak - low) * s * height


def _rises_for_a_part(pct_start: Any, three_phase: Any = False, **_: Any) -> None:
    most = 0.5 if three_phase else 1.0
    if not 0 <= pct_start <= most:
        raise ValueError(f"one_cycle: pct_start = {pct_start} must be in [0, {most:g}], a part of all steps.")


@schedule(check=_rises_for_a_part)
def one_cycle(
    step: Any,
    *,
    peak: float,
    steps: Span,
    pct_start: float = 0.3,
    div: float = 25.0,
    final_div: float = 1e4,
    shape: Static[str] = "cosine",
    three_phase: Static[bool] = False,
) -> Any:
    """From peak / div up to `peak` at step pct_start steps - 1, and down to peak / div / final_div at step steps - 1.

    With `three_phase` it comes down as it went up, to peak / div, and then to the end.  After the last step it stays
    where it is; torch's OneCycleLR rises again, and divides by zero where pct_start steps = 1.
    Smith & Topin, arXiv:1708.07120v3; the phases' ends are torch's, the defaults too.
    """
    start = peak / div
    values = (start, peak, start, start / final_div) if three_phase else (start, peak, start / final_div)
    return along(step, values, _ends(steps, pct_start, three_phase), shape)


@schedule(check=_rises_for_a_part)
def one_cycle_momentum(
    step: Any,
    *,
    steps: Span,
    high: float = 0.95,
    low: float = 0.85,
    pct_start: float = 0.3,
    shape: Static[str] = "cosine",
    three_phase: Static[bool] = False,
) -> Any:
    """The momentum that goes with `one_cycle`, in counter-phase: from `high` to `low` at the peak, and back."""
    values = (high, low, high, high) if three_phase else (high, low, high)
    return along(step, values, _ends(steps, pct_start, three_phase), shape)


def _ends(steps: Any, pct_start: Any, three_phase: bool) -> tuple[Any, ...]:
    up, down = (maximum(k * (pct_start * steps - 1), 0) for k in (1, 2))
    return (up, down, steps - 1) if three_phase else (up, steps - 1)


def _phases_fit(warmup: Any, steps: Any, cooldown: Any, **_: Any) -> None:
    if warmup + cooldown > steps:
        raise ValueError(f"warmup = {warmup} and cooldown = {cooldown} are longer together than all steps = {steps}.")


@schedule(check=_phases_fit)
def warmup_stable_decay(
    step: Any,
    *,
    peak: float,
    warmup: Count,
    steps: Span,
    cooldown: Count,
    floor: float = 0.0,
    start: float = 0.0,
    shape: Static[str] = "linear",
) -> Any:
    """Up from `start` in `warmup` steps, level at `peak`, and down to `floor` in the last `cooldown` of `steps` steps.

    The way up is a line, the way down "linear", "cosine" or "1-sqrt", which leaves peak (1 - sqrt(x)); then `floor`.
    Hu et al., arXiv:2404.06395v3, section 4.2; 1-sqrt: Hägele et al., arXiv:2405.18392v3, eq. 1.
    """
    step = maximum(step, 0)
    rising = between(start, peak, part_of_way(step, 0.0, warmup), "linear")
    falling = between(peak, floor, part_of_way(step, steps - cooldown, steps), shape)
    return where(step < warmup, rising, falling)


@schedule(check=_phases_fit)
def trapezoid(step: Any, *, peak: float, warmup: Count, steps: Span, cooldown: Count) -> Any:
    """From 0 up to `peak` in `warmup` steps, level, and down to 0 in the last `cooldown` of `steps` steps, by lines.

    Zhai et al., arXiv:2106.04560v2, section 3.5, with a linear cool-down.
    """
    return warmup_stable_decay.function(step, peak=peak, warmup=warmup, steps=steps, cooldown=cooldown)
