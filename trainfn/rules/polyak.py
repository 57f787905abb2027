"""Polyak's step size: as far as the loss is above its minimum."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.trace import Static
from trainfn.verbs import global_dot, maximum, minimum, where


@rule
def polyak_sgd(
    g: Any,
    value: Any,
    *,
    lr: Any = 1.0,
    scaling: Any = 1.0,
    f_min: Any = 0.0,
    eps: Any = 0.0,
    variant: Static[str] = "sps",
) -> Any:
    """SGD with Polyak's step size (Loizou et al., arXiv:2002.10542v3, SPS_max with c = 1).

        p <- p - scaling min((value - f_min) / (|g|^2 + eps), lr) g

    value is the loss, lr the longest step, |g| the norm of the model's gradient.  Nothing moves where |g|^2 + eps is 0.
    The variant "sps+" takes a negative gap for 0 (Garrigos et al., arXiv:2307.14528).  optax's polyak_sgd divides by
    |scaling g|^2, which its documentation does not, and stands still where that is below 2.2e-16.
    """
    if variant not in ("sps", "sps+"):
        raise TypeError(f"polyak_sgd: variant is 'sps' or 'sps+', not {variant!r}.")
    gap = value - f_min
    if variant == "sps+":
        gap = maximum(gap, 0.0)
    energy = global_dot(g, g) + eps
    return -scaling * where(energy > 0, minimum(gap / energy, lr), 0.0) * g
