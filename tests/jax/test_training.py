"""Runs of JAX models, in linen and nnx: exact accumulation, skips, resuming to the same bits, and crossing to torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import trainfn as tf
from tests.bits import assert_same_bits
from trainfn.training.checkpoints import Checkpoints
from trainfn.training.loop import Every, Loop, Stopping
from trainfn.training.recipe import Recipe
from trainfn.training.sinks.jsonl import read
from trainfn.training.sources import Batch, InOrder, Samples
from trainfn_jax import named_leaves
from trainfn_jax.training import Functional, Step
from trainfn_jax.training.engine import Engine
from trainfn_jax.training.models import model_of

RULE = tf.chain(tf.clip_by_global_norm(1.0), tf.ema(tf.adamw(lr=tf.warmup(peak=1e-2, steps=5)), decay=0.9))
RECIPE = Recipe(RULE, updates=11, batch_size=12, micro_batch_size=5, seed=3)
EVERY = Every(log=3, evaluate=5, save=1)


def data(bad: int | None = None) -> tuple[Any, Any]:
    """Forty samples, of which one may be infinite."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int32)
    if bad is not None:
        x[bad] = np.inf
    return x, y


class Net(nnx.Module):
    def __init__(self, dtype: Any = None) -> None:
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(8, 16, rngs=rngs, dtype=dtype)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.last = nnx.Linear(16, 3, rngs=rngs, dtype=dtype)

    def __call__(self, x: Any) -> Any:
        return self.last(self.dropout(nnx.tanh(self.norm(self.first(x)))))


def loss_fn(model: Any, part: Any) -> Any:
    x, y = part
    losses = optax.softmax_cross_entropy_with_integer_labels(model(x).astype(jnp.float32), y)
    return losses.sum(), len(y)


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x: Any, *, trains: bool) -> Any:
        x = linen.Dense(16)(x)
        x = jnp.tanh(linen.BatchNorm(use_running_average=not trains)(x))
        return linen.Dense(3)(linen.Dropout(0.2, deterministic=not trains)(x))


def of_linen() -> Functional:
    """A linen module with batch statistics and dropout."""
    module = Dense()
    variables = module.init(jax.random.key(0), data()[0][:2], trains=False)

    def losses(out: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(out, y).sum(), len(y)

    def loss(params: Any, rest: Any, part: Any, key: Any) -> Any:
        x, y = part
        both, rngs = {"params": params, "batch_stats": rest}, {"dropout": key}
        out, changed = module.apply(both, x, trains=True, rngs=rngs, mutable=["batch_stats"])
        return losses(out, y), changed["batch_stats"]

    def evaluate(params: Any, rest: Any, part: Any) -> Any:
        return losses(module.apply({"params": params, "batch_stats": rest}, part[0], trains=False), part[1])

    return Functional(variables["params"], loss, rest=variables["batch_stats"], evaluate=evaluate)


MODELS: dict[str, Callable[[], Any]] = {"nnx": lambda: model_of(Net(), loss_fn), "linen": of_linen}


def last(directory: Path) -> dict[str, Any]:
    """The arrays of a run's last checkpoint, by file and name."""
    with Checkpoints(directory / "checkpoints") as checkpoints:
        arrays = checkpoints.load().arrays
    return {f"{file}/{name}": x for file, named in arrays.items() for name, x in named.items()}


# -- one update --------------------------------------------------------------------------------------------------------

WEIGHTS = np.array([0.5, 2.0, 3.0])


def _cross_entropy(out: Any, labels: Any) -> Any:
    return -(labels * jax.nn.log_softmax(out)).sum(-1)


# Losses whose means over a batch are weighted in ways that parts of it must not forget.
LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "samples": lambda out, y: (_cross_entropy(out, jax.nn.one_hot(y, 3)).sum(), len(y)),
    "class weights": lambda out, y: (
        (jnp.asarray(WEIGHTS)[y] * _cross_entropy(out, jax.nn.one_hot(y, 3))).sum(),
        jnp.asarray(WEIGHTS)[y].sum(),
    ),
    "smoothing": lambda out, y: (
        _cross_entropy(out, optax.smooth_labels(jax.nn.one_hot(y, 3), 0.1)).sum(),
        len(y),
    ),
    "tokens": lambda out, y: (jnp.where(y != 0, _cross_entropy(out, jax.nn.one_hot(y, 3)), 0).sum(), (y != 0).sum()),
}


@settings(deadline=None, max_examples=12)
@given(st.sampled_from(sorted(LOSSES)), st.integers(1, 12))
def test_parts_are_the_batch(kind: str, size: int) -> None:
    """Gradients divided once: to 1e-12 in float64, whatever the sizes and weights of the parts."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(1)
        x, y = rng.standard_normal((12, 5)), np.arange(12) % 3
        params = {"w": jnp.zeros((5, 3))}
        model = Functional(params, lambda params, part, key: LOSSES[kind](part[0] @ params["w"], part[1]))
        step = Step(model, tf.guard(tf.sgd(lr=1.0)))
        state, _ = step(step.init(), [(x[i : i + size], y[i : i + size]) for i in range(0, 12, size)], 0)

        def mean(params: Any) -> Any:
            total, weight = LOSSES[kind](x @ params["w"], y)
            return total / weight

        expected = jax.grad(mean)(params)["w"]
        assert float(jnp.abs(state.params["w"] + expected).max()) <= 1e-12 * float(jnp.abs(expected).max())


@pytest.mark.parametrize("kind", MODELS)
def test_a_skipped_update_holds_everything(kind: str) -> None:
    """Parameters, moments, average, counters and batch statistics."""
    x, y = data(bad=3)
    step = Step(MODELS[kind](), tf.guard(RULE))
    state, _ = step(step.init(), [(x[8:16], y[8:16])], 0)
    held = (state.params, state.rest, state.optimizer)
    before = {k: np.array(v) for k, v in named_leaves(held).items()}
    state, _ = step(state, [(x[16:24], y[16:24]), (x[:8], y[:8])], 1)
    after = {k: np.array(v) for k, v in named_leaves((state.params, state.rest, state.optimizer)).items()}
    own = [k for k in before if k.rpartition("/")[2] in ("skipped", "skipped_in_a_row", "grad_norm")]
    assert len(own) == 3
    assert_same_bits({k: x for k, x in after.items() if k not in own}, {k: before[k] for k in before if k not in own})
    assert (state.optimizer.skipped, state.optimizer.skipped_in_a_row) == (1, 1)


def test_a_scale_that_overflows_is_lowered() -> None:
    x, y = data()
    step = Step(model_of(Net(jnp.float16), loss_fn), tf.loss_scaled(RULE, init_scale=2.0**24), terms=40)
    state = step.init()
    scales = []
    for n in range(14):
        scales.append(float(state.optimizer.loss_scale))
        state, _ = step(state, [(x, y)], n)
    skipped = int(state.optimizer.skipped)
    assert 0 < skipped < 14
    assert scales[: skipped + 1] == [2.0**24 / 2**i for i in range(skipped + 1)]
    assert state.optimizer.count == 14 - skipped


def test_nothing_crosses_to_the_host_and_nothing_is_compiled_anew() -> None:
    x, y = jax.device_put(data())
    step = Step(MODELS["nnx"](), tf.guard(RULE))
    state, _ = step(step.init(), [(x, y)], 0)
    with jax.transfer_guard_device_to_host("disallow"), jax.log_compiles(False):
        for n in range(1, 5):
            state, _ = step(state, [(x, y)], n)
    assert step._update._cache_size() == 1


def test_several_batches_in_one_call() -> None:
    x, y = data()
    batches = [[(x[i : i + 5], y[i : i + 5]), (x[i + 5 : i + 10], y[i + 5 : i + 10])] for i in range(0, 40, 10)]
    step = Step(MODELS["linen"](), tf.guard(RULE))
    one = step.init()
    for n, parts in enumerate(batches):
        one, _ = step(one, parts, n)
    several = step.several(step.init(), batches, 0)
    for (name, a), (_, b) in zip(named_leaves(several).items(), named_leaves(one).items(), strict=True):
        np.testing.assert_allclose(a, b, 1e-5, 1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("made", "kind", "message"),
    [
        (lambda: Step(of_linen(), tf.adam()), ValueError, r"make it with trainfn\.guard\(rule\)"),
        (lambda: model_of({"w": 1}, None), TypeError, "give a module of nnx, or Functional"),
        (lambda: model_of(Net(), None), TypeError, r"with its loss_fn\(model, part\)"),
        (lambda: model_of(of_linen(), loss_fn), TypeError, "has its loss_fn already"),
    ],
)
def test_what_is_no_model_or_rule_is_refused(made: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message):
        made()


@pytest.mark.parametrize(
    ("returned", "kind", "message"),
    [
        (lambda out: out.sum(), TypeError, r"must return the sum of the losses and their number"),
        (lambda out: (out, 3), ValueError, r"have shapes \(40, 3\) and \(\): sum them"),
    ],
)
def test_what_is_no_loss_is_refused(returned: Any, kind: Any, message: str) -> None:
    step = Step(model_of(Net(), lambda model, part: returned(model(part[0]))), tf.guard(tf.adam()))
    with pytest.raises(kind, match=message):
        step(step.init(), [data()], 0)


# -- a run -------------------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


class CutOff(Samples):
    """Samples that end in batch `until`."""

    until: int | None = None

    def batch(self, n: int) -> Batch:
        if n == self.until:
            raise Killed
        return super().batch(n)


class Runs:
    """Runs of one engine, which is compiled once and begins each from the same arrays."""

    def __init__(self, kind: str) -> None:
        self.engine = Engine(MODELS[kind](), RECIPE, InOrder(data(), 5, lambda part: part))
        self._initial = self.engine.save()

    def __call__(self, directory: Path, until: int | None = None) -> Any:
        self.engine.load(*self._initial)
        source = CutOff(data(bad=37), RECIPE)
        source.until = until
        return Loop(self.engine, source, RECIPE, directory=directory, sinks=(), every=EVERY, stopping=Stopping()).run()


@pytest.mark.parametrize(("kind", "cuts"), [("linen", range(14)), ("nnx", (0, 3, 9))], ids=["linen", "nnx"])
def test_resuming_anywhere_ends_in_the_same_bits(kind: str, cuts: Any, tmp_path: Path) -> None:
    """Cut off after any batch: at epochs' ends, before and after skips."""
    run = Runs(kind)
    result = run(tmp_path / "straight")
    assert (result.reason, result.updates, result.counters.attempts) == ("updates", 11, 14)
    there = read(tmp_path / "straight" / "metrics.jsonl")
    for until in cuts:
        directory = tmp_path / str(until)
        with pytest.raises(Killed):
            run(directory, until)
        run(directory)
        assert_same_bits(last(directory), last(tmp_path / "straight"), f"cut off in batch {until}")
        here = read(directory / "metrics.jsonl")
        for name in ("train/loss", "train/lr", "train/skipped", "eval/loss"):
            assert np.array_equal(here.series(name), there.series(name), equal_nan=True)
