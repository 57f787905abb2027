"""Weight decay as a link of a chain, before or after the rule that scales the gradient."""

from __future__ import annotations

from typing import Any

from trainfn.hyperparameters import inherited
from trainfn.rule import rule


@rule
def coupled_weight_decay(g: Any, p: Any, *, weight_decay: Any = 1e-2) -> Any:
    """g + weight_decay p: L2 regularisation, put before a rule, which scales the decay like the gradient."""
    return g + weight_decay * p


@rule
def decoupled_weight_decay(g: Any, p: Any, *, weight_decay: Any = 1e-2, lr: Any = inherited) -> Any:
    """u - lr weight_decay p, put after a rule whose update is u (Loshchilov & Hutter, arXiv:1711.05101v3).

    lr is that of the rule before it, number or schedule, unless another is given.
    """
    return g - lr * weight_decay * p
