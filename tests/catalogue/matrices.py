"""Rules that work along the axes of a leaf, and on matrices."""

from __future__ import annotations

import trainfn as tf
from tests.catalogue.calls import written
from tests.catalogue.row import Namesake, Row, row
from trainfn.rule import partition
from trainfn.rules.muon import COEFFICIENTS

_T_IN_FLOAT32 = 1e-6  # optax computes powers of t in float32, whatever the parameters are
_SVD_IN_FLOAT32 = 2e-5  # of optax's, again

ROWS: tuple[Row, ...] = (
    row(
        tf.adafactor,
        lr=0.5,
        eps1=1e-7,
        weight_decay=0.1,
        eps1_is_floor=True,
        torch=Namesake("Adafactor", {"lr": 0.5, "weight_decay": 0.1, "eps": (1e-7, 1e-3)}),
        edges={"decay": (0.0,), "eps1": (0.0,), "weight_decay": (0.0,)},
    ),
    row(
        tf.adafactor,
        "adafactor_optax",
        lr=0.1,
        decay=0.7,
        eps1=1e-6,
        d=0.5,
        weight_decay=1e-2,
        momentum=0.9,
        relative_step=False,
        lr_in_decay=False,
        largest_axes=True,
        min_size=2,
        optax=Namesake(
            "adafactor",
            {
                "learning_rate": 0.1,
                "decay_rate": 0.7,
                "clipping_threshold": 0.5,
                "momentum": 0.9,
                "weight_decay_rate": 1e-2,
                "eps": 1e-6,
                "min_dim_size_to_factor": 2,
            },
            in_float32=("m",),
            precision=_T_IN_FLOAT32,
        ),
        edges={"momentum": (0.0,), "eps1": (1e-30,)},
    ),
    row(
        tf.adafactor,
        "adafactor_unfactored",
        lr=0.1,
        relative_step=False,
        scale_parameter=False,
        largest_axes=True,
        min_size=128,
        optax=Namesake(
            "adafactor", {"learning_rate": 0.1, "multiply_by_parameter_scale": False}, precision=_T_IN_FLOAT32
        ),
    ),
    row(tf.adafactor, "adafactor_paper"),
    row(
        tf.muon,
        lr=1e-2,
        weight_decay=0.1,
        torch=Namesake("Muon", {"lr": 1e-2}, matrices_only=True, in_bfloat16=True),
        edges={"momentum": (0.0,), "eps": (0.0,), "weight_decay": (0.0,)},
    ),
    row(
        tf.muon,
        "muon_matched",
        lr=1e-2,
        consistent_rms=0.2,
        weight_decay=0.1,
        coefficients=(3.0, -3.2, 1.2),
        steps=3,
        precision="highest",
        torch=Namesake(
            "Muon",
            {
                "lr": 1e-2,
                "adjust_lr_fn": "match_rms_adamw",
                "ns_coefficients": (3.0, -3.2, 1.2),
                "ns_steps": 3,
            },
            matrices_only=True,
            in_bfloat16=True,
        ),
    ),
    Row(
        "muon_optax",
        lambda **h: partition(
            {
                written("lambda leaf: leaf.ndim == 2"): tf.muon(
                    momentum=0.9,
                    eps=1e-8,
                    weight_decay=0.1,
                    consistent_rms=0.2,
                    coefficients=COEFFICIENTS["dion"],
                    debias=True,
                    eps_is_floor=False,
                    out_axis=-1,
                    precision="highest",
                    **h,
                )
            },
            otherwise=tf.adamw(weight_decay=0.0, eps_root=0.0, nesterov=True, **h),
        ),
        optax=Namesake(
            "contrib.muon",
            {"learning_rate": 1e-2, "ns_coeffs": "dion", "beta": 0.9, "weight_decay": 0.1, "consistent_rms": 0.2},
        ),
        hyper={"lr": 1e-2},
    ),
    Row(
        "sgd_centralized",
        lambda **h: tf.chain(tf.centralize(), tf.sgd(**h)),
        optax=Namesake("sgd", {"learning_rate": 1e-2}, before=(("centralize", {}),)),
        hyper={"lr": 1e-2},
        descent={"lr": 0.001},
    ),
    Row(
        "sgd_clipped_by_unit_norm",
        lambda **h: tf.chain(tf.clip_by_unit_norm(0.3, out_axis=-1), tf.sgd(**h)),
        optax=Namesake("sgd", {"learning_rate": 1e-2}, before=(("adaptive_grad_clip", {"clipping": 0.3}),)),
        hyper={"lr": 1e-2},
    ),
    row(
        tf.stable_adamw,
        lr=1e-2,
        b2=0.5,
        weight_decay=0.1,
        peer=Namesake("StableAdamW", {"lr": 1e-2, "betas": (0.9, 0.5), "weight_decay": 0.1}),
        edges={"b1": (0.0,), "eps": (0.0,)},
    ),
    row(
        tf.madgrad,
        lr=1e-2,
        weight_decay=0.1,
        optax=Namesake("contrib.madgrad", {"learning_rate": 1e-2, "weight_decay": 0.1}, precision=_T_IN_FLOAT32),
        peer=Namesake("MADGRAD", {"lr": 1e-2, "weight_decay": 0.1, "foreach": False}),
        edges={"momentum": (0.0,), "eps": (0.0,)},
    ),
    row(
        tf.sm3,
        lr=1e-2,
        optax=Namesake("sm3", {"learning_rate": 1e-2}, matrices_only=True),
        peer=Namesake("SM3", {"lr": 1e-2, "momentum": 0.9, "eps": 1e-8}),
        edges={"momentum": (0.0,), "eps": (0.0,)},
    ),
    row(
        tf.came,
        lr=1e-2,
        b2=0.9,
        b3=0.95,
        d=0.5,
        weight_decay=0.1,
        peer=Namesake(
            "CAME",
            {"lr": 1e-2, "betas": (0.9, 0.9, 0.95), "clip_threshold": 0.5, "weight_decay": 0.1, "foreach": False},
        ),
        edges={"b1": (0.0,), "b3": (0.0,), "eps2": (0.0,)},
    ),
    row(
        tf.shampoo,
        lr=1e-2,
        eps=1e-3,
        every=1.0,
        precision="highest",
        peer=Namesake(
            "Shampoo",
            {"lr": 1e-2, "matrix_eps": 1e-3, "preconditioning_compute_steps": 1},
            matrices_only=True,
        ),
        edges={"b2": (0.0,)},
    ),
    row(
        tf.shampoo,
        "shampoo_averaged",
        lr=1e-2,
        b2=0.9,
        every=2.0,
        max_size=5,
        for_small=("max_size",),
        descent={"every": 1.0},
    ),
    Row(
        "adagrad_shampoo",
        lambda **h: tf.grafted_shampoo(tf.adagrad(**h), every=3.0),
        hyper={"lr": 1e-2},
        descent={"lr": 0.1},
    ),
    row(tf.soap, lr=1e-2, every=2.0, weight_decay=0.1),
    row(
        tf.soap,
        "soap_in_its_first_bases",
        lr=1e-2,
        every=1000.0,
        max_size=60,
        for_small=("max_size",),
        precision="highest",
        peer=Namesake(
            "SOAP",
            {"lr": 1e-2, "weight_decay": 0.0, "precondition_frequency": 1000, "max_precondition_dim": 60},
        ),
    ),
    row(
        tf.galore,
        lr=1e-2,
        scale=1.0,
        weight_decay=0.1,
        rank=4,
        longer_side=True,
        precision="highest",
        optax=Namesake(
            "contrib.galore", {"learning_rate": 1e-2, "rank": 4, "weight_decay": 0.1}, precision=_SVD_IN_FLOAT32
        ),
    ),
    row(tf.galore, "galore_paper", lr=1e-2, every=3.0, rank=2),
    row(tf.muon, "muon_plain", lr=1e-2, nesterov=False, debias=True, out_axis=-1, is_scaled=False),
)
