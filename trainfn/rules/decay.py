"""Weight decay as a link of a chain, before or after the rule that scales the gradient."""

from __future__ import annotations

from typing import Any

from trainfn.hyperparameters import inherited
from trainfn.rule import rule
from trainfn.verbs import square, where


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


@rule
def independent_weight_decay(g: Any, p: Any, *, weight_decay: Any = 1e-4, peak: Any, lr: Any = inherited) -> Any:
    """u - (lr / peak) weight_decay p: the decay follows the schedule, and not how high it is.

    lr / peak is eta_t of Loshchilov & Hutter, arXiv:1711.05101v3, Algorithm 2, whose decay this is.  Wortsman et al.,
    arXiv:2309.14322v2, found that it makes the best lr depend less on the size of the model.
    """
    return g - lr / peak * weight_decay * p


@rule
def corrected_weight_decay(g: Any, p: Any, *, weight_decay: Any = 1e-2, peak: Any, lr: Any = inherited) -> Any:
    """u - (lr^2 / peak) weight_decay p: the ratio of gradient to parameter stays level while lr falls.

    AdamC's correction for normalised layers (Defazio, arXiv:2506.02285v2).
    """
    return g - square(lr) / peak * weight_decay * p


@rule
def cautious_weight_decay(g: Any, p: Any, *, weight_decay: Any = 1e-2, lr: Any = inherited) -> Any:
    """u - lr weight_decay p where u does not move p away from zero, else u (Chen et al., arXiv:2510.12402v2)."""
    is_towards_zero = ((g <= 0) & (p >= 0)) | ((g >= 0) & (p <= 0))
    return where(is_towards_zero, g - lr * weight_decay * p, g)


def decayed(u: Any, weight_decay: Any, p: Any) -> Any:
    """u + weight_decay p of a rule that has its decay inside; without one, None, it does not read p."""
    return u if weight_decay is None else u + weight_decay * p
