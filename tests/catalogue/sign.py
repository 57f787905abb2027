"""Steps that are signs."""

from __future__ import annotations

import trainfn as tf
from tests.catalogue.row import Namesake, Row, row

ROWS: tuple[Row, ...] = (
    row(
        tf.lion,
        lr=1e-3,
        weight_decay=0.1,
        optax=Namesake("lion", {"learning_rate": 1e-3, "weight_decay": 0.1}),
        edges={"b1": (0.0,), "b2": (0.0,), "lr": (0.0,), "weight_decay": (0.0,)},
        descent={"lr": 0.01},
    ),
    row(
        tf.lion,
        "lion_refined",
        lr=1e-3,
        weight_decay=0.1,
        refined=True,
        optax=Namesake(
            "sgd",
            {"learning_rate": 1e-3},
            before=(("scale_by_lion", {"mode": "refined"}), ("add_decayed_weights", {"weight_decay": 0.1})),
        ),
        descent={"lr": 0.01},
    ),
    row(tf.sign_sgd, lr=1e-3, optax=Namesake("sign_sgd", {"learning_rate": 1e-3}), descent={"lr": 0.01}),
    row(
        tf.signum,
        lr=1e-3,
        optax=Namesake("signum", {"learning_rate": 1e-3}),
        edges={"b1": (0.0,)},
        descent={"lr": 0.01},
    ),
    Row(
        "tiger",
        lambda **h: tf.chain(tf.signum(b1=0.965, **h), tf.decoupled_weight_decay(0.1)),
        peer=Namesake("Tiger", {"lr": 1e-3, "weight_decay": 0.1}),
        hyper={"lr": 1e-3},
        descent={"lr": 0.01},
    ),
)
