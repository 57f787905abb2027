"""Accumulation: one update from the gradients of several calls."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, ModelPair, ModelScalar, Static
from trainfn.verbs import count_if, global_max, where


class Window(NamedTuple):
    """total: sum of the gradients, shaped like p; of the model: the sum of their weights, and the number of calls."""

    total: Array
    total_weight: ModelPair
    calls: ModelScalar


@rule
def accumulate(inner: Any, state: Window, g: Any, weight: Any, *, k: Any, mean: Static[bool] = True) -> Any:
    """The inner rule, once in k calls, on the gradients of all of them: their sum divided by that of their weights.

    g is the gradient of a *sum* of losses, and `weight`, which the training loop supplies, the number of its terms
    (tokens, samples): so the mean is that of the whole batch, however unequal its parts.  Where the loop supplies none
    each is 1, and g a mean.  Without `mean` the sum is not divided.

    A gradient that is not finite is left out with its weight, and so is one whose weight is negative, infinite or NaN;
    if all k are, or all weights are 0, there is no update.  Only an update counts: schedules and bias corrections see
    one in k calls, and so do rules around it and after it in a chain; links before it see each gradient.  k may be a
    schedule.  A call that is skipped from outside, as by a gradient scaler, is none.

    A leaf must have a gradient in the last call: without one its sum stays until it has, and is divided by the weights
    of that window.  The sum has the parameter's dtype, in which it may overflow: for parameters of 16 bits give the
    adapter state_dtype="float32".
    """
    is_sound = (global_max(abs(g)) < math.inf) & (weight >= 0) & (weight < math.inf)
    total = where(is_sound, state.total + g, state.total)
    total_weight = where(is_sound, state.total_weight + weight, state.total_weight)
    calls = state.calls + 1
    is_last = calls >= k
    happens = is_last & (total_weight > 0)
    u = inner(total / total_weight if mean else total, when=happens)
    begun = Window(where(is_last, 0.0, total), where(is_last, 0.0, total_weight), where(is_last, 0.0, calls))
    return count_if(happens, u), begun
