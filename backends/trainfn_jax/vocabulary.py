"""optax's words for what trainfn names otherwise: data, not code.

What is not listed has the same name in both.
"""

from __future__ import annotations

from collections.abc import Mapping

# Hyperparameters, for every rule: trainfn's word -> optax's.
HYPERPARAMETERS: Mapping[str, str] = {"lr": "learning_rate"}

# State fields, by rule: trainfn's word -> optax's.
STATE: Mapping[str, Mapping[str, str]] = {
    "adam": {"m": "mu", "v": "nu"},
    "adamw": {"m": "mu", "v": "nu"},
    "radam": {"m": "mu", "v": "nu"},
    "lion": {"m": "mu"},
    "sgd": {"buf": "trace"},
    "rmsprop": {"v": "nu", "mean": "mu", "buf": "trace"},
    "adagrad": {"s": "sum_of_squares"},
}
