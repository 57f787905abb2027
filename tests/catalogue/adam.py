"""Adam and its kin."""

from __future__ import annotations

import trainfn as tf
from tests.catalogue.row import Namesake, Row, row

ADAM_EDGES = {"b1": (0.0,), "b2": (0.0, 0.9999), "eps": (0.0, 1e-3), "lr": (0.0, 10.0)}

ROWS: tuple[Row, ...] = (
    row(
        tf.adam,
        lr=1e-2,
        torch=Namesake("Adam", {"lr": 1e-2}),
        optax=Namesake("adam", {"learning_rate": 1e-2}),
        edges=ADAM_EDGES,
    ),
    row(
        tf.adamw,
        lr=1e-2,
        weight_decay=0.1,
        torch=Namesake("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
        optax=Namesake("adamw", {"learning_rate": 1e-2, "weight_decay": 0.1}),
        edges={**ADAM_EDGES, "weight_decay": (0.0, 10.0)},
    ),
    row(
        tf.radam,
        lr=1e-2,
        optax=Namesake("radam", {"learning_rate": 1e-2}),
        edges={"b2": (0.5, 0.9), "eps": (0.0, 1e-3), "threshold": (4.0,)},
    ),
    row(
        tf.radam,
        "radam_torch",
        lr=1e-2,
        eps=1e-4,
        eps_before_debias=True,
        torch=Namesake("RAdam", {"lr": 1e-2, "eps": 1e-4}),
        edges={"eps": (0.0,)},
    ),
)
