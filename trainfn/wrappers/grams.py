"""Updates as large as momentum says, along the gradient's sign."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.verbs import abs, sign


@rule
def grams(inner: Any, g: Any) -> Any:
    """The size of the inner rule's update against the sign of the gradient: -|u| sign(g).

    Grams is grams(adam()), gradient descent with adaptive momentum scaling (Cao et al., arXiv:2412.17107v1).  Weight
    decay is put outside: chain(grams(adam()), decoupled_weight_decay()).
    """
    return -abs(inner(g)) * sign(g)
