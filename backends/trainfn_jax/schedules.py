"""Schedules of trainfn under optax's names, with optax's arguments and defaults.

    lr = trainfn_jax.warmup_cosine_decay_schedule(0.0, 1e-3, 100, 2000)      # where it said optax.warmup_...

Each returns a `trainfn.Schedule`, which is a schedule of optax, computed in float64.  Departures: steps must be
positive (optax makes such a schedule constant and logs a line), and a warm-up of no steps starts at the peak.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import trainfn
from trainfn.schedules import Schedule

__all__ = [
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
]


def constant_schedule(value: Any) -> Schedule:
    """`trainfn.constant`."""
    return trainfn.constant(value)


def linear_schedule(init_value: Any, end_value: Any, transition_steps: int, transition_begin: int = 0) -> Schedule:
    """`trainfn.linear`, begun at `transition_begin`."""
    return _begun(trainfn.linear(init_value, end_value, transition_steps), transition_begin)


def polynomial_schedule(
    init_value: Any, end_value: Any, power: Any, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """`trainfn.polynomial`, begun at `transition_begin`."""
    return _begun(trainfn.polynomial(init_value, end_value, transition_steps, power), transition_begin)


def exponential_decay(
    init_value: Any,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Any = None,
) -> Schedule:
    """`trainfn.exponential` or, with `staircase`, `trainfn.step_decay`; a decay of 0 is none, as in optax."""
    if isinstance(decay_rate, int | float) and decay_rate == 0:
        return trainfn.constant(init_value)
    decay = trainfn.step_decay if staircase else trainfn.exponential
    return _begun(decay(init_value, decay_rate, transition_steps, limit=end_value), transition_begin)


def cosine_decay_schedule(init_value: Any, decay_steps: int, alpha: Any = 0.0, exponent: Any = 1.0) -> Schedule:
    """`trainfn.cosine` down to alpha init_value."""
    power = None if isinstance(exponent, int | float) and exponent == 1 else exponent
    return trainfn.cosine(init_value, decay_steps, floor=alpha * init_value, power=power)


def piecewise_constant_schedule(init_value: Any, boundaries_and_scales: Mapping[int, float] | None = None) -> Schedule:
    """`trainfn.piecewise_constant`; each boundary multiplies the value by its scale."""
    boundaries, values = _scaled(init_value, boundaries_and_scales)
    return trainfn.piecewise_constant(values, boundaries)


def piecewise_interpolate_schedule(
    interpolate_type: str, init_value: Any, boundaries_and_scales: Mapping[int, float] | None = None
) -> Schedule:
    """`trainfn.interpolated`, "linear" or "cosine", between what each boundary's scale makes of the value before."""
    boundaries, values = _scaled(init_value, boundaries_and_scales)
    return trainfn.interpolated(values, boundaries, shape=interpolate_type)


def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: Any,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """`trainfn.interpolated` along lines: up, down to where it began, and to that over final_div_factor."""
    scales = {
        int(pct_start * transition_steps): div_factor,
        int(pct_final * transition_steps): 1 / div_factor,
        transition_steps: 1 / final_div_factor,
    }
    return piecewise_interpolate_schedule("linear", peak_value / div_factor, scales)


def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: Any,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """`trainfn.interpolated` along half cosines: up, and down to where it began over final_div_factor."""
    scales = {
        int(pct_start * transition_steps): div_factor,
        int(transition_steps): 1 / (div_factor * final_div_factor),
    }
    return piecewise_interpolate_schedule("cosine", peak_value / div_factor, scales)


def warmup_constant_schedule(init_value: Any, peak_value: Any, warmup_steps: int) -> Schedule:
    """`trainfn.warmup`."""
    return trainfn.warmup(peak_value, warmup_steps, start=init_value) if warmup_steps else trainfn.constant(peak_value)


def warmup_cosine_decay_schedule(
    init_value: Any,
    peak_value: Any,
    warmup_steps: int,
    decay_steps: int,
    end_value: Any = 0.0,
    exponent: Any = 1.0,
) -> Schedule:
    """`trainfn.warmup_cosine`; decay_steps counts the warm-up."""
    power = None if isinstance(exponent, int | float) and exponent == 1 else exponent
    return trainfn.warmup_cosine(peak_value, warmup_steps, decay_steps, floor=end_value, start=init_value, power=power)


def warmup_exponential_decay_schedule(
    init_value: Any,
    peak_value: Any,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: Any,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: Any = None,
) -> Schedule:
    """A linear warm-up, then `exponential_decay`."""
    decay = exponential_decay(peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    rising = warmup_constant_schedule(init_value, peak_value, warmup_steps)
    return trainfn.sequence(rising, decay, boundaries=[warmup_steps])


def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """One `warmup_cosine_decay_schedule` after another, each with its own arguments."""
    cycles = [warmup_cosine_decay_schedule(**arguments) for arguments in cosine_kwargs]
    lengths = [cycle.arguments["steps"] for cycle in cycles]
    return trainfn.sequence(*cycles, boundaries=list(itertools.accumulate(lengths[:-1])))


def join_schedules(schedules: Sequence[Any], boundaries: Sequence[int]) -> Schedule:
    """`trainfn.sequence`, of schedules of trainfn and numbers."""
    for schedule in schedules:
        if callable(schedule) and not isinstance(schedule, Schedule):
            raise TypeError(
                f"join_schedules joins schedules of trainfn; {schedule!r} is none. optax.join_schedules takes any."
            )
    return trainfn.sequence(*schedules, boundaries=list(boundaries))


def _begun(schedule: Schedule, begin: Any) -> Schedule:
    is_now = isinstance(begin, int | float) and begin == 0
    return schedule if is_now else trainfn.shift(schedule, by=begin)


def _scaled(init_value: Any, boundaries_and_scales: Mapping[int, float] | None) -> tuple[list[Any], list[Any]]:
    """The boundaries, and the value before the first and after each."""
    pairs = sorted((boundaries_and_scales or {}).items())
    values = itertools.accumulate((scale for _, scale in pairs), lambda value, scale: value * scale, initial=init_value)
    return [boundary for boundary, _ in pairs], list(values)
