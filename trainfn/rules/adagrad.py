"""Adagrad: steps scaled by the sum of all squared gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, Static
from trainfn.verbs import full_like, sqrt, square, where


class SumOfSquares(NamedTuple):
    """s: sum of g * g, shaped like p."""

    s: Array

    @staticmethod
    def init(p: Any, initial_accumulator_value: Any) -> SumOfSquares:
        return SumOfSquares(full_like(p, initial_accumulator_value))


@rule
def adagrad(
    step: Any,
    state: SumOfSquares,
    g: Any,
    *,
    lr: Any = 1e-2,
    lr_decay: Any = 0.0,
    initial_accumulator_value: Any = 0.0,
    eps: Any = 1e-10,
    eps_in_sqrt: Static[bool] = False,
) -> Any:
    """Adagrad (Duchi, Hazan & Singer, JMLR 12, 2011, diagonal form).

        s <- s + g^2
        p <- p - lr / (1 + step lr_decay) g / (sqrt(s) + eps)

    Defaults are torch's.  With `eps_in_sqrt` the divisor is sqrt(s + eps), and nothing moves where s = 0: optax's
    adagrad, whose defaults are initial_accumulator_value = 0.1 and eps = 1e-7.
    """
    s = state.s + square(g)
    u = where(s > 0, g / sqrt(s + eps), 0.0) if eps_in_sqrt else g / (sqrt(s) + eps)
    return -(lr / (1 + step * lr_decay)) * u, SumOfSquares(s)
