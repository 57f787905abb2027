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
        lambda **h: tf.schedule_free(tf.adamw(b1=None, **h)),
        optax=Namesake("contrib.schedule_free_adamw", {"learning_rate": 1e-2, "weight_decay": 1e-2}),
        hyper={"lr": 1e-2},
    ),
    Row(
        "sgd_schedule_free",
        lambda **h: tf.schedule_free(tf.chain(tf.coupled_weight_decay(0.1), tf.sgd(**h))),
        optax=Namesake("contrib.schedule_free_sgd", {"learning_rate": 1e-2, "weight_decay": 0.1}),
        peer=Namesake("ScheduleFreeSGD", {"lr": 1e-2, "weight_decay": 0.1}),
        hyper={"lr": 1e-2},
        descent={"lr": 0.001},
    ),
    Row(
        "radam_schedule_free",
        lambda **h: tf.schedule_free(tf.adamw(b1=None, **h)),
        peer=Namesake("ScheduleFreeRAdam", {"lr": 1e-2, "weight_decay": 1e-2}),
        hyper={"lr": tf.radam_warmup(peak=1e-2)},
        descent={"lr": 1e-2},
    ),
    Row(
        "sgd_sam",
        lambda **h: tf.chain(tf.sam(tf.sgd(momentum=0.9, **h), rho=0.1)),
        hyper={"lr": 1e-2},
        descent={"lr": 0.001},
    ),
    Row(
        "adamw_guarded", lambda **h: tf.guard(tf.chain(tf.clip_by_global_norm(0.1), tf.adamw(**h))), hyper={"lr": 1e-2}
    ),
    Row(
        "adamw_loss_scaled",
        lambda **h: tf.loss_scaled(tf.chain(tf.clip_by_global_norm(0.1), tf.adamw(**h)), init_scale=4.0, interval=2),
        hyper={"lr": 1e-2},
    ),
    Row(
        "adam_accumulated",
        lambda **h: tf.accumulate(tf.adam(**h), k=2),
        hyper={"lr": tf.warmup(1e-2, 2)},
    ),
    Row("adam_unfrozen", lambda **h: tf.unfreeze(tf.adam(**h), start=1), hyper={"lr": 1e-2}),
)
