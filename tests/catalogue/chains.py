"""Links, wrappers and schedules around rules."""

from __future__ import annotations

import trainfn as tf
from tests.catalogue.row import Namesake, Row

ROWS: tuple[Row, ...] = (
    Row(
        "adam_l2",
        lambda **h: tf.chain(tf.coupled_weight_decay(0.1), tf.adam(**h)),
        torch=Namesake("Adam", {"lr": 1e-2, "weight_decay": 0.1}),
        optax=Namesake("adam", {"learning_rate": 1e-2}, before=(("add_decayed_weights", {"weight_decay": 0.1}),)),
        hyper={"lr": 1e-2},
    ),
    Row(
        "sgd_decoupled",
        lambda **h: tf.chain(tf.sgd(momentum=0.9, **h), tf.decoupled_weight_decay(0.1)),
        hyper={"lr": 1e-2},
        descent={"lr": 0.001},
    ),
    Row(
        "adamw_clipped",
        lambda **h: tf.chain(tf.clip_by_global_norm(0.5), tf.adamw(**h)),
        optax=Namesake(
            "adamw", {"learning_rate": 1e-2, "weight_decay": 0.01}, before=(("clip_by_global_norm", {"max_norm": 0.5}),)
        ),
        hyper={"lr": 1e-2},
    ),
    Row(
        "lion_clipped_by_value",
        lambda **h: tf.chain(tf.clip_by_value(0.1), tf.lion(**h)),
        optax=Namesake("lion", {"learning_rate": 1e-3}, before=(("clip", {"max_delta": 0.1}),)),
        hyper={"lr": 1e-3},
        descent={"lr": 0.01},
    ),
    Row(
        "sgd_averaged",
        lambda **h: tf.chain(tf.scale(0.5), tf.average_gradient(0.9), tf.negated(tf.sgd(**h)), tf.scale(-1.0)),
        optax=Namesake(
            "sgd",
            {"learning_rate": 1e-2},
            before=(("scale", {"step_size": 0.5}), ("ema", {"decay": 0.9})),
        ),
        hyper={"lr": 1e-2},
        descent={"lr": 0.002},
    ),
    Row(
        "sgd_on_plateau",
        lambda **h: tf.chain(
            tf.scale_on_plateau(
                factor=0.5,
                patience=2,
                rtol=0.5,
                atol=0.05,
                cooldown=2,
                accumulation_size=tf.piecewise_constant([1, 5], [6]),  # for much to happen in ten steps
                min_scale=0.3,
            ),
            tf.sgd(**h),
        ),
        hyper={"lr": 1e-2},
        descent={"lr": 0.002},
    ),
    Row(
        "adam_decayed",
        lambda **h: tf.chain(
            tf.adam(**h),
            tf.independent_weight_decay(1e-2, peak=0.05),
            tf.corrected_weight_decay(0.1, peak=0.02),
            tf.cautious_weight_decay(0.3),
        ),
        hyper={"lr": 1e-2},
    ),
    Row(
        "adam_cautious",
        lambda **h: tf.chain(tf.clip_by_norm(0.5), tf.cautious(tf.adam(**h), min_share=0.6)),
        hyper={"lr": 1e-2},
    ),
    Row(
        "lion_cautious",
        lambda **h: tf.cautious(tf.lion(weight_decay=0.0, **h), plus_one=True),
        peer=Namesake("Lion", {"lr": 1e-3, "cautious": True}),
        hyper={"lr": 1e-3},
        descent={"lr": 0.01},
    ),
    Row(
        "adam_grams",
        lambda **h: tf.chain(tf.grams(tf.adam(**h)), tf.decoupled_weight_decay(0.1)),
        peer=Namesake("Grams", {"lr": 1e-2, "weight_decay": 0.1}),
        hyper={"lr": 1e-2, "eps": 1e-6},
    ),
    Row(
        "adam_grokfast",
        lambda **h: tf.chain(tf.grokfast(), tf.adam(b2=0.99, **h)),
        # Its denominator is at least eps, and ours larger by eps.
        peer=Namesake("GrokFastAdamW", {"lr": 1e-2, "normalize_lr": False, "eps": 1e-20}),
        hyper={"lr": 1e-2, "eps": 1e-20},
        descent={"lr": 3e-3},
    ),
    Row(
        "adamw_stochastic",
        lambda **h: tf.stochastic_rounding(tf.adamw(**h), seed=3),
        hyper={"lr": 1e-2},
        dtype="bfloat16",
    ),
    Row(
        "sgd_rounded_once",
        lambda **h: tf.round_once(tf.sgd(momentum=0.9, **h)),
        hyper={"lr": 1e-2},
        descent={"lr": 0.001},
        dtype="float16",
    ),
    Row(
        "sgd_mechanic",
        lambda **h: tf.mechanic(tf.sgd(momentum=0.9, **h), s_init=1e-2),
        optax=Namesake("sgd", {"learning_rate": 1.0, "momentum": 0.9}, around=("contrib.mechanize", {"s_init": 1e-2})),
        hyper={"lr": 1.0},
        descent={"lr": 0.1},
    ),
    Row("adamw_scheduled", lambda **h: tf.skip_if_not_finite(tf.adamw(lr=tf.warmup_cosine(1e-2, 3, 20), **h))),
)
