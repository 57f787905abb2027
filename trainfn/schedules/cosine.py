"""Half cosines: once, after a warm-up, and again and again with warm restarts.

A step before 0 counts as step 0.
"""

from __future__ import annotations

from typing import Any

from trainfn import verbs
from trainfn.schedules.decay import linear
from trainfn.schedules.schedule import Count, Span, schedule
from trainfn.schedules.shapes import between, part_of_way
from trainfn.trace import Static
from trainfn.verbs import cos, maximum, minimum, pi, where

LAST_STEP = 2**31  # no counter of a backend goes further


@schedule
def cosine(
    step: Any,
    *,
    peak: float,
    steps: Span,
    floor: float = 0.0,
    power: float | None = None,
    periodic: Static[bool] = False,
) -> Any:
    """floor + (peak - floor) ((1 + cos(pi x)) / 2)^power with x = clip(step, 0, steps) / steps; then `floor`.

    With `periodic` it does not stay there but climbs back to `peak` in as many steps, and so on, as torch's
    CosineAnnealingLR does.  Loshchilov & Hutter, arXiv:1608.03983v5, eq. 5, without restarts, where power is 1.
    """
    step = maximum(step, 0)
    at = step - 2 * steps * verbs.floor(step / (2 * steps)) if periodic else minimum(step, steps)
    if power is None:
        return floor + (peak - floor) * (1 + cos(pi * (at / steps))) / 2
    return floor + (peak - floor) * ((1 + cos(pi * (at / steps))) / 2) ** power


def _warmup_is_shorter(peak: Any, warmup: Any, steps: Any, **_: Any) -> None:
    if not warmup < steps:
        raise ValueError(f"warmup_cosine: warmup = {warmup} must be at least 0 and below steps = {steps}.")


@schedule(check=_warmup_is_shorter)
def warmup_cosine(
    step: Any,
    *,
    peak: float,
    warmup: Count,
    steps: Span,
    floor: float = 0.0,
    start: float = 0.0,
    power: float | None = None,
) -> Any:
    """A linear warm-up of `warmup` steps from `start` to `peak`, then a `cosine` to `floor`, reached at step `steps`.

    `steps` counts the warm-up, as in optax's warmup_cosine_decay_schedule; then `floor`.  The first update has `start`.
    """
    step = maximum(step, 0)
    steps_up = where(warmup > 0, warmup, 1)  # what is not selected must not be NaN either: its derivative would be
    rising = linear.function(step, start=start, stop=peak, steps=steps_up)
    falling = cosine.function(step - warmup, peak=peak, steps=steps - warmup, floor=floor, power=power)
    return where(step < warmup, rising, falling)


def _cycles_can_hold(warmup: Any, first: Any, growth: Any, **_: Any) -> None:
    if isinstance(growth, bool) or growth != int(growth) or growth < 1:
        raise ValueError(f"warm_restarts: growth = {growth} must be a whole number, at least 1.")
    if not warmup < first:
        raise ValueError(f"warm_restarts: warmup = {warmup} must be at least 0 and below first = {first}.")


@schedule(check=_cycles_can_hold)
def warm_restarts(
    step: Any,
    *,
    peak: float,
    first: Span,
    growth: Static[int] = 1,
    floor: float = 0.0,
    decay: float = 1.0,
    warmup: Count = 0.0,
) -> Any:
    """Cosines from the peak to `floor`, one after another, each `growth` times as long as the one before.

    The first takes `first` steps; the n-th one, from 0, has the peak decay^n peak, which a straight line of `warmup`
    steps leads up to from `floor`.  Restarts are found by counting and not by a logarithm: each is in its own step.
    Loshchilov & Hutter, arXiv:1608.03983v5, eq. 5; decay and warm-up are not theirs.
    """
    step = maximum(step, 0)
    n, within, length = _cycle(step, first, growth)
    top = peak * decay**n
    rising = between(floor, top, part_of_way(within, 0.0, warmup), "linear")
    return where(within < warmup, rising, between(top, floor, part_of_way(within, warmup, length), "cosine"))


def _cycle(step: Any, first: Any, growth: int) -> tuple[Any, Any, Any]:
    """Which cycle `step` is in, from 0, how far, and how long that cycle is."""
    if growth == 1:
        n = verbs.floor(step / first)  # a quotient of whole numbers below 2**53 never rounds up to the next one
        return n, step - n * first, first
    n, begin, length = 0.0, 0.0, first
    k, before = 1, 1  # cycle k begins after 1 + growth + ... + growth**(k-1) times `first` steps
    while before < LAST_STEP:
        is_reached = step >= before * first
        n = where(is_reached, float(k), n)
        begin = where(is_reached, before * first, begin)
        length = where(is_reached, growth**k * first, length)
        k, before = k + 1, before + growth**k
    return n, step - begin, length
