"""Wrappers that keep more than a rule's state: averages, slow weights, windows of gradients, two gradients."""

from __future__ import annotations

import trainfn as tf
from tests.catalogue.row import Namesake, Row

ROWS: tuple[Row, ...] = (
    Row("adam_ema", lambda **h: tf.ema(tf.adam(**h), decay=0.9, warmup=True), hyper={"lr": 1e-2}),
    Row(
        "sgd_ema_debiased",
        lambda **h: tf.ema(tf.sgd(**h), decay=0.9, debias=True),
        hyper={"lr": 1e-2},
        descent={"lr": 0.001},
    ),
    Row(
        "sgd_polyak",
        lambda **h: tf.polyak_average(tf.sgd(**h), start=1, eta=2),
        hyper={"lr": 1e-2},
        descent={"lr": 0.001},
    ),
    Row(
        "sgd_swa",
        lambda **h: tf.swa(tf.sgd(momentum=0.9, **h), start=2, every=2),
        hyper={"lr": 1e-2},
        descent={"lr": 0.001},
    ),
    Row("adam_lookahead", lambda **h: tf.lookahead(tf.adam(**h), k=3), hyper={"lr": 1e-2}),
    Row(
        "sgd_lookahead_late",
        lambda **h: tf.lookahead(tf.sgd(**h), k=2, from_first_sync=True),
        hyper={"lr": 1e-2},
        descent={"lr": 0.001},
    ),
    Row(
        "adamw_schedule_free",
        lambda **h: tf.schedule_free(tf.adamw(b1=0.0, **h)),
        optax=Namesake(
            "adamw",
            {"learning_rate": 1e-2, "b1": 0.0, "weight_decay": 1e-2},
            around=("contrib.schedule_free", {"learning_rate": 1e-2}),
        ),
        hyper={"lr": 1e-2},
    ),
    Row(
        "sgd_sam",
        lambda **h: tf.chain(tf.sam(tf.sgd(momentum=0.9, **h), rho=0.1)),
        hyper={"lr": 1e-2},
        descent={"lr": 0.001},
    ),
    Row(
        "adam_accumulated",
        lambda **h: tf.accumulate(tf.adam(lr=tf.warmup(1e-2, 2), **h), k=2),
        hyper={"eps": 1e-8},
    ),
    Row("adam_unfrozen", lambda **h: tf.unfreeze(tf.adam(**h), start=1), hyper={"lr": 1e-2}),
)
