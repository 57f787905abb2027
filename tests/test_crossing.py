"""Runs that begin in one framework and go on in the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch.nn import functional as F

import trainfn as tf
import trainfn_jax.training
import trainfn_torch.training
from tests.bits import assert_same_bits
from trainfn.convert import Snapshot, inverse
from trainfn.training.checkpoints import Checkpoint, Checkpoints
from trainfn.training.crossing import cross
from trainfn.training.loop import Every
from trainfn.training.recipe import Recipe
from trainfn.training.sinks.jsonl import read
from trainfn_torch.convert import flax_layout

RULE = tf.chain(tf.clip_by_global_norm(0.3), tf.ema(tf.adamw(lr=tf.warmup(peak=3e-2, steps=9)), decay=0.9))
EVERY = Every(log=1, save=1)


def recipe(updates: int) -> Recipe:
    """In float16, beginning with a scale that overflows."""
    scale = {"init_scale": 2.0**18, "interval": 5.0}
    return Recipe(RULE, updates, batch_size=12, micro_batch_size=5, precision="float16", loss_scale=scale, seed=5)


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


def in_torch() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 3)
        )


class InFlax(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(1)
        self.first = nnx.Linear(8, 16, rngs=rngs, dtype=jnp.float16)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)  # of torch's momentum, 0.1, this is the rest
        self.last = nnx.Linear(16, 3, rngs=rngs, dtype=jnp.float16)

    def __call__(self, x: Any) -> Any:
        return self.last(nnx.relu(self.norm(self.first(x))))


NAMES = {"0": "first", "1": "norm", "3": "last"}
LAYOUT = flax_layout(in_torch(), lambda name: NAMES[name])
BUFFERS = {"1.running_mean": "norm/mean", "1.running_var": "norm/var"}


def torch_run(directory: Path, updates: int) -> Any:
    def loss_fn(model: Any, part: Any) -> Any:
        return F.cross_entropy(model(part[0]).float(), part[1], reduction="sum"), len(part[1])

    return trainfn_torch.training.fit(in_torch(), loss_fn, data(), recipe(updates), directory=directory, every=EVERY)


def jax_run(directory: Path, updates: int) -> Any:
    def loss_fn(model: Any, part: Any) -> Any:
        losses = optax.softmax_cross_entropy_with_integer_labels(model(part[0]).astype(jnp.float32), part[1])
        return losses.sum(), len(part[1])

    net = InFlax()
    result = trainfn_jax.training.fit(net, loss_fn, data(), recipe(updates), directory=directory, every=EVERY)
    assert np.array_equal(net.first.kernel[...], last(directory).arrays["params"]["first/kernel"])  # trained in place
    return result


def last(directory: Path) -> Checkpoint:
    with Checkpoints(directory / "checkpoints") as checkpoints:
        return checkpoints.load()


def test_there_and_back(tmp_path: Path) -> None:
    """Losses follow those of the run that stayed, and what is not the model's is the same."""
    stayed, first, second, third = (tmp_path / name for name in ("stayed", "first", "second", "third"))
    torch_run(stayed, 14)
    torch_run(first, 5)
    cross(first, second, recipe(5), LAYOUT, BUFFERS)
    there, here = last(second), last(first)
    assert np.array_equal(there.arrays["params"]["first/kernel"], here.arrays["params"]["0.weight"].T)
    assert np.array_equal(there.arrays["optimizer"]["m/last/bias"], here.arrays["optimizer"]["m/3.bias"])
    result = jax_run(second, 10)
    assert (result.reason, result.updates) == ("updates", 10)
    cross(second, third, recipe(10), inverse(LAYOUT), inverse(BUFFERS))
    result = torch_run(third, 14)
    assert result.updates == 14
    expected, found = read(stayed / "metrics.jsonl"), read(third / "metrics.jsonl")
    for name in ("train/lr", "train/updates", "train/skipped", "train/loss_scale"):
        assert found.series(name) == expected.series(name)
    assert found.series("train/skipped")[1][-1] > 0
    assert found.series("train/loss")[1] == pytest.approx(expected.series("train/loss")[1], rel=2e-2)
    moved, stood = last(third), last(stayed)
    assert moved.numbers["counters"] == stood.numbers["counters"]
    for name in ("m/0.weight", "v/3.bias", "mean/0.weight"):
        x, y = moved.arrays["optimizer"][name], stood.arrays["optimizer"][name]
        assert np.abs(x - y).max() <= 0.05 * np.abs(y).max()


def test_what_crosses_comes_back_bit_for_bit(tmp_path: Path) -> None:
    torch_run(tmp_path / "first", 3)
    cross(tmp_path / "first", tmp_path / "second", recipe(3), LAYOUT, BUFFERS)
    cross(tmp_path / "second", tmp_path / "third", recipe(3), inverse(LAYOUT), inverse(BUFFERS))
    before, after = last(tmp_path / "first"), last(tmp_path / "third")
    for file in ("params", "optimizer"):
        assert_same_bits(after.arrays[file], before.arrays[file])
    assert after.numbers == before.numbers
    with pytest.raises(FileExistsError, match="third holds a run already"):
        cross(tmp_path / "second", tmp_path / "third", recipe(3), inverse(LAYOUT), inverse(BUFFERS))


def test_a_layout_that_forgets_something(tmp_path: Path) -> None:
    torch_run(tmp_path / "first", 1)
    with pytest.raises(ValueError, match=r"1\.running_mean"):
        cross(tmp_path / "first", tmp_path / "second", recipe(1), LAYOUT)
    with pytest.raises(ValueError, match=r"3\.bias"):
        cross(
            tmp_path / "first",
            tmp_path / "second",
            recipe(1),
            {k: x for k, x in LAYOUT.items() if k != "3.bias"},
            BUFFERS,
        )
    assert not (tmp_path / "second").exists()


def test_a_snapshot_is_its_arrays_and_its_header(tmp_path: Path) -> None:
    torch_run(tmp_path, 1)
    made = last(tmp_path)
    known = Snapshot.of_arrays(recipe(1).guarded(), made.arrays["optimizer"], made.numbers["engine"]["optimizer"])
    assert_same_bits(known.arrays(), made.arrays["optimizer"])
    assert known.header() == made.numbers["engine"]["optimizer"]
    with pytest.raises(ValueError, match=r"the checkpoint holds a state of .* loss_scaled, and this is adam"):
        Snapshot.of_arrays(tf.adam(), made.arrays["optimizer"], made.numbers["engine"]["optimizer"])
