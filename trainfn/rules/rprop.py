"""Rprop: a step size for each parameter, from the signs of gradients alone."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array
from trainfn.verbs import clip, full_like, sign, where, zeros_like


class StepSizes(NamedTuple):
    """prev: the last gradient, 0 where it had changed its sign; step_size: of each parameter; both shaped like p."""

    prev: Array
    step_size: Array

    @staticmethod
    def init(p: Any, lr: Any) -> StepSizes:
        return StepSizes(zeros_like(p), full_like(p, lr))


@rule
def rprop(
    state: StepSizes,
    g: Any,
    *,
    lr: Any = 1e-2,
    eta_minus: Any = 0.5,
    eta_plus: Any = 1.2,
    min_step_size: Any = 1e-6,
    max_step_size: Any = 50.0,
) -> Any:
    """Rprop (Riedmiller & Braun, ICNN 1993), in the variant without backtracking of Igel & Hüsken, NC 2000: iRprop-.

        step_size <- clip(eta step_size, min_step_size, max_step_size)
            eta = eta_plus, 1, eta_minus    where g and the last g agree in sign, one is 0, they disagree
        g <- 0                              where they disagree
        p <- p - step_size sign(g)

    lr is the first step size and is not read again.  The last gradient is multiplied by a sign and not by the gradient,
    as in torch, which underflows where both are small.  optax's rprop takes each step when the next gradient is known,
    and its first is 0, which its documentation does not say; here a step is taken at once, as in torch.
    """
    agreement = sign(g) * state.prev
    eta = where(agreement > 0, eta_plus, where(agreement < 0, eta_minus, 1.0))
    step_size = clip(state.step_size * eta, min_step_size, max_step_size)
    g = where(agreement < 0, 0.0, g)
    return -sign(g) * step_size, StepSizes(g, step_size)
