"""Warm-ups: from a small value to the peak, for the steps in which an optimizer's averages mean little yet.

A step before 0 counts as step 0.
"""

from __future__ import annotations

from typing import Any

from trainfn.schedules.schedule import Span, schedule
from trainfn.schedules.shapes import between
from trainfn.verbs import clip, exp, maximum, sqrt, where


@schedule
def warmup(step: Any, *, peak: float, steps: Span, start: float = 0.0) -> Any:
    """A straight line from `start` to `peak` over `steps` steps, then `peak`.

    At step 0, the first update, it is `start`: with 0 that update moves nothing.  A warm-up that is peak / steps there
    and `peak` at step steps - 1, as (t + 1) / steps in a LambdaLR, has start = peak / steps and one step less.
    """
    x = clip(step, 0, steps) / steps
    return (1 - x) * start + x * peak


@schedule
def cosine_warmup(step: Any, *, peak: float, steps: Span, start: float = 0.0) -> Any:
    """Half a cosine from `start` to `peak` over `steps` steps, then `peak`."""
    return between(start, peak, clip(step, 0, steps) / steps, "cosine")


@schedule
def exponential_warmup(step: Any, *, peak: float, timescale: Span) -> Any:
    """peak (1 - e^(-t / timescale)) with t = step + 1: nearer to `peak` by the factor 1/e every `timescale` steps.

    Ma & Yarats, arXiv:1910.04209v4, eq. 10; their untuned warm-up for Adam has timescale = 1 / (1 - b2).
    """
    return peak * (1 - exp(-(maximum(step, 0) + 1) / timescale))


@schedule
def radam_warmup(step: Any, *, peak: float = 1.0, b2: float = 0.999) -> Any:
    """peak r with RAdam's variance rectification r, and 0 for as long as it is not defined (rho <= 4).

        rho_inf = 2 / (1 - b2) - 1      rho = rho_inf - 2 t b2^t / (1 - b2^t)      t = step + 1
        r = sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))

    As a factor on Adam's learning rate: Liu et al., arXiv:1908.03265v4, Algorithm 2, whose steps without
    adaptive learning rate, the first ones, are left out here.
    """
    t = maximum(step, 0) + 1
    rho_inf = 2 / (1 - b2) - 1
    rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
    defined = where(rho > 4, rho, rho_inf)  # what is not selected must not be NaN: its derivative would be
    r = sqrt((defined - 4) * (defined - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * defined))
    return peak * where(rho > 4, r, 0.0)
