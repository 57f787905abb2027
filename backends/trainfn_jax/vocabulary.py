"""optax's words for what trainfn names otherwise: data, not code.

What is not listed has the same name in both.
"""

from __future__ import annotations

from collections.abc import Mapping

# Hyperparameters, for every rule: trainfn's word -> optax's.
HYPERPARAMETERS: Mapping[str, str] = {"lr": "learning_rate"}

# Hyperparameters of one rule: trainfn's word -> optax's.
OF_A_RULE: Mapping[str, Mapping[str, str]] = {"signum": {"b1": "beta"}}

# State fields, by rule: trainfn's word -> optax's.
STATE: Mapping[str, Mapping[str, str]] = {
    "adam": {"m": "mu", "v": "nu", "v_max": "nu_max"},
    "adamw": {"m": "mu", "v": "nu", "v_max": "nu_max"},
    "radam": {"m": "mu", "v": "nu"},
    "lion": {"m": "mu"},
    "sgd": {"buf": "trace"},
    "rmsprop": {"v": "nu", "mean": "mu", "buf": "trace"},
    "adagrad": {"s": "sum_of_squares"},
    "adamax": {"m": "mu", "u": "nu"},
    "adamaxw": {"m": "mu", "u": "nu"},
    "adadelta": {"v": "e_g", "d": "e_x"},
    "rprop": {"prev": "prev_updates", "step_size": "step_sizes"},
    "signum": {"m": "ema"},
    "adabelief": {"m": "mu", "s": "nu"},
    "acprop": {"m": "mu", "s": "nu"},
    "yogi": {"m": "mu", "v": "nu"},
    "adan": {"g_last": "g"},
    "adopt": {"m": "mu", "v": "nu"},
    "ademamix": {"v": "nu"},
    "simplified_ademamix": {"v": "n"},
    "optimistic_gradient_descent": {"last": "previous_gradient"},
    "optimistic_adam": {"m": "mu", "v": "nu", "last": "previous_gradient"},
}
