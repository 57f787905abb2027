"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.decay import decayed
from trainfn.trace import Array
from trainfn.verbs import sign


class Mean(NamedTuple):
    """m: running mean of g, shaped like p."""

    m: Array


@rule
def lion(
    state: Mean, g: Any, p: Any, *, lr: Any = 1e-4, b1: Any = 0.9, b2: Any = 0.99, weight_decay: Any | None = 1e-3
) -> Any:
    """Lion (Chen et al., arXiv:2302.06675v4, Algorithm 2).

        c <- b1 m + (1 - b1) g
        m <- b2 m + (1 - b2) g
        p <- p - lr (sign(c) + weight_decay p)

    The default decay is optax's; the paper has none.
    """
    c = b1 * state.m + (1 - b1) * g
    m = b2 * state.m + (1 - b2) * g
    return -lr * decayed(sign(c), weight_decay, p), Mean(m)
