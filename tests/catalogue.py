"""Every rule and schedule with what the tests need to know of it: one row each, read by all tests.

A rule's row has configurations worth running, the same recipe in torch.optim and optax, and what is promised of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import trainfn as tf


@dataclass(frozen=True)
class Namesake:
    """An upstream optimizer with the settings that make it the same recipe; `make(**hyper)` builds it."""

    name: str
    hyper: Mapping[str, Any] = field(default_factory=dict)
    before: tuple[tuple[str, Mapping[str, Any]], ...] = ()  # optax links to chain in front


@dataclass(frozen=True)
class Row:
    """One configuration of a rule.

    make: builds the rule.
    torch, optax: namesakes; None where upstream has nothing of this configuration.
    edges: hyperparameter values at which formulas degenerate, each applied alone.
    """

    name: str
    make: Callable[..., tf.Rule]
    torch: Namesake | None = None
    optax: Namesake | None = None
    edges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    hyper: Mapping[str, Any] = field(default_factory=dict)

    def rule(self, **changes: Any) -> tf.Rule:
        """The rule, with some hyperparameters changed; the same object each time, so that what is compiled is kept."""
        return _built(self.make, tuple({**self.hyper, **changes}.items()))


@cache
def _built(make: Callable[..., tf.Rule], hyper: tuple[tuple[str, Any], ...]) -> tf.Rule:
    return make(**dict(hyper))


def _row(make: Any, name: str = "", *, torch: Any = None, optax: Any = None, edges: Any = None, **hyper: Any) -> Row:
    return Row(name or make.name, make, torch, optax, edges or {}, hyper)


ADAM_EDGES = {"b1": (0.0,), "b2": (0.0, 0.9999), "eps": (0.0, 1e-3), "lr": (0.0, 10.0)}

ROWS: tuple[Row, ...] = (
    _row(
        tf.sgd,
        lr=0.1,
        torch=Namesake("SGD", {"lr": 0.1}),
        optax=Namesake("sgd", {"learning_rate": 0.1}),
        edges={"lr": (0.0, 10.0)},
    ),
    _row(
        tf.sgd,
        "sgd_momentum",
        lr=0.1,
        momentum=0.9,
        torch=Namesake("SGD", {"lr": 0.1, "momentum": 0.9}),
        optax=Namesake("sgd", {"learning_rate": 0.1, "momentum": 0.9}),
        edges={"momentum": (0.0, 0.999), "lr": (0.0,)},
    ),
    _row(
        tf.sgd,
        "sgd_dampened",
        lr=0.1,
        momentum=0.9,
        dampening=0.3,
        torch=Namesake("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
        edges={"dampening": (0.0, 1.0)},
    ),
    _row(
        tf.sgd,
        "sgd_nesterov",
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        torch=Namesake("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        optax=Namesake("sgd", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
        edges={"momentum": (0.0,)},
    ),
    _row(
        tf.adam,
        lr=1e-2,
        torch=Namesake("Adam", {"lr": 1e-2}),
        optax=Namesake("adam", {"learning_rate": 1e-2}),
        edges=ADAM_EDGES,
    ),
    _row(
        tf.adamw,
        lr=1e-2,
        weight_decay=0.1,
        torch=Namesake("AdamW", {"lr": 1e-2, "weight_decay": 0.1}),
        optax=Namesake("adamw", {"learning_rate": 1e-2, "weight_decay": 0.1}),
        edges={**ADAM_EDGES, "weight_decay": (0.0, 10.0)},
    ),
    _row(
        tf.lion,
        lr=1e-3,
        weight_decay=0.1,
        optax=Namesake("lion", {"learning_rate": 1e-3, "weight_decay": 0.1}),
        edges={"b1": (0.0,), "b2": (0.0,), "lr": (0.0,), "weight_decay": (0.0,)},
    ),
    _row(
        tf.radam,
        lr=1e-2,
        optax=Namesake("radam", {"learning_rate": 1e-2}),
        edges={"b2": (0.5, 0.9), "eps": (0.0, 1e-3), "threshold": (4.0,)},
    ),
    _row(
        tf.radam,
        "radam_torch",
        lr=1e-2,
        eps=1e-4,
        eps_before_debias=True,
        torch=Namesake("RAdam", {"lr": 1e-2, "eps": 1e-4}),
        edges={"eps": (0.0,)},
    ),
    _row(
        tf.rmsprop,
        lr=1e-2,
        torch=Namesake("RMSprop", {"lr": 1e-2}),
        optax=Namesake("rmsprop", {"learning_rate": 1e-2, "decay": 0.99, "eps_in_sqrt": False}),
        edges={"decay": (0.0,), "eps": (0.0, 1e-3), "lr": (0.0,)},
    ),
    _row(
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
    _row(
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
    _row(
        tf.adagrad,
        lr=1e-2,
        lr_decay=0.1,
        torch=Namesake("Adagrad", {"lr": 1e-2, "lr_decay": 0.1}),
        edges={"eps": (0.0,), "initial_accumulator_value": (1.0,), "lr_decay": (0.0,)},
    ),
    _row(
        tf.adagrad,
        "adagrad_optax",
        lr=1e-2,
        initial_accumulator_value=0.1,
        eps=1e-7,
        eps_in_sqrt=True,
        optax=Namesake("adagrad", {"learning_rate": 1e-2}),
        edges={"initial_accumulator_value": (0.0,)},
    ),
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
    ),
    Row("adamw_scheduled", lambda **h: tf.skip_if_not_finite(tf.adamw(lr=tf.warmup_cosine(1e-2, 3, 20), **h))),
)

BY_NAME = {row.name: row for row in ROWS}


@dataclass(frozen=True)
class ScheduleRow:
    """A schedule, and the same curve as plain Python written from its definition (for tolerance checks)."""

    name: str
    schedule: tf.Schedule
    torch: tuple[str, Mapping[str, Any]] | None = None  # a scheduler over a base lr of 1, times `scale`
    optax: tuple[str, Mapping[str, Any]] | None = None
    scale: float = 1.0


SCHEDULES: tuple[ScheduleRow, ...] = (
    ScheduleRow(
        "constant",
        tf.constant(0.3),
        torch=("ConstantLR", {"factor": 1.0}),
        scale=0.3,
        optax=("constant_schedule", {"value": 0.3}),
    ),
    ScheduleRow(
        "linear",
        tf.linear(start=0.1, stop=0.7, steps=13),
        optax=("linear_schedule", {"init_value": 0.1, "end_value": 0.7, "transition_steps": 13}),
        torch=("LinearLR", {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 13}),
    ),
    ScheduleRow(
        "polynomial",
        tf.polynomial(start=1.0, stop=0.0, steps=30, power=1.7),
        torch=("PolynomialLR", {"total_iters": 30, "power": 1.7}),
        optax=("polynomial_schedule", {"init_value": 1.0, "end_value": 0.0, "power": 1.7, "transition_steps": 30}),
    ),
    ScheduleRow(
        "exponential",
        tf.exponential(start=1.0, decay=0.93),
        torch=("ExponentialLR", {"gamma": 0.93}),
        optax=("exponential_decay", {"init_value": 1.0, "transition_steps": 1, "decay_rate": 0.93}),
    ),
    ScheduleRow(
        "step_decay",
        tf.step_decay(start=1.0, factor=0.5, every=7),
        torch=("StepLR", {"step_size": 7, "gamma": 0.5}),
        optax=("exponential_decay", {"init_value": 1.0, "transition_steps": 7, "decay_rate": 0.5, "staircase": True}),
    ),
    ScheduleRow(
        "cosine",
        tf.cosine(peak=1.0, steps=40, floor=0.1),
        optax=("cosine_decay_schedule", {"init_value": 1.0, "decay_steps": 40, "alpha": 0.1}),
    ),
    ScheduleRow(
        "warmup",
        tf.warmup(peak=0.5, steps=10),
        optax=("linear_schedule", {"init_value": 0.0, "end_value": 0.5, "transition_steps": 10}),
    ),
    ScheduleRow(
        "warmup_cosine",
        tf.warmup_cosine(peak=1.0, warmup=10, steps=50, floor=0.05),
        optax=(
            "warmup_cosine_decay_schedule",
            {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10, "decay_steps": 50, "end_value": 0.05},
        ),
    ),
    ScheduleRow("sequence", tf.sequence(tf.linear(0.1, 1.0, 5), 1.0, tf.exponential(1.0, 0.9, 3), boundaries=[5, 12])),
)
