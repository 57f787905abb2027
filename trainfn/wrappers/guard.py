"""The rule that a training loop runs: on the mean of a sum of gradients, unless that is not finite.

What decides an update is here, in one program with the update itself: so nobody waits for a device to hear whether it
happens, and what a skipped one holds (moments, counters, averages, lookahead) is all of the inner rule.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from trainfn.loss_scale import adjusted, check_loss_scale
from trainfn.rule import rule
from trainfn.trace import ModelScalar
from trainfn.verbs import count_if, global_norm, where


class Guarded(NamedTuple):
    """skipped: updates that did not happen; skipped_in_a_row: those since the last that did; grad_norm: of the mean
    gradient that the inner rule was given last."""

    skipped: ModelScalar
    skipped_in_a_row: ModelScalar
    grad_norm: ModelScalar


class LossScaled(NamedTuple):
    """As `Guarded`; loss_scale: the factor on the next loss; finite_in_a_row: finite gradients since it changed."""

    skipped: ModelScalar
    skipped_in_a_row: ModelScalar
    grad_norm: ModelScalar
    loss_scale: ModelScalar
    finite_in_a_row: ModelScalar

    @staticmethod
    def init(p: Any, init_scale: Any) -> LossScaled:
        return LossScaled(0.0, 0.0, 0.0, init_scale, 0.0)  # type: ignore[arg-type]


@rule
def guard(inner: Any, state: Guarded, g: Any, weight: Any) -> Any:
    """The inner rule on g / weight, the mean of the gradients of a batch, unless it is infinite or NaN.

    g is the gradient of a *sum* of losses and `weight`, which the loop supplies, the number of its terms (tokens,
    samples), so that a batch may be taken in parts of any sizes.  Without one it is 1, and g a mean.  A batch of weight
    0 is skipped.  A skipped update changes nothing of the inner rule; schedules and bias corrections do not see it.
    """
    mean = g / where(weight > 0, weight, 1.0)
    norm = global_norm(mean)
    happens = (norm < math.inf) & (weight > 0)
    return count_if(happens, inner(mean, when=happens)), _guarded(state, happens, norm)


def _check(inner: Any, **numbers: Any) -> None:
    if all(isinstance(x, int | float) for x in numbers.values()):
        check_loss_scale(**numbers)


@rule(check=_check)
def loss_scaled(
    inner: Any,
    state: LossScaled,
    g: Any,
    weight: Any,
    *,
    init_scale: Any = 2.0**16,
    growth: Any = 2.0,
    backoff: Any = 0.5,
    interval: Any = 2000.0,
    floor: Any = 2.0**-14,
) -> Any:
    """`guard` on g / loss_scale, for gradients of a loss that was multiplied by the state's `loss_scale` (Micikevicius
    et al., arXiv:1710.03740v3).

    The scale follows `trainfn.loss_scale`, which has the formulas: it falls when gradients are not finite, and rises
    after `interval` in a row that are.  A batch of weight 0 says nothing about it.
    """
    has_weight = weight > 0
    mean = g / (state.loss_scale * where(has_weight, weight, 1.0))
    norm = global_norm(mean)
    is_finite = norm < math.inf
    happens = is_finite & has_weight
    scale, good = adjusted(
        state.loss_scale,
        state.finite_in_a_row,
        is_finite,
        growth=growth,
        backoff=backoff,
        interval=interval,
        floor=floor,
    )
    after = LossScaled(
        *_guarded(state, happens, norm),
        where(has_weight, scale, state.loss_scale),
        where(has_weight, good, state.finite_in_a_row),
    )
    return count_if(happens, inner(mean, when=happens)), after


def _guarded(state: Guarded | LossScaled, happens: Any, norm: Any) -> Guarded:
    skipped, in_a_row = state.skipped, state.skipped_in_a_row
    return Guarded(where(happens, skipped, skipped + 1), where(happens, 0.0, in_a_row + 1), norm)
