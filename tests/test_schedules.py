"""Schedules: the same bits for every kind of step, their namesakes' curves, and what bad arguments get."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest

import trainfn as tf
from tests.catalogue import SCHEDULES, ScheduleRow
from trainfn.verbs import cos, where

STEPS = np.arange(-1, 120)


@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: row.name)
def test_an_int_gives_a_float_and_an_array_the_same_bits(row: ScheduleRow) -> None:
    curve = row.schedule(STEPS)
    assert isinstance(row.schedule(3), float)
    assert curve.dtype == np.float64
    assert curve.shape == STEPS.shape
    assert [row.schedule(int(n)) for n in STEPS] == list(curve)
    assert row.schedule(np.int64(7)) == row.schedule(7)


@pytest.mark.parametrize("row", [r for r in SCHEDULES if r.torch], ids=lambda row: row.name)
def test_torch_namesake(row: ScheduleRow) -> None:
    import torch

    assert row.torch is not None
    name, arguments = row.torch
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)
    theirs = []
    for _ in range(60):
        theirs.append(optimizer.param_groups[0]["lr"] * row.scale)
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(row.schedule(np.arange(60)), theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("row", [r for r in SCHEDULES if r.optax], ids=lambda row: row.name)
def test_optax_namesake(row: ScheduleRow) -> None:
    import jax
    import optax

    assert row.optax is not None
    name, arguments = row.optax
    with jax.enable_x64(True):
        theirs = np.array([float(getattr(optax, name)(**arguments)(n)) for n in range(60)])
    np.testing.assert_allclose(row.schedule(np.arange(60)), theirs, rtol=1e-12, atol=1e-15)


def test_ends_are_exact() -> None:
    for start, stop in [(0.1, 0.7), (1e-3, 3e-4), (0.0, 1.0)]:
        line = tf.linear(start=start, stop=stop, steps=13)
        assert (line(0), line(13), line(1000)) == (start, stop, stop)
    lr = tf.warmup_cosine(peak=0.3, warmup=7, steps=50)
    assert (lr(0), lr(7), lr(50), lr(51)) == (0.0, 0.3, 0.0, 0.0)


def test_sequence_counts_each_part_from_its_own_beginning() -> None:
    whole = tf.sequence(tf.linear(0.0, 1.0, 4), tf.exponential(1.0, 0.5), 0.125, boundaries=[4, 6])
    assert list(whole(np.arange(8))) == [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.125, 0.125]


def test_schedules_multiply() -> None:
    lr = tf.warmup(peak=1.0, steps=4) * 0.5
    assert lr(2) == 0.25
    assert (lr * lr)(2) == 0.0625


def test_a_schedule_of_ones_own() -> None:
    @tf.schedule
    def wave(step, *, size, period=8):  # type: ignore[no-untyped-def]
        return size * where(step < 4, 1.0, cos(2 * math.pi * step / period))

    assert wave(size=2.0)(3) == 2.0
    assert wave(2.0)(4) == -2.0
    assert "cos" in str(wave(2.0))
    assert repr(wave(2.0)) == "wave(size=2.0, period=8)"


def test_changing_a_number_keeps_the_program() -> None:
    assert tf.cosine(peak=1.0, steps=10).program == tf.cosine(peak=0.1, steps=99).program


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf.cosine(peak=1.0, steps=0), "steps = 0 must be a positive number of steps"),
        (lambda: tf.cosine(peak=math.nan, steps=3), "peak is NaN"),
        (lambda: tf.cosine(1.0, 3, florr=0.0), "florr"),
        (lambda: tf.step_decay(1.0, 0.5, every=-2), "every = -2"),
        (lambda: tf.warmup_cosine(1.0, warmup=9, steps=9), "warmup = 9"),
        (lambda: tf.sequence(1.0, 2.0, boundaries=[]), "2 schedules need 1 boundaries"),
        (lambda: tf.sequence(1.0, 2.0, 3.0, boundaries=[5, 5]), "must rise"),
        (lambda: tf.constant(0.1)("three"), "'three'"),
        (lambda: tf.constant(0.1)(True), "True"),
        (lambda: tf.constant("0.1"), "0.1"),
    ],
)
def test_bad_arguments(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_no_warnings_at_extremes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tf.exponential(1.0, 2.0)(10**7) == math.inf
        assert list(tf.exponential(1.0, 2.0)(np.array([10**7]))) == [math.inf]
        assert math.isnan(tf.linear(0.0, 1.0, 5)(math.nan))
