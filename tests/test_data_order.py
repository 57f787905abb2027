"""The order of samples: each once an epoch, epochs unlike, the same in any process, from any batch on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainfn.training.data import Batches


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 3), st.booleans())
def test_every_sample_once_an_epoch(size: int, batch_size: int, epoch: int, shuffle: bool) -> None:
    batches = Batches(size, batch_size, seed=7, shuffle=shuffle)
    numbers = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
    assert {batches.epoch(n) for n in numbers} == {epoch}
    taken = [batches[n] for n in numbers]
    assert all(len(indices) == batch_size for indices in taken[:-1])
    assert sorted(np.concatenate(taken)) == list(range(size))


def test_short_batches_are_left_out_if_asked() -> None:
    batches = Batches(10, 4, drop_last=True)
    assert batches.per_epoch == 2
    assert {len(batches[n]) for n in range(6)} == {4}


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(Batches(100, 100, seed=seed)[epoch]) for seed in range(4) for epoch in range(5)}
    assert len(orders) == 20


def test_the_order_stays_what_it_was() -> None:
    """A run that is resumed years later reads on where it stopped."""
    assert list(Batches(10, 10, seed=3)[0]) == [3, 0, 7, 1, 2, 4, 5, 8, 9, 6]
    assert list(Batches(10, 10, seed=3)[2**20]) == [8, 6, 4, 7, 5, 3, 0, 9, 2, 1]
    assert list(Batches(10, 4, shuffle=False)[2]) == [8, 9]


def test_orders_are_uniform() -> None:
    """Where sample 0 comes to lie, in 4,000 epochs of 8: 500 each, 21 being the standard deviation."""
    batches = Batches(8, 8, seed=11)
    counts = np.bincount([int(np.argmin(batches[n])) for n in range(4000)], minlength=8)
    assert np.all(np.abs(counts - 500) < 5 * 21)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Batches(0, 4), "there are no samples"),
        (lambda: Batches(4, 0), "batch_size = 0 must be a whole number"),
        (lambda: Batches(4, 2.0), "batch_size = 2.0"),
        (lambda: Batches(4, True), "batch_size = True"),
        (lambda: Batches(4, 5, drop_last=True), "no batch of 5 can be made of 4 samples"),
        (lambda: Batches(4, 2, seed=-1), "seed = -1"),
        (lambda: Batches(4, 2, seed=1.0), "seed = 1.0 must be a whole number"),  # type: ignore[arg-type]
        (lambda: Batches(4, 2)[-1], "there is no batch -1"),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises((ValueError, IndexError), match=message):
        make()


def test_numbers_of_numpy() -> None:
    batches = Batches(np.int64(10), np.int32(3), seed=np.uint8(4))  # type: ignore[arg-type]
    assert batches.per_epoch == 4
    assert np.array_equal(batches[np.uint8(5)], Batches(10, 3, seed=4)[5])  # type: ignore[call-overload]


def test_a_batch_is_the_callers() -> None:
    batches = Batches(10, 3, shuffle=False), Batches(10, 3)
    for own in batches:
        before = own[0].copy()
        own[0][:] = 0
        assert np.array_equal(own[0], before)
