"""Runs of torch models: exact accumulation, what a skipped update holds, resuming to the same bits, and bad input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from trainfn.training.checkpoints import Checkpoints
from trainfn.training.loop import Every
from trainfn.training.recipe import Recipe
from trainfn.training.sinks.jsonl import read
from trainfn_torch.training import Step, fit

RULE = tf.chain(tf.clip_by_global_norm(1.0), tf.ema(tf.adamw(lr=tf.warmup(peak=1e-2, steps=5)), decay=0.9))


def model() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(8, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.Tanh(),
            torch.nn.Dropout(0.2),
            torch.nn.Linear(16, 3),
        )


def data(bad: int | None = None) -> tuple[Any, Any]:
    """Forty samples, of which one may be infinite."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    if bad is not None:
        x[bad] = np.inf
    return x, y


def loss_fn(model: Any, part: Any) -> tuple[torch.Tensor, int]:
    x, y = part
    return F.cross_entropy(model(x).float(), y, reduction="sum"), len(y)


def last(directory: Path) -> dict[str, Any]:
    """The arrays of a run's last checkpoint, by file and name."""
    with Checkpoints(directory / "checkpoints") as checkpoints:
        arrays = checkpoints.load().arrays
    return {f"{file}/{name}": x for file, named in arrays.items() for name, x in named.items()}


# -- one update --------------------------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)

# Losses whose means over a batch are weighted in ways that parts of it must not forget.
LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "samples": lambda out, y: (F.cross_entropy(out, y, reduction="sum"), len(y)),
    "class weights": lambda out, y: (F.cross_entropy(out, y, WEIGHTS, reduction="sum"), WEIGHTS[y].sum()),
    "smoothing": lambda out, y: (F.cross_entropy(out, y, reduction="sum", label_smoothing=0.1), len(y)),
    "tokens": lambda out, y: (F.cross_entropy(out, y, ignore_index=0, reduction="sum"), (y != 0).sum()),
}


@settings(deadline=None)
@given(st.sampled_from(sorted(LOSSES)), st.lists(st.integers(1, 11), max_size=4, unique=True), st.booleans())
def test_parts_of_any_sizes_are_the_batch(kind: str, cuts: list[int], is_scaled: bool) -> None:
    """Gradients divided once: to 1e-12 in float64, whatever the sizes and weights of the parts."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 5, dtype=torch.float64, generator=generator), torch.arange(12) % 3

    def moved(bounds: list[int]) -> torch.Tensor:
        weight = torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)
        net = torch.nn.Module()
        net.weight = torch.nn.Parameter(weight)
        rule = (tf.loss_scaled if is_scaled else tf.guard)(tf.sgd(lr=1.0))
        step = Step(
            net,
            trainfn_torch.Optimizer(net.named_parameters(), rule),
            lambda net, part: LOSSES[kind](part[0] @ net.weight.T, part[1]),
            precision="float16" if is_scaled else "float32",
            terms=12,
        )
        step([(x[a:b], y[a:b]) for a, b in zip([0, *bounds], [*bounds, 12], strict=True)])
        return net.weight.detach()

    whole = moved([])
    total, weight = LOSSES[kind](x @ (p := torch.zeros(3, 5, dtype=torch.float64, requires_grad=True)).T, y)
    (total / weight).backward()
    assert p.grad is not None
    for found in (moved(sorted(cuts)), whole):
        assert (found + p.grad).abs().max() <= 1e-12 * p.grad.abs().max()


def _taken(parts: list[Any], precision: str = "float32") -> tuple[Step, dict[str, Any]]:
    """A step that took one good batch and then these parts; everything before the second."""
    net = model()
    rule = (tf.loss_scaled if precision == "float16" else tf.guard)(RULE)
    optimizer = trainfn_torch.Optimizer(net.named_parameters(), rule)
    step = Step(net, optimizer, loss_fn, precision=precision, terms=8)
    x, y = data()
    step([(torch.tensor(x[:8]), torch.tensor(y[:8]))])
    before = _everything(step)
    step(parts)
    return step, before


def _everything(step: Step) -> dict[str, Any]:
    optimizer = step.optimizer
    states = {f"{i}/{k}": x for i, p in enumerate(optimizer.parameters()) for k, x in optimizer.state[p].items()}
    group = optimizer.param_groups[0]
    held = {"updates": group["updates"], "lr": torch.tensor(group["lr"])}
    return {k: x.detach().numpy().copy() for k, x in {**step.model.state_dict(), **states, **held}.items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("what", ["infinite", "empty"])
def test_a_skipped_update_holds_everything(precision: str, what: str) -> None:
    """Parameters, moments, average, counters, schedule and batch statistics."""
    x, y = map(torch.tensor, data(bad=3))
    parts = [(x[8:16], y[8:16]), (x[:8], y[:8])]

    def empty(net: Any, part: Any) -> Any:
        return net(part[0]).sum() * 0, 0

    if what == "empty":
        step, _ = _taken([(x[8:16], y[8:16])], precision)
        before = _everything(step)
        step.loss_fn = empty
        step([(x[16:24], y[16:24])])
    else:
        step, before = _taken(parts, precision)
    assert_same_bits(_everything(step), before)
    numbers = step.read()
    assert (numbers["train/skipped"], numbers["train/skipped_in_a_row"]) == (1, 1)
    if precision == "float16":
        assert numbers["train/loss_scale"] == 2.0 ** (15 if what == "infinite" else 16)


def test_a_step_computes_in_what_it_is_told() -> None:
    seen = []

    def noting(net: Any, part: Any) -> Any:
        out = net(part[0])
        seen.append(out.dtype)
        return F.cross_entropy(out.float(), part[1], reduction="sum"), len(part[1])

    x, y = map(torch.tensor, data())
    for precision in ("float32", "bfloat16", "float16"):
        net = model()
        rule = (tf.loss_scaled if precision == "float16" else tf.guard)(RULE)
        Step(net, trainfn_torch.Optimizer(net.named_parameters(), rule), noting, precision=precision)([(x, y)])
    assert seen == [torch.float32, torch.bfloat16, torch.float16]


def test_evaluation_has_the_averages_and_changes_nothing() -> None:
    x, y = map(torch.tensor, data())
    step, _ = _taken([(x, y)])
    before = _everything(step)
    net = model().eval()
    net.load_state_dict(step.model.state_dict() | step.optimizer.eval_params())
    with torch.no_grad():
        expected = loss_fn(net, (x, y))[0].item()
        other = loss_fn(step.model.eval(), (x, y))[0].item()
    found = step.measure([(x[:30], y[:30]), (x[30:], y[30:])])
    assert found.loss.item() == pytest.approx(expected, rel=1e-6)
    assert found.loss.item() != pytest.approx(other, rel=1e-3)
    assert_same_bits(_everything(step), before)


@pytest.mark.parametrize(
    ("rule", "precision", "message"),
    [
        (tf.adam(), "float32", r"make the optimizer with trainfn\.guard\(rule\)"),
        (tf.guard(tf.adam()), "float16", r"make the optimizer with trainfn\.loss_scaled\(rule\)"),
        (tf.loss_scaled(tf.adam()), "bfloat16", r"bfloat16 needs none: use trainfn\.guard\(rule\)"),
        (tf.guard(tf.adam()), "half", "precision = 'half' must be"),
    ],
)
def test_a_rule_that_does_not_fit_the_precision(rule: tf.Rule, precision: str, message: str) -> None:
    net = model()
    with pytest.raises(ValueError, match=message):
        Step(net, trainfn_torch.Optimizer(net.named_parameters(), rule), loss_fn, precision=precision)


def test_parameters_in_float16_are_refused() -> None:
    net = model().half()
    with pytest.raises(TypeError, match=r"parameter '0\.weight' is float16, .* model\.float\(\)"):
        Step(
            net,
            trainfn_torch.Optimizer(net.named_parameters(), tf.loss_scaled(tf.adam())),
            loss_fn,
            precision="float16",
        )


@pytest.mark.parametrize(
    ("returned", "kind", "message"),
    [
        (lambda out: out.sum(), TypeError, r"must return the sum of the losses, a tensor, and their number"),
        (lambda out: (out, 3), ValueError, r"the loss has shape \(40, 3\): sum what is left"),
        (lambda out: (out.sum(), out), ValueError, r"the weight \(40, 3\): sum what is left"),
        (lambda out: (3.0, 3), TypeError, r"it returned \(3.0, 3\)"),
    ],
)
def test_what_is_no_loss_is_refused(returned: Any, kind: Any, message: str) -> None:
    net = model()
    step = Step(
        net,
        trainfn_torch.Optimizer(net.named_parameters(), tf.guard(tf.adam())),
        lambda net, part: returned(net(part[0])),
    )
    x, y = map(torch.tensor, data())
    with pytest.raises(kind, match=message):
        step([(x, y)])


# -- a run -------------------------------------------------------------------------------------------------------------

RECIPE = Recipe(RULE, updates=11, batch_size=12, micro_batch_size=5, seed=3)
EVERY = Every(log=3, evaluate=5, save=1)


class Killed(Exception):
    pass


def run(directory: Path, recipe: Recipe = RECIPE, until: int | None = None, **options: Any) -> Any:
    """A run with a skipped batch in each epoch of four; it is cut off in the backward pass of batch `until`."""
    seen = iter(range(10**6))

    def counting(net: Any, part: Any) -> Any:
        if net.training and next(seen) == until:
            raise Killed
        return loss_fn(net, part)

    return fit(
        model(),
        counting,
        data(bad=37),
        recipe,
        directory=directory,
        evaluation=data(),
        every=EVERY,
        **options,
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("straight")
    result = run(directory)
    assert (result.reason, result.updates) == ("updates", 11)
    assert result.counters.attempts == 14  # three epochs and a half, in each of which a batch is skipped
    return directory


@pytest.mark.parametrize("part", range(36))
def test_resuming_anywhere_ends_in_the_same_bits(straight: Path, tmp_path: Path, part: int) -> None:
    """Cut off in any part of any batch: at epochs' ends, before and after skips, in the middle of an accumulation."""
    with pytest.raises(Killed):
        run(tmp_path, until=part)
    run(tmp_path)
    assert_same_bits(last(tmp_path), last(straight))
    here, there = read(tmp_path / "metrics.jsonl"), read(straight / "metrics.jsonl")
    for name in ("train/loss", "train/lr", "train/skipped", "eval/loss"):
        assert np.array_equal(here.series(name), there.series(name), equal_nan=True)


def test_killed_again_and_again_it_ends_in_the_same_bits(tmp_path: Path) -> None:
    """By SIGKILL, at any moment: while it begins, computes, writes a checkpoint, removes one, ends."""
    command = [sys.executable, "-m", "tests.torch.killed_run", str(tmp_path), "50", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 25
    for directory in tmp_path.glob("run*"):
        assert_same_bits(last(directory), last(tmp_path / "straight"))
        assert not list((directory / "checkpoints").glob(".*.partial"))
