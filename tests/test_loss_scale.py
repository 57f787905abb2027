"""Dynamic loss scaling: torch's GradScaler number by number, the same bits on every library, and its limits."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
from trainfn.loss_scale import Scale

OUTCOMES = st.lists(st.sampled_from([True, True, True, False]), min_size=1, max_size=40)


@given(OUTCOMES, st.integers(1, 5))
def test_it_is_torchs(outcomes: list[bool], interval: int) -> None:
    machine = tf.loss_scale(interval=interval)
    scaler = torch.amp.GradScaler("cpu", growth_interval=interval)
    p = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.0)
    state = machine.init()
    for is_finite in outcomes:
        assert state.scale == scaler.get_scale()
        scaler.scale(p.sum()).backward()
        assert p.grad is not None
        p.grad.fill_(1.0 if is_finite else math.inf)
        scaler.step(optimizer)
        scaler.update()
        state, scale = machine(state, is_finite)
        assert scale == state.scale == scaler.get_scale()
        assert state.good == scaler._get_growth_tracker()


@given(OUTCOMES)
def test_every_library_has_the_same_numbers(outcomes: list[bool]) -> None:
    machine = tf.loss_scale(growth=3.0, backoff=0.7, interval=2)
    states: dict[str, Any] = {
        "python": machine.init(),
        "torch": Scale(*(torch.tensor(x) for x in machine.init())),
        "jax": Scale(*(jnp.float32(x) for x in machine.init())),
    }
    step = jax.jit(lambda state, is_finite: machine(state, is_finite)[0])
    for is_finite in outcomes:
        states["python"], _ = machine(states["python"], is_finite)
        states["torch"], _ = machine(states["torch"], torch.tensor(is_finite))
        states["jax"] = step(states["jax"], jnp.asarray(is_finite))
        numbers = {name: [np.float32(x) for x in state] for name, state in states.items()}
        assert numbers["python"] == numbers["torch"] == numbers["jax"]


def test_it_neither_overflows_nor_vanishes() -> None:
    machine = tf.loss_scale(interval=1, floor=2.0**-3)
    state = machine.init()
    for _ in range(200):
        state, scale = machine(state, True)
    assert scale == 2.0**127
    for _ in range(200):
        state, scale = machine(state, False)
    assert scale == 2.0**-3
    assert machine(state, True)[1] == 2.0**-2


def test_an_update_that_was_skipped_begins_the_interval_anew() -> None:
    machine = tf.loss_scale(interval=3)
    state = machine.init()._replace(scale=8.0)
    scales = []
    for is_finite in (True, True, False, True, True, True):
        state, scale = machine(state, is_finite)
        scales.append(scale)
    assert scales == [8.0, 8.0, 4.0, 4.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"growth": 1.0}, "growth = 1.0 must be above 1"),
        ({"growth": math.inf}, "growth = inf must be above 1"),
        ({"backoff": 1.0}, r"backoff = 1.0 must be in \(0, 1\)"),
        ({"interval": 0}, "interval = 0 must be a whole number"),
        ({"interval": 1.5}, "interval = 1.5 must be a whole number"),
        ({"floor": 0.0}, "would never rise again"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tf.loss_scale(**options)


def test_at_the_largest_scale_it_counts_on_as_torch_does() -> None:
    machine = tf.loss_scale(interval=2, growth=1.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.2e38, growth_interval=2, growth_factor=1.5)
    p = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.0)
    state = Scale(scale=np.float32(1.2e38), good=0.0)
    seen = []
    for _ in range(9):
        scaler.scale(p.sum() * 0).backward()
        assert p.grad is not None
        p.grad.fill_(1.0)
        scaler.step(optimizer)
        scaler.update()
        state, _ = machine(state, True)
        assert (state.scale, state.good) == (scaler.get_scale(), scaler._get_growth_tracker())
        seen.append(float(state.scale))
    assert len(set(seen)) == 3  # it grew twice, and could not a third time
