"""Every schedule, with its namesakes or its definition."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import trainfn as tf


@dataclass(frozen=True)
class ScheduleRow:
    """A schedule with its namesakes; where there is none, the same curve in plain Python, from its definition."""

    name: str
    schedule: tf.Schedule
    torch: tuple[str, Mapping[str, Any]] | None = None  # a scheduler over a base lr of 1, times `scale`
    optax: tuple[str, Mapping[str, Any]] | None = None
    scale: float = 1.0
    plain: Callable[[int], float] | None = None


def _schedule(name: str, schedule: tf.Schedule, **other: Any) -> ScheduleRow:
    return ScheduleRow(name, schedule, **other)


def _rectification(n: int, b2: float = 0.99) -> float:
    t, rho_inf = n + 1, 2 / (1 - b2) - 1
    rho = rho_inf - 2 * t * b2**t / (1 - b2**t)
    if rho <= 4:
        return 0.0
    return math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


def _warmed_up(after: Callable[[int], float], warmup: int = 7) -> Callable[[int], float]:
    return lambda n: n / warmup if n < warmup else after(n)


def _half_wave(x: float) -> float:
    return (1 + math.cos(math.pi * x)) / 2


# transformers' schedules, their formulas written down from its documentation; 7 steps of warm-up, 60 in all.
HUGGINGFACE: Mapping[str, tuple[dict[str, Any], Callable[[int], float]]] = {
    "constant": ({}, lambda n: 1.0),
    "constant_with_warmup": ({}, _warmed_up(lambda n: 1.0)),
    "linear": ({}, _warmed_up(lambda n: max(60 - n, 0) / 53)),
    "cosine": ({"num_cycles": 1.5}, _warmed_up(lambda n: _half_wave(3 * min((n - 7) / 53, 1)))),
    "cosine_with_restarts": (
        {"num_cycles": 3},
        _warmed_up(lambda n: _half_wave(3 * (n - 7) / 53 % 1) if n < 60 else 0.0),
    ),
    "polynomial": (
        {"lr_end": 0.1, "power": 1.7},
        _warmed_up(lambda n: 0.1 + 0.9 * (max(60 - n, 0) / 53) ** 1.7),
    ),
    "inverse_sqrt": ({"timescale": 20}, _warmed_up(lambda n: 1 / math.sqrt((n - 7 + 20) / 20))),
    "cosine_with_min_lr": (
        {"min_lr_rate": 0.1},
        _warmed_up(lambda n: 0.1 + 0.9 * _half_wave(min((n - 7) / 53, 1))),
    ),
    "cosine_warmup_with_min_lr": (
        {"min_lr": 0.1},
        lambda n: (n + 1) / 7 if n < 7 else 0.1 + 0.9 * _half_wave(min((n - 7 + 1) / 53, 1)),
    ),
    "warmup_stable_decay": (
        {"num_decay_steps": 20, "min_lr_ratio": 0.1, "warmup_type": "1-sqrt"},
        lambda n: (
            0.1 + 0.9 * (1 - math.sqrt(1 - n / 7)) if n < 7 else 0.1 + 0.9 * _half_wave(min(max(n - 40, 0) / 20, 1))
        ),
    ),
}


SCHEDULES: tuple[ScheduleRow, ...] = (
    _schedule(
        "constant",
        tf.constant(0.3),
        torch=("ConstantLR", {"factor": 1.0}),
        scale=0.3,
        optax=("constant_schedule", {"value": 0.3}),
    ),
    _schedule(
        "linear",
        tf.linear(start=0.1, stop=0.7, steps=13),
        optax=("linear_schedule", {"init_value": 0.1, "end_value": 0.7, "transition_steps": 13}),
        torch=("LinearLR", {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 13}),
    ),
    _schedule(
        "polynomial",
        tf.polynomial(start=1.0, stop=0.0, steps=30, power=1.7),
        torch=("PolynomialLR", {"total_iters": 30, "power": 1.7}),
        optax=("polynomial_schedule", {"init_value": 1.0, "end_value": 0.0, "power": 1.7, "transition_steps": 30}),
    ),
    _schedule(
        "exponential",
        tf.exponential(start=1.0, decay=0.93),
        torch=("ExponentialLR", {"gamma": 0.93}),
        optax=("exponential_decay", {"init_value": 1.0, "transition_steps": 1, "decay_rate": 0.93}),
    ),
    _schedule(
        "step_decay",
        tf.step_decay(start=1.0, factor=0.5, every=7),
        torch=("StepLR", {"step_size": 7, "gamma": 0.5}),
        optax=("exponential_decay", {"init_value": 1.0, "transition_steps": 7, "decay_rate": 0.5, "staircase": True}),
    ),
    _schedule(
        "multistep",
        tf.multistep(start=1.0, factor=0.3, milestones=[4, 9, 9, 31]),
        torch=("MultiStepLR", {"milestones": [4, 9, 9, 31], "gamma": 0.3}),
    ),
    _schedule(
        "piecewise_constant",
        tf.piecewise_constant([1.0, 0.5, 0.05], boundaries=[3, 12]),
        optax=("piecewise_constant_schedule", {"init_value": 1.0, "boundaries_and_scales": {3: 0.5, 12: 0.1}}),
    ),
    *(
        _schedule(
            f"interpolated_{shape}",
            tf.interpolated([1.0, 0.5, 2.0], boundaries=[5, 12], shape=shape),
            optax=(
                "piecewise_interpolate_schedule",
                {"interpolate_type": shape, "init_value": 1.0, "boundaries_and_scales": {5: 0.5, 12: 4.0}},
            ),
        )
        for shape in ("linear", "cosine")
    ),
    _schedule("inverse_time", tf.inverse_time(start=1.0, decay=0.5, steps=4), plain=lambda n: 1 / (1 + 0.5 * n / 4)),
    _schedule(
        "inverse_time_staircase",
        tf.inverse_time(start=1.0, decay=0.5, steps=4, staircase=True),
        plain=lambda n: 1 / (1 + 0.5 * (n // 4)),
    ),
    _schedule("inverse_sqrt", tf.inverse_sqrt(peak=1.0, timescale=10), plain=lambda n: ((n + 10) / 10) ** -0.5),
    _schedule(
        "inverse_sqrt_t5", tf.inverse_sqrt(peak=1.0, timescale=10, shift=0), plain=lambda n: (max(n, 10) / 10) ** -0.5
    ),
    _schedule(
        "noam", tf.noam(d_model=512, warmup=20), plain=lambda n: 512**-0.5 * min((n + 1) ** -0.5, (n + 1) * 20**-1.5)
    ),
    _schedule(
        "cosine",
        tf.cosine(peak=1.0, steps=40, floor=0.1),
        optax=("cosine_decay_schedule", {"init_value": 1.0, "decay_steps": 40, "alpha": 0.1}),
    ),
    _schedule(
        "cosine_power",
        tf.cosine(peak=2.0, steps=40, floor=0.2, power=1.5),
        optax=("cosine_decay_schedule", {"init_value": 2.0, "decay_steps": 40, "alpha": 0.1, "exponent": 1.5}),
    ),
    _schedule(
        "cosine_periodic",
        tf.cosine(peak=1.0, steps=13, floor=0.1, periodic=True),
        torch=("CosineAnnealingLR", {"T_max": 13, "eta_min": 0.1}),
    ),
    _schedule(
        "warm_restarts",
        tf.warm_restarts(peak=1.0, first=7, floor=0.1),
        torch=("CosineAnnealingWarmRestarts", {"T_0": 7, "eta_min": 0.1}),
    ),
    _schedule(
        "warm_restarts_growing",
        tf.warm_restarts(peak=1.0, first=4, growth=2, floor=0.1),
        torch=("CosineAnnealingWarmRestarts", {"T_0": 4, "T_mult": 2, "eta_min": 0.1}),
    ),
    _schedule(
        "warm_restarts_warmed_up",
        tf.warm_restarts(peak=1.0, first=6, growth=2, floor=0.1, decay=0.5, warmup=2),
        optax=(
            "sgdr_schedule",
            {
                "cosine_kwargs": [
                    {
                        "init_value": 0.1,
                        "peak_value": 0.5**k,
                        "end_value": 0.1,
                        "warmup_steps": 2,
                        "decay_steps": 6 * 2**k,
                    }
                    for k in range(4)
                ]
            },
        ),
    ),
    *(
        _schedule(
            f"cyclical_{mode}",
            tf.cyclical(low=0.1, peak=1.0, up=4, down=down, mode=mode, gamma=0.9),
            torch=(
                "CyclicLR",
                {
                    "base_lr": 0.1,
                    "max_lr": 1.0,
                    "step_size_up": 4,
                    "step_size_down": down,
                    "mode": mode,
                    "gamma": 0.9,
                    "cycle_momentum": False,
                },
            ),
        )
        for mode, down in (("triangular", None), ("triangular2", 7), ("exp_range", 3))
    ),
    _schedule(
        "cyclical_scaled",
        tf.cyclical(0.1, 1.0, up=4, scale=tf.linear(1.0, 0.0, 9), scale_by="step"),
        plain=lambda n: 0.1 + 0.9 * (1 - abs(n % 8 - 4) / 4) * max(1 - n / 9, 0),
    ),
    *(
        _schedule(
            f"one_cycle_{shape}{'_in_three' * three_phase}",
            tf.one_cycle(peak=1.0, steps=60, pct_start=0.4, shape=shape, three_phase=three_phase),
            torch=(
                "OneCycleLR",
                {
                    "max_lr": 1.0,
                    "total_steps": 60,
                    "pct_start": 0.4,
                    "anneal_strategy": shape[:6].replace("cosine", "cos"),
                    "three_phase": three_phase,
                    "cycle_momentum": False,
                },
            ),
        )
        for shape, three_phase in (("cosine", False), ("linear", True))
    ),
    _schedule(
        "one_cycle_momentum",
        tf.one_cycle_momentum(steps=60),
        plain=lambda n: 0.9 + 0.05 * math.cos(math.pi * (n / 17 if n < 17 else 1 - (min(n, 59) - 17) / 42)),
    ),
    _schedule(
        "warmup_stable_decay",
        tf.warmup_stable_decay(peak=1.0, warmup=5, steps=50, cooldown=20, floor=0.1),
        plain=lambda n: min(n / 5, 1.0, 0.1 + 0.9 * max(50 - n, 0) / 20),
    ),
    _schedule(
        "warmup_stable_1_sqrt",
        tf.warmup_stable_decay(1.0, warmup=5, steps=50, cooldown=20, shape="1-sqrt"),
        plain=lambda n: min(n / 5, 1 - (min(max(n - 30, 0), 20) / 20) ** 0.5),
    ),
    _schedule(
        "trapezoid",
        tf.trapezoid(peak=1.0, warmup=5, steps=50, cooldown=10),
        plain=lambda n: max(min(n / 5, 1.0, (50 - n) / 10), 0.0),
    ),
    _schedule(
        "warmup",
        tf.warmup(peak=0.5, steps=10),
        optax=("linear_schedule", {"init_value": 0.0, "end_value": 0.5, "transition_steps": 10}),
    ),
    _schedule(
        "cosine_warmup",
        tf.cosine_warmup(peak=0.5, steps=10, start=0.1),
        plain=lambda n: 0.3 - 0.2 * math.cos(math.pi * min(n, 10) / 10),
    ),
    _schedule(
        "exponential_warmup",
        tf.exponential_warmup(peak=0.5, timescale=10),
        plain=lambda n: 0.5 * (1 - math.exp(-(n + 1) / 10)),
    ),
    _schedule("radam_warmup", tf.radam_warmup(peak=0.5, b2=0.99), plain=lambda n: 0.5 * _rectification(n)),
    _schedule(
        "warmup_cosine",
        tf.warmup_cosine(peak=1.0, warmup=10, steps=50, floor=0.05),
        optax=(
            "warmup_cosine_decay_schedule",
            {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 10, "decay_steps": 50, "end_value": 0.05},
        ),
    ),
    _schedule(
        "sequence",
        tf.sequence(tf.linear(0.1, 1.0, 5), 1.0, tf.exponential(1.0, 0.9, 3), boundaries=[5, 12]),
        plain=lambda n: min(0.1 + 0.18 * n, 1.0) * 0.9 ** (max(n - 12, 0) / 3),
    ),
    _schedule(
        "product",
        tf.product(tf.warmup(1.0, 5), tf.exponential(1.0, 0.9), 0.5),
        plain=lambda n: min(n / 5, 1) * 0.9**n / 2,
    ),
    _schedule("shift", tf.shift(tf.linear(0.1, 1.0, 5), by=7), plain=lambda n: 0.1 + 0.18 * min(max(n - 7, 0), 5)),
    _schedule("repeat", tf.repeat(tf.linear(0.1, 1.0, 5), every=7), plain=lambda n: 0.1 + 0.18 * min(n % 7, 5)),
    *(
        _schedule(f"huggingface_{name}", tf.get_schedule(name, 1.0, warmup=7, steps=60, **specific), plain=plain)
        for name, (specific, plain) in HUGGINGFACE.items()
    ),
)
