"""Updates that do not happen: non-finite gradients, and what a gradient scaler decides."""

from __future__ import annotations

import math
from typing import Any

from trainfn.rule import rule
from trainfn.verbs import apply_if, global_max


@rule
def skip_if_not_finite(inner: Any, g: Any) -> Any:
    """The inner rule, unless any gradient of the model is infinite or NaN.

    A skipped update leaves every parameter, state and counter as it was.
    """
    return apply_if(global_max(abs(g)) < math.inf, inner(g))


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
