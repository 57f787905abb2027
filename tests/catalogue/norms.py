"""Steps that depend on sums over a leaf or the model: trust ratios, and learning rates that are estimated."""

from __future__ import annotations

import trainfn as tf
from tests.catalogue.row import Namesake, Row, row

ROWS: tuple[Row, ...] = (
    Row(
        "sgd_normalized",
        lambda **h: tf.chain(tf.clip_by_rms(0.1), tf.normalize(), tf.sgd(**h)),
        optax=Namesake(
            "sgd",
            {"learning_rate": 1e-2},
            before=(("clip_by_block_rms", {"threshold": 0.1}), ("normalize_by_update_norm", {})),
        ),
        hyper={"lr": 1e-2},
    ),
    Row(
        "sgd_trusted",
        lambda **h: tf.chain(tf.trust_ratio(min_norm=0.5, trust_coefficient=0.2, eps=0.1), tf.sgd(**h)),
        optax=Namesake(
            "sgd",
            {"learning_rate": 1e-2},
            before=(("scale_by_trust_ratio", {"min_norm": 0.5, "trust_coefficient": 0.2, "eps": 0.1}),),
        ),
        hyper={"lr": 1e-2},
    ),
    row(
        tf.lamb,
        lr=1e-2,
        weight_decay=0.1,
        optax=Namesake("lamb", {"learning_rate": 1e-2, "weight_decay": 0.1}),
        edges={"eps": (0.0,)},
    ),
    row(
        tf.lars,
        lr=0.1,
        weight_decay=0.1,
        optax=Namesake("lars", {"learning_rate": 0.1, "weight_decay": 0.1}),
        edges={"weight_decay": (0.0,)},
        descent={"lr": 1.0},
    ),
    row(
        tf.lars,
        "lars_separate",
        lr=0.1,
        weight_decay=0.1,
        eps=1e-3,
        nesterov=True,
        separate_norms=True,
        lr_in_momentum=False,
        descent={"lr": 1.0},
    ),
    row(
        tf.fromage,
        lr=1e-2,
        optax=Namesake("fromage", {"learning_rate": 1e-2}),
        edges={"min_norm": (0.0,)},
    ),
    row(
        tf.novograd,
        lr=1e-2,
        weight_decay=0.1,
        optax=Namesake("novograd", {"learning_rate": 1e-2, "weight_decay": 0.1}),
        edges={"b2": (0.0,)},
    ),
    row(
        tf.prodigy,
        lr=0.5,
        d0=1e-2,
        d_coefficient=5.0,
        weight_decay=0.1,
        bias_correction=True,
        optax=Namesake(
            "contrib.prodigy",
            {"learning_rate": 0.5, "estim_lr0": 1e-2, "estim_lr_coef": 5.0, "weight_decay": 0.1},
        ),
        edges={"lr": (0.0,)},
    ),
    row(tf.prodigy, "prodigy_safeguarded", lr=0.5, b3=0.9, d0=1e-2, d_coefficient=2.0, safeguard_warmup=True),
    row(
        tf.dadapt_adamw,
        lr=0.5,
        d0=1e-2,
        weight_decay=0.1,
        optax=Namesake("contrib.dadapt_adamw", {"learning_rate": 0.5, "estim_lr0": 1e-2, "weight_decay": 0.1}),
        edges={"lr": (0.0,)},
    ),
    row(
        tf.dog,
        start_value=1e-3,
        optax=Namesake("contrib.dog", {"init_step": ("heuristic", 1e-3)}),
        edges={"eps": (0.0,)},
    ),
    row(
        tf.dog,
        "dog_learning_rate",
        lr=0.5,
        start="learning_rate",
        start_value=0.1,
        optax=Namesake("contrib.dog", {"learning_rate": 0.5, "init_step": ("learning_rate", 0.1)}),
    ),
    row(
        tf.dowg,
        lr=0.5,
        eps=1e-2,
        optax=Namesake("contrib.dowg", {"learning_rate": 0.5, "eps": 1e-2}),
        edges={"initial_square_distance": (0.1,)},
    ),
    row(
        tf.momo,
        lr=1.0,
        lower_bound=0.3,
        weight_decay=0.1,
        adapt_lower_bound=True,
        optax=Namesake("contrib.momo", {"lower_bound": 0.3, "weight_decay": 0.1, "adapt_lower_bound": True}),
        edges={"adapt_lower_bound": (False,)},
    ),
    row(
        tf.momo_adam,
        lr=0.3,
        lower_bound=0.3,
        weight_decay=0.1,
        adapt_lower_bound=True,
        optax=Namesake(
            "contrib.momo_adam",
            {"learning_rate": 0.3, "lower_bound": 0.3, "weight_decay": 0.1, "adapt_lower_bound": True},
        ),
        edges={"adapt_lower_bound": (False,)},
    ),
    row(
        tf.polyak_sgd,
        lr=0.1,
        f_min=0.5,
        eps=0.1,
        variant="sps+",
        optax=Namesake("polyak_sgd", {"max_learning_rate": 0.1, "f_min": 0.5, "eps": 0.1, "variant": "sps+"}),
        edges={"eps": (0.0,)},
    ),
    row(
        tf.cocob,
        lr=0.5,
        alpha=10.0,
        optax=Namesake("contrib.cocob", {"learning_rate": 0.5, "alpha": 10.0}),
        edges={"eps": (0.0,)},
    ),
)
