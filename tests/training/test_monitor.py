"""Ordinary runs raise no alarm; each fault is named, with its place and its remedy."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from trainfn.training.monitor import Monitor

Observed = tuple[float, dict[str, float]]


class Net:
    """A small network of tanh layers on noisy data with two classes, in numpy, trained by SGD with momentum."""

    def __init__(self, widths: tuple[int, ...] = (8, 16, 16, 1), scale: float = 1.0, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        pairs = list(itertools.pairwise(widths))
        self.weights = [self.rng.normal(0, scale / math.sqrt(n), (n, m)) for n, m in pairs]
        self.biases = [np.zeros(m) for _, m in pairs]
        self.velocity: list[Any] = [0.0] * (2 * len(pairs))
        self.x = self.rng.normal(size=(512, widths[0]))
        self.y = (self.x[:, 0] * self.x[:, 1] + 0.3 * self.rng.normal(size=512) > 0).astype(float)

    def step(self, lr: float, batch: int = 32, momentum: float = 0.9) -> Observed:
        """The loss of a batch, and the norms of the gradients; then an update."""
        rows = self.rng.integers(0, len(self.x), batch)
        acts, y = [self.x[rows]], self.y[rows, None]
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = acts[-1] @ w + b
            acts.append(np.tanh(z) if i + 1 < len(self.weights) else z)
        loss = float(np.mean(np.logaddexp(0, acts[-1]) - y * acts[-1]))
        delta = (1 / (1 + np.exp(-acts[-1])) - y) / batch
        gradients: list[Any] = []
        for i in reversed(range(len(self.weights))):
            gradients[:0] = [acts[i].T @ delta, delta.sum(0)]
            delta = (delta @ self.weights[i].T) * (1 - acts[i] ** 2)
        names = [f"{i}.{kind}" for i in range(len(self.weights)) for kind in ("weight", "bias")]
        for i, g in enumerate(gradients):
            self.velocity[i] = momentum * self.velocity[i] + g
            (self.biases if i % 2 else self.weights)[i // 2][...] -= lr * self.velocity[i]
        return loss, {name: float(np.linalg.norm(g)) for name, g in zip(names, gradients, strict=True)}


def warnings(monitor: Monitor, run: Iterator[Observed], first: int = 0) -> list[str]:
    return [text for n, (loss, norms) in enumerate(run, first) for text in monitor.observe(n, loss, norms)]


def losses(some: Any) -> Iterator[Observed]:
    return ((float(x), {}) for x in some)


# -- ordinary runs ----------------------------------------------------------------------------------------------------


def averaged(run: Callable[[], Observed], log: int, logs: int) -> Iterator[Observed]:
    """As a loop logs: the mean loss since the last time, the gradients of the last batch."""
    for _ in range(logs):
        seen = [run() for _ in range(log)]
        yield float(np.mean([loss for loss, _ in seen])), seen[-1][1]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("batch", "lr", "log"),
    [(32, 0.05, 1), (32, 0.05, 10), (4, 0.01, 1), (1, 0.003, 1), (128, 0.2, 1)],
    ids=["usual", "averages", "small batches", "single samples", "large batches"],
)
def test_a_run_that_goes_well_raises_no_alarm(batch: int, lr: float, log: int, seed: int) -> None:
    net = Net(seed=seed)
    assert warnings(Monitor(), averaged(lambda: net.step(lr, batch), log, 250)) == []


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: 1.0 + 0.2 * rng.normal(size=n),
        lambda rng, n: rng.exponential(0.7, n),
        lambda rng, n: np.exp(-3 + rng.normal(size=n)),
        lambda rng, n: -4 + rng.normal(size=n),
        lambda rng, n: 10 ** -np.linspace(0, 8, n) * (1 + 0.1 * rng.normal(size=n)),
    ],
    ids=["normal", "exponential", "lognormal", "negative", "to zero"],
)
def test_noise_is_no_spike_and_no_oscillation(draw: Any, seed: int) -> None:
    found = warnings(Monitor(), losses(draw(np.random.default_rng(seed), 1000)))
    assert [text for text in found if "does not fall" not in text] == []


def test_a_perceptron_s_zeros_are_no_spikes() -> None:
    rng = np.random.default_rng(0)
    shape = np.linspace(1, 0, 300)
    rare = np.where(rng.random(300) < 0.05, 0.009, 0.0)
    assert warnings(Monitor(), losses([*shape, *rare, *np.zeros(300)])) == []


def test_a_few_losses_say_nothing_about_what_is_usual() -> None:
    assert warnings(Monitor(), losses([*np.linspace(2.01, 2.0, 10), 2.5])) == []


@pytest.mark.parametrize("seed", range(2))
def test_a_loss_that_falls_slowly_is_on_no_plateau(seed: int) -> None:
    """By 0.4 % in a window, in noise of 1 %."""
    noise = np.random.default_rng(seed).normal(0, 0.01, 1000)
    assert warnings(Monitor(), losses(3 * (1 - 0.004 * np.arange(1000) / 50 + noise))) == []


def test_gradients_that_shrink_as_a_model_learns_are_no_alarm() -> None:
    rng = np.random.default_rng(0)
    run = ((10.0**-k, {"0": 10.0**-k * rng.uniform(0.5, 2), "1": 10.0 ** -(k + 2)}) for k in np.linspace(0, 16, 400))
    assert warnings(Monitor(), run) == []


def test_a_gradient_as_large_as_in_the_beginning_is_no_explosion() -> None:
    """Of a sample that is hard for a model which has learnt the others."""
    run = ((1.0 / n, {"0": 1.0 if n == 1 else 0.5 if n == 60 else 1e-3}) for n in range(1, 100))
    assert warnings(Monitor(), run) == []


def test_what_is_zero_at_first_only_or_by_rights_is_no_alarm() -> None:
    """A branch that begins at 0, so that nothing reaches what is behind it, and a bias before a normalisation."""
    run = (
        (1.0 / n, {"conv.weight": 0.1, "conv.bias": 1e-12, "branch.weight": 0.0 if n < 8 else 0.2})
        for n in range(1, 100)
    )
    assert warnings(Monitor(), run) == []


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_learning_rate_far_too_high() -> None:
    net = Net(seed=1)
    found = warnings(Monitor(), (net.step(0.05) if n < 60 else net.step(30.0) for n in range(80)))
    assert any("the loss rose to" in text and "lower the learning rate" in text for text in found)


def test_a_loss_that_is_not_finite() -> None:
    found = warnings(Monitor(), losses([*np.linspace(2, 1, 30), math.nan, math.inf]))
    assert found == ["the loss is nan: lower the learning rate, or look for bad values in these batches."]


def test_the_first_leaf_that_is_not_finite_is_named() -> None:
    fine = {"embed/kernel": 1.0, "body/kernel": 1.0, "head/kernel": 1.0}
    bad = fine | {"body/kernel": math.inf, "head/kernel": math.nan}
    (text,) = warnings(Monitor(), iter([(1.0, fine), (1.0, bad)]))
    assert text.startswith("the gradient of body/kernel is not finite, the first of the model's leaves")


@pytest.mark.parametrize(("usual", "spike"), [(2.0, 2.6), (0.05, 0.3), (-4.0, -2.0)])
def test_a_spike(usual: float, spike: float) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01 * abs(usual), 60)
    (text,) = warnings(Monitor(), losses([5.0, *(usual + noise), spike, usual]))
    assert text.startswith(f"the loss rose to {spike:.4g}, from {usual:.2g}"[:24])


@pytest.mark.parametrize("period", [2, 4, 5, 8, 12])
def test_an_oscillation(period: int) -> None:
    n = np.arange(100)
    noise = np.random.default_rng(0).normal(0, 0.05, 100)
    found = warnings(Monitor(), losses(2 - 0.002 * n + 0.5 * np.sin(2 * np.pi * (n + 0.25) / period) + noise))
    (text,) = {text[:22] for text in found}
    assert text == "the loss swings around"
    assert len(found) == 2, "once in each window"


def test_gradient_descent_that_oscillates_is_told_to_take_a_lower_rate() -> None:
    """On exp(x) - x, whose curvature at 0 is 1, with a rate above 2: it jumps from side to side, forever."""
    x, found, monitor = 0.5, [], Monitor()
    for n in range(200):
        found += monitor.observe(n, math.exp(x) - x - 1)
        x -= 2.3 * (math.exp(x) - 1)
    assert any("swings" in text and "lower the learning rate" in text for text in found)


def test_a_plateau_is_told_once_until_the_loss_is_better() -> None:
    rng = np.random.default_rng(0)
    high, low = (level + 0.02 * rng.normal(size=600) for level in (2.0, 1.0))
    found = warnings(Monitor(), losses([*np.linspace(3, 2, 50), *high, *low]))
    assert len(found) == 2
    for text, level in zip(found, (2.0, 1.0), strict=True):
        assert float(text.split("mean is ")[1].split()[0]) == pytest.approx(level, rel=0.01)
        assert "lower it" in text


def test_a_loss_that_never_moves_is_on_a_plateau() -> None:
    (text,) = warnings(Monitor(), losses(2.302585 for _ in range(600)))
    assert text.startswith("the loss does not fall: its mean is 2.303 since batch 50, and was 2.303 since batch 0.")


def test_an_explosion_names_the_layer() -> None:
    rng = np.random.default_rng(0)

    def run() -> Iterator[Observed]:
        for n in range(60):
            noise = rng.uniform(0.5, 2)
            yield 1.0, {"0.weight": noise, "1.weight": noise * (500 if n == 50 else 1), "2.weight": noise}

    (text,) = warnings(Monitor(), run())
    assert text.startswith("the gradient of 1 has norm")
    assert "clip" in text


def test_gradients_that_vanish_in_a_deep_network_name_its_first_layer() -> None:
    """Saturated and narrow: next to nothing of the gradient comes through ten layers."""
    net = Net((8, *[4] * 10, 1), scale=0.05)
    (text,) = warnings(Monitor(), (net.step(0.0) for _ in range(30)))
    assert text.startswith("almost no gradient reaches 0 and ")
    assert "initialisation" in text


def test_a_layer_that_is_not_used_is_named() -> None:
    (text,) = warnings(Monitor(), ((1.0 / n, {"a.weight": 0.1, "b.weight": 0.0}) for n in range(1, 40)))
    assert text.startswith("almost no gradient reaches b:")


def test_a_loss_that_depends_on_nothing() -> None:
    (text,) = warnings(Monitor(), ((2.3, {"a": 0.0, "b": 0.0}) for _ in range(30)))
    assert text.startswith("no gradient is above 0: look whether the loss depends on the parameters at all")


# -- bookkeeping ------------------------------------------------------------------------------------------------------


def test_one_kind_comes_once_in_a_window() -> None:
    monitor = Monitor(window=20)
    found = [bool(monitor.observe(n, math.nan)) for n in range(50)]
    assert [n for n, is_told in enumerate(found) if is_told] == [0, 20, 40]


def test_the_summary() -> None:
    monitor = Monitor(window=20)
    assert monitor.summary() == {}
    monitor.observe(0, 10.0)
    assert monitor.summary() == {"mean": 10.0, "std": 0.0, "trend": 0.0, "improvement": 0.0}
    for n in range(1, 41):
        monitor.observe(5 * n, 4.0 - 0.05 * n)
    monitor.observe(205, math.nan)
    last = 4.0 - 0.05 * np.arange(21, 41)
    assert monitor.summary() == pytest.approx(
        {"mean": last.mean(), "std": last.std(), "trend": -0.01, "improvement": (10 - last.mean()) / 10}
    )


def test_a_monitor_that_goes_on_says_what_it_would_have_said() -> None:
    rng = np.random.default_rng(0)
    spikes = {40: 9.0, 55: 9.0}
    run = [
        (spikes.get(n, 2 + 0.001 * rng.normal()), {"a.weight": 1e3 if n == 99 else 1.0, "b.weight": 1e-9})
        for n in range(300)
    ]
    straight = warnings(Monitor(), iter(run))
    assert {text[:14] for text in straight} == {"the loss rose ", "almost no grad", "the gradient o", "the loss does "}
    for cut in (1, 41, 50, 100, 160, 250):
        first, second = Monitor(), Monitor()
        before = warnings(first, iter(run[:cut]))
        second.load(json.loads(json.dumps(first.state(), allow_nan=False)))
        assert second.state() == first.state()
        assert before + warnings(second, iter(run[cut:]), cut) == straight
        assert second.summary() == pytest.approx(_summary(run))


def _summary(run: list[Observed]) -> dict[str, float]:
    monitor = Monitor()
    warnings(monitor, iter(run))
    return monitor.summary()


def test_norms_too_large_to_be_squared() -> None:
    (text,) = warnings(Monitor(), ((1.0, {"a.weight": 1e200, "a.bias": 1e200, "b.weight": 1e190}) for _ in range(20)))
    assert text.startswith("almost no gradient reaches b:")


@pytest.mark.parametrize("window", [0, 19, 20.0, True])
def test_a_bad_window(window: Any) -> None:
    with pytest.raises(ValueError, match=r"window = .* must be a whole number of observations, at least 20"):
        Monitor(window=window)
