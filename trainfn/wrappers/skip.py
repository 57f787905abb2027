"""Updates that do not happen: non-finite gradients, and what a gradient scaler decides."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import ModelScalar
from trainfn.verbs import apply_if, count_if, global_max, where


@rule
def skip_if_not_finite(inner: Any, g: Any) -> Any:
    """The inner rule, unless any gradient of the model is infinite or NaN.

    A skipped update leaves every parameter, state and counter as it was.
    """
    return apply_if(global_max(abs(g)) < math.inf, inner(g))


class Errors(NamedTuple):
    """in_a_row: calls whose gradients were not finite, since the last that were; total: all of them; last_was_finite: 0
    if the last call's were not."""

    in_a_row: ModelScalar
    total: ModelScalar
    last_was_finite: ModelScalar

    @staticmethod
    def init(p: Any) -> Errors:
        return Errors(0.0, 0.0, 1.0)  # type: ignore[arg-type]


@rule
def apply_if_finite(inner: Any, state: Errors, g: Any, *, max_consecutive_errors: Any = 5.0) -> Any:
    """The inner rule, unless a gradient of the model is infinite or NaN, for up to so many calls in a row: optax's.

    A call that is skipped is no update, of which only the errors are counted.  After that many the gradient is taken
    as it is, so that a model that makes nothing else shows it.
    """
    is_finite = global_max(abs(g)) < math.inf
    in_a_row = where(is_finite, 0.0, state.in_a_row + 1)
    happens = is_finite | (in_a_row > max_consecutive_errors)
    after = Errors(in_a_row, where(is_finite, state.total, state.total + 1), where(is_finite, 1.0, 0.0))
    return count_if(happens, inner(g, when=happens)), after


@rule
def unscale(inner: Any, g: Any, grad_scale: Any, found_inf: Any) -> Any:
    """The inner rule on g / grad_scale, unless found_inf: automatic mixed precision with a gradient scaler."""
    return apply_if(found_inf == 0, inner(g / grad_scale))


@rule
def maximize(inner: Any, g: Any) -> Any:
    """The inner rule on -g: ascent."""
    return inner(-g)


@rule
def negated(inner: Any, g: Any) -> Any:
    """The inner rule's update times -1: negated(adam(lr=1.0)) is what Adam scales the gradient to, before any lr."""
    return -inner(g)
