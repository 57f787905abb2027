"""trainfn's rules under the names of optax.contrib, with its arguments and defaults."""

from __future__ import annotations

import trainfn
from trainfn_jax.optimizers import KEYWORD, LEARNING_RATE, optimizer

__all__ = ["acprop", "ademamix", "adopt", "simplified_ademamix"]

acprop = optimizer(
    trainfn.acprop,
    LEARNING_RATE,
    ("b1", 0.9),
    ("b2", 0.999),
    ("eps", 1e-16),
    ("eps_root", 1e-16),
    ("weight_decay", 0.0),
    ("mask", None),
    within="optax.contrib",
)
ademamix = optimizer(
    trainfn.ademamix,
    LEARNING_RATE,
    ("b1", 0.9),
    ("b2", 0.999),
    ("b3", 0.9999),
    ("alpha", 5.0),
    ("eps", 1e-8),
    ("eps_root", 0.0),
    KEYWORD,
    ("weight_decay", 0.0),
    ("mask", None),
    within="optax.contrib",
)
simplified_ademamix = optimizer(
    trainfn.simplified_ademamix,
    LEARNING_RATE,
    ("b1", 0.99),
    ("b2", 0.95),
    ("alpha", 0.0),
    ("eps", 1e-8),
    ("eps_root", 0.0),
    ("weight_decay", 0.0),
    ("mask", None),
    within="optax.contrib",
)
adopt = optimizer(
    trainfn.adopt,
    LEARNING_RATE,
    ("b1", 0.9),
    ("b2", 0.9999),
    ("eps", 1e-6),
    KEYWORD,
    ("nesterov", False),
    ("use_clipping", True),
    within="optax.contrib",
)
