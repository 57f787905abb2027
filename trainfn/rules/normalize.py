"""Normalisation: gradients of one length before a rule sees them."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.verbs import global_norm


@rule
def normalize(g: Any, *, scale: Any = 1.0, eps: Any = 1e-6) -> Any:
    """scale g / (|g| + eps) with |g| the Euclidean norm of the whole model's gradient (Nesterov, Matekon 29, 1984)."""
    return g * (scale / (global_norm(g) + eps))
