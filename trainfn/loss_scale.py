"""Dynamic loss scaling: a factor on the loss that keeps float16 gradients from vanishing, without overflow.

It is a state machine of what each update reports (`trainfn.machine`), so a run that crosses from one library to the
other goes on with the same scale.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from trainfn.machine import machine
from trainfn.verbs import maximum, where


class Scale(NamedTuple):
    """scale: the factor on the loss; good: finite updates since it changed."""

    scale: Any = 2.0**16
    good: Any = 0.0


def check_loss_scale(*, growth: Any, backoff: Any, interval: Any, floor: Any, init_scale: Any = 2.0**16) -> None:
    if not 1 < growth < math.inf:
        raise ValueError(f"loss_scale: growth = {growth} must be above 1.")
    if not 0 < backoff < 1:
        raise ValueError(f"loss_scale: backoff = {backoff} must be in (0, 1).")
    if not (1 <= interval < math.inf and interval == math.floor(interval)):
        raise ValueError(f"loss_scale: interval = {interval} must be a whole number, at least 1.")
    if not 0 < floor < math.inf:
        raise ValueError(f"loss_scale: floor = {floor} must be above 0: a scale of 0 would never rise again.")
    if not floor <= init_scale < math.inf:
        raise ValueError(f"loss_scale: init_scale = {init_scale} must be at least floor = {floor}.")


@machine(check=check_loss_scale)
def loss_scale(
    state: Scale,
    is_finite: Any,
    *,
    growth: float = 2.0,
    backoff: float = 0.5,
    interval: float = 2000,
    floor: float = 2.0**-14,
) -> Any:
    """The factor on the loss of the next update (Micikevicius et al., arXiv:1710.03740v3).

    is_finite: whether the gradients of this update were, and it was applied: True or False, 1 or 0.

    After gradients that are not finite it is multiplied by `backoff`, but not below `floor`; after `interval` updates
    in a row that are, by `growth`, as long as it stays below 2^128.  `init()._replace(scale=...)` begins with another.
    The factor is the state's `scale`, which is a number of float32.

    As torch's GradScaler, which has no floor and may so come to 0.
    """
    scale, good = adjusted(
        state.scale, state.good, is_finite > 0, growth=growth, backoff=backoff, interval=interval, floor=floor
    )
    return Scale(scale, good), scale


def adjusted(
    scale: Any, good: Any, is_finite: Any, *, growth: Any, backoff: Any, interval: Any, floor: Any
) -> tuple[Any, Any]:
    """The next scale and count of finite updates, in any library's numbers or traced."""
    good = where(is_finite, good + 1, 0)
    larger, smaller = scale * growth, maximum(scale * backoff, floor)
    grows = (good >= interval) & (larger < _LIMIT)
    return where(is_finite, where(grows, larger, scale), smaller), where(good >= interval, 0, good)


_LIMIT = 2.0**128 - 2.0**103  # what is below is a number of float32 when it is rounded
