"""Links that multiply, or average, what they are given."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, Static


class Running(NamedTuple):
    """mean: running mean of the gradients, shaped like p."""

    mean: Array


@rule
def scale(g: Any, *, by: Any = 1.0) -> Any:
    """by g."""
    return by * g


@rule
def average_gradient(step: Any, state: Running, g: Any, *, decay: Any = 0.9, debias: Static[bool] = True) -> Any:
    """A running mean of the gradients: optax's ema.

        mean <- decay mean + (1 - decay) g

    With `debias` what is handed on is mean / (1 - decay^t).
    """
    mean = decay * state.mean + (1 - decay) * g
    return (mean / (1 - decay ** (step + 1)) if debias else mean), Running(mean)
