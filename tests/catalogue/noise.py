"""Rules that draw random numbers.  optax's noisy_sgd draws others: `tests/test_noise.py` compares their size."""

from __future__ import annotations

import trainfn as tf
from tests.catalogue.row import Row, row

ROWS: tuple[Row, ...] = (
    row(
        tf.noisy_sgd,
        lr=1e-2,
        seed=7,
        edges={"eta": (0.0,), "gamma": (0.0,), "seed": (2.0**32 - 1,), "lr": (0.0,)},
        descent={"lr": 1e-3},
    ),
    Row(
        "adam_noisy",
        lambda **h: tf.chain(tf.gradient_noise(0.3, 0.55, seed=3), tf.clip_by_global_norm(0.5), tf.adam(**h)),
        hyper={"lr": 1e-2},
    ),
)
