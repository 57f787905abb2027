"""Runs of torch models: exact accumulation, what a skipped update holds, resuming to the same bits, and bad input."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
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
from trainfn.training.loop import Every, Stopping
from trainfn.training.metrics import Record, Sink
from trainfn.training.recipe import Recipe
from trainfn.training.sinks.jsonl import read
from trainfn.training.stopping import early_stopping
from trainfn_torch.training import Step, fit, recompute

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


# -- how a run ends ----------------------------------------------------------------------------------------------------


def small(updates: int, **changes: Any) -> Recipe:
    return replace(RECIPE, updates=updates, **changes)


def test_the_updates_of_a_recipe_are_those_that_were_applied(tmp_path: Path) -> None:
    """Skipped ones are made up for, and told of."""
    result = fit(model(), loss_fn, data(bad=37), small(7), directory=tmp_path, every=Every(log=2))
    known = read(tmp_path / "metrics.jsonl")
    assert result.updates == 7
    assert result.counters.attempts > 7
    skips = [r.event for r in known.records if "skipped" in r.event]
    assert skips[0].startswith("1 updates were skipped since the last log, 1 in all")
    assert known.run["updates"] == 7


def test_more_updates_go_on_and_what_computes_something_else_is_refused(tmp_path: Path) -> None:
    straight, directory = tmp_path / "straight", tmp_path / "run"
    fit(model(), loss_fn, data(), small(9), directory=straight)
    fit(model(), loss_fn, data(), small(4), directory=directory)
    with pytest.raises(ValueError, match=r"a run of another recipe: batch_size was 12 and is 10; seed was 3 and is 4"):
        fit(model(), loss_fn, data(), small(9, batch_size=10, seed=4), directory=directory)
    with pytest.raises(ValueError, match=r"rule was .*clip_by_global_norm.* and is sgd"):
        fit(model(), loss_fn, data(), small(9, rule=tf.sgd()), directory=directory)
    fit(model(), loss_fn, data(), small(9), directory=directory)
    assert_same_bits(last(directory), last(straight))
    wide = torch.nn.Linear(8, 3)
    with pytest.raises(ValueError, match=r"the checkpoint is of another model"):
        fit(wide, loss_fn, data(), small(12), directory=directory)


@pytest.mark.parametrize("has_directory", [True, False], ids=["on disk", "in memory"])
def test_stopping_early_with_the_best_parameters(tmp_path: Path, has_directory: bool) -> None:
    """The evaluation's loss falls, and rises when the learning rate does."""
    rule = tf.sgd(lr=tf.piecewise_constant([1e-1, 30.0], boundaries=[8]))
    evaluated: list[tuple[float, dict[str, Any]]] = []
    net = model()

    def noting(model: Any, part: Any) -> Any:
        loss, weight = loss_fn(model, part)
        if not model.training and len(part[1]) == 12:
            state = {k: x.detach().numpy().copy() for k, x in net.state_dict().items()}
            evaluated.append((float(loss.detach()) / weight, state))
        return loss, weight

    x, y = data()
    result = fit(
        net,
        noting,
        (x, y),
        Recipe(rule, 100, batch_size=12),
        evaluation=(x[:12], y[:12]),
        directory=tmp_path if has_directory else None,
        every=Every(evaluate=2),
        stopping=Stopping(rule=early_stopping(patience=3), restore_best=True),
    )
    assert result.reason == "stopped"
    assert 8 <= result.updates < 30
    assert result.counters.attempts < 30
    best, state = min(evaluated, key=lambda entry: entry[0])
    assert result.best is not None
    assert result.best[0] == pytest.approx(best)
    assert_same_bits({k: x.numpy() for k, x in net.state_dict().items()}, state)


def test_a_metric_that_never_appears() -> None:
    stopping = Stopping(metric="eval/accuracy", rule=early_stopping())
    with pytest.raises(KeyError, match=r"stopping looks at 'eval/accuracy', and the evaluation gave eval/loss"):
        fit(model(), loss_fn, data(), small(4), evaluation=data(), every=Every(evaluate=1), stopping=stopping)
    with pytest.raises(ValueError, match=r"stopping looks at the evaluation, and there is none"):
        fit(model(), loss_fn, data(), small(4), stopping=stopping)


def test_a_first_loss_that_is_not_finite(tmp_path: Path) -> None:
    net = model()
    before = {k: x.clone() for k, x in net.state_dict().items()}
    x, y = data()
    with pytest.raises(FloatingPointError, match=r"the loss of the first batch is nan: look at the data"):
        fit(net, loss_fn, (x * np.inf, y), small(4), directory=tmp_path)
    assert_same_bits(net.state_dict(), before)


def test_updates_that_are_all_skipped(tmp_path: Path) -> None:
    """The state before them is kept."""
    x, y = data()

    def breaking(net: Any, part: Any) -> Any:
        loss, weight = loss_fn(net, part)
        return (loss if next(seen) < 3 else loss * torch.tensor(float("nan")) + 0), weight

    seen = iter(range(10**6))
    with pytest.raises(FloatingPointError, match=r"the updates of the last \d+ batches were skipped, .* is kept"):
        fit(
            model(),
            breaking,
            (x, y),
            small(40, micro_batch_size=None),
            directory=tmp_path,
            every=Every(log=3),
            stopping=Stopping(skips=5),
        )
    assert 6 <= last(tmp_path)["optimizer/skipped"] <= 9  # numbers are read when the next are asked for


def test_a_run_that_is_asked_to_end(tmp_path: Path) -> None:
    """SIGTERM: it ends after the batch at hand, saved, and goes on to the same bits."""
    straight, directory = tmp_path / "straight", tmp_path / "run"
    fit(model(), loss_fn, data(), small(9), directory=straight)

    def asking(net: Any, part: Any) -> Any:
        if next(seen) == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss_fn(net, part)

    seen = iter(range(10**6))
    result = fit(model(), asking, data(), small(9), directory=directory)
    assert result.reason == "interrupted"
    assert 0 < result.updates < 9
    assert fit(model(), loss_fn, data(), small(9), directory=directory).reason == "updates"
    assert_same_bits(last(directory), last(straight))


def test_a_sink_that_fails_stops_nothing(tmp_path: Path) -> None:
    class Full(Sink):
        def write(self, record: Record) -> None:
            raise OSError("no space left on device")

    with pytest.warns(UserWarning, match=r"Full failed with OSError: no space left .* takes no more records"):
        result = fit(model(), loss_fn, data(), small(5), directory=tmp_path, sinks=[Full()], every=Every(log=1))
    assert result.updates == 5
    assert read(tmp_path / "metrics.jsonl").series("train/loss")[0] == [1, 2, 3, 4, 5]


# -- where batches come from -------------------------------------------------------------------------------------------


class Pairs(torch.utils.data.Dataset[Any]):
    """Samples one by one."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, i: int) -> Any:
        x, y = data()
        return torch.tensor(x[i]), int(y[i])


def test_data_of_all_sorts_are_the_same(tmp_path: Path) -> None:
    x, y = data()
    sorts: dict[str, Any] = {
        "arrays": (x, y),
        "tensors": (torch.tensor(x), torch.tensor(y)),
        "list": [x, y],
        "dataset": Pairs(),
    }
    ends = []
    for name, given_ in sorts.items():
        fit(model(), loss_fn, given_, small(4), directory=tmp_path / name)
        ends.append(last(tmp_path / name))
    named = {"x": x, "y": y}
    fit(model(), lambda net, part: loss_fn(net, (part["x"], part["y"])), named, small(4), directory=tmp_path / "dict")
    for end in [*ends[1:], last(tmp_path / "dict")]:
        assert_same_bits(end, ends[0])


def test_a_loader_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its order of an epoch is a function of the recipe's seed and the epoch."""

    def loader() -> Any:
        return torch.utils.data.DataLoader(Pairs(), batch_size=12, shuffle=True)

    fit(model(), loss_fn, loader(), small(9), directory=tmp_path / "straight")
    for updates in (3, 4, 6, 9):
        fit(model(), loss_fn, loader(), small(updates), directory=tmp_path / "run")
    assert_same_bits(last(tmp_path / "run"), last(tmp_path / "straight"))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ([], "there are no data"),
        ((np.zeros((0, 8)), np.zeros(0)), "there are no samples"),
        ((np.zeros((4, 8)), np.zeros(5)), r"unequal lengths, \[0\]: 4, \[1\]: 5"),
        (iter(()), "the loader gave no batch in a whole epoch"),
        (torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(0, 8))), "the loader gave no batch"),
    ],
)
def test_no_data(given_: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(model(), loss_fn, given_, small(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"updates": 0}, "updates = 0 must be a whole number, at least 1"),
        ({"batch_size": True}, "batch_size = True must be"),
        ({"micro_batch_size": 0}, "micro_batch_size = 0 must be"),
        ({"precision": "fp16"}, "precision = 'fp16' must be one of float32, bfloat16, float16"),
        ({"loss_scale": {"growth": 3.0}}, "loss_scale is for float16"),
        ({"precision": "float16", "loss_scale": {"growth": 0.5}}, "growth = 0.5 must be above 1"),
        ({"rule": tf.guard(tf.adam())}, "has guard or loss_scaled in it"),
    ],
)
def test_recipes_without_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **changes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_loop_on_a_gpu_waits_for_nothing(precision: str) -> None:
    """Forward, backward, update, batch statistics that are held, running sums, and numbers that begin to be fetched."""
    net = model().cuda()
    rule = (tf.loss_scaled if precision == "float16" else tf.guard)(RULE)
    optimizer = trainfn_torch.Optimizer(net.named_parameters(), rule)
    step = Step(net, optimizer, loss_fn, precision=precision, terms=40)
    x, y = (torch.tensor(part, device="cuda") for part in data())
    for _ in range(3):
        step([(x, y)])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            step([(x[:20], y[:20]), (x[20:], y[20:])])
        reading = step.reading(with_norms=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    numbers, norms = reading()
    assert numbers["train/updates"] + numbers["train/skipped"] == 7
    assert len(norms) == 6


# -- what is done to a model -------------------------------------------------------------------------------------------


def test_layers_that_are_computed_again_train_to_the_same_bits(tmp_path: Path) -> None:
    calls = []

    def deep() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            blocks = [torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Dropout(0.5)) for _ in "ab"]
            return torch.nn.Sequential(*blocks, torch.nn.Linear(8, 3))

    plain_, again = deep(), recompute(deep(), "[01]")
    again[0][1].register_forward_hook(lambda *_: calls.append(1))
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in plain_.named_parameters()]
    for name, net in (("plain", plain_), ("again", again)):
        fit(net, loss_fn, data(), small(4, micro_batch_size=None), directory=tmp_path / name)
    assert len(calls) == 8  # twice a batch
    assert_same_bits(last(tmp_path / "again"), last(tmp_path / "plain"))
    with pytest.raises(ValueError, match=r"'blocks\.\*' matches no module; there are 0, 0\.0, 0\.1"):
        recompute(deep(), "blocks.*")


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's, of its own code
def test_a_compiled_model_has_the_checkpoints_of_one_that_is_not(tmp_path: Path) -> None:
    fit(model(), loss_fn, data(), small(3), directory=tmp_path / "plain")
    compiled = torch.compile(model(), backend="aot_eager")
    fit(compiled, loss_fn, data(), small(3), directory=tmp_path / "compiled")
    expected, found = last(tmp_path / "plain"), last(tmp_path / "compiled")
    assert expected.keys() == found.keys()
    for name, x in expected.items():
        np.testing.assert_allclose(found[name], x, 1e-4, 1e-5, err_msg=name)
    fit(model(), loss_fn, data(), small(5), directory=tmp_path / "compiled")
