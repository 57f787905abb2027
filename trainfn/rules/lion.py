"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.decay import decayed
from trainfn.trace import Array, Static
from trainfn.verbs import clip, sign


class Mean(NamedTuple):
    """m: running mean of g, shaped like p."""

    m: Array


@rule
def lion(
    state: Mean,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-4,
    b1: Any = 0.9,
    b2: Any = 0.99,
    weight_decay: Any | None = 1e-3,
    refined: Static[bool] = False,
) -> Any:
    """Lion (Chen et al., arXiv:2302.06675v4, Algorithm 2).

        c <- b1 m + (1 - b1) g
        m <- b2 m + (1 - b2) g
        p <- p - lr (sign(c) + weight_decay p)

    The default decay is optax's; the paper has none.  `refined`, the mode of that name in optax's scale_by_lion, has
    in place of the sign c itself where |c| < 1.
    """
    c = b1 * state.m + (1 - b1) * g
    m = b2 * state.m + (1 - b2) * g
    u = clip(c, -1.0, 1.0) if refined else sign(c)
    return -lr * decayed(u, weight_decay, p), Mean(m)
