"""Gradient descent with momentum, and steps scaled by the size of past gradients."""

from __future__ import annotations

import trainfn as tf
from tests.catalogue.row import Namesake, Row, row

ROWS: tuple[Row, ...] = (
    row(
        tf.sgd,
        lr=0.1,
        torch=Namesake("SGD", {"lr": 0.1}),
        optax=Namesake("sgd", {"learning_rate": 0.1}),
        edges={"lr": (0.0, 10.0)},
    ),
    row(
        tf.sgd,
        "sgd_momentum",
        lr=0.1,
        momentum=0.9,
        torch=Namesake("SGD", {"lr": 0.1, "momentum": 0.9}),
        optax=Namesake("sgd", {"learning_rate": 0.1, "momentum": 0.9}),
        edges={"momentum": (0.0, 0.999), "lr": (0.0,)},
    ),
    row(
        tf.sgd,
        "sgd_dampened",
        lr=0.1,
        momentum=0.9,
        dampening=0.3,
        torch=Namesake("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
        edges={"dampening": (0.0, 1.0)},
    ),
    row(
        tf.sgd,
        "sgd_nesterov",
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        torch=Namesake("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        optax=Namesake("sgd", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
        edges={"momentum": (0.0,)},
    ),
    row(
        tf.rmsprop,
        lr=1e-2,
        torch=Namesake("RMSprop", {"lr": 1e-2}),
        optax=Namesake("rmsprop", {"learning_rate": 1e-2, "decay": 0.99, "eps_in_sqrt": False}),
        edges={"decay": (0.0,), "eps": (0.0, 1e-3), "lr": (0.0,)},
    ),
    row(
        tf.rmsprop,
        "rmsprop_centered",
        lr=1e-3,
        momentum=0.9,
        centered=True,
        eps=1e-2,  # v - mean^2 cancels: without it the quotient of two rounding errors is compared
        torch=Namesake("RMSprop", {"lr": 1e-3, "momentum": 0.9, "centered": True, "eps": 1e-2}),
        optax=Namesake(
            "rmsprop",
            {
                "learning_rate": 1e-3,
                "decay": 0.99,
                "momentum": 0.9,
                "centered": True,
                "eps": 1e-2,
                "eps_in_sqrt": False,
            },
        ),
    ),
    row(
        tf.rmsprop,
        "rmsprop_optax",
        lr=1e-2,
        decay=0.9,
        momentum=0.9,
        nesterov=True,
        eps_in_sqrt=True,
        lr_in_momentum=True,
        initial_scale=0.5,
        optax=Namesake("rmsprop", {"learning_rate": 1e-2, "momentum": 0.9, "nesterov": True, "initial_scale": 0.5}),
    ),
    row(
        tf.adagrad,
        lr=1e-2,
        lr_decay=0.1,
        torch=Namesake("Adagrad", {"lr": 1e-2, "lr_decay": 0.1}),
        edges={"eps": (0.0,), "initial_accumulator_value": (1.0,), "lr_decay": (0.0,)},
    ),
    row(
        tf.adagrad,
        "adagrad_optax",
        lr=1e-2,
        initial_accumulator_value=0.1,
        eps=1e-7,
        eps_in_sqrt=True,
        optax=Namesake("adagrad", {"learning_rate": 1e-2}),
        edges={"initial_accumulator_value": (0.0,)},
    ),
)
