"""Looking at a training before it is run: what is found, and that nothing is changed by looking."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import trainfn as tf
from tests.torch.test_training import data, loss_fn, model
from trainfn_torch.training import probes


def batch(n: int = 0) -> list[Any]:
    x, y = data()
    return [(torch.tensor(x[:20]), torch.tensor(y[:20])), (torch.tensor(x[20:]), torch.tensor(y[20:]))]


class Watched:
    """A model, whose everything must be afterwards as it was."""

    def __init__(self) -> None:
        self.model = model().eval()
        self.model[0].weight.grad = torch.ones(16, 8)
        torch.manual_seed(5)
        self._before = self._everything()

    def _everything(self) -> list[Any]:
        tensors = [*self.model.state_dict().values(), *(p.grad for p in self.model.parameters())]
        arrays = [None if x is None else x.detach().numpy().copy() for x in tensors]
        return [*arrays, torch.get_rng_state().numpy(), np.array([m.training for m in self.model.modules()])]

    def check(self) -> None:
        for x, y in zip(self._everything(), self._before, strict=True):
            assert np.array_equal(x, y)


def test_learning_rates_that_grow() -> None:
    watched = Watched()
    rule = tf.sgd(lr=tf.warmup(1e-3, 5), momentum=0.9)
    found = probes.lr_range_test(watched.model, loss_fn, batch, rule, high=1e5)
    watched.check()
    assert found.lrs[0] == 1e-7
    assert len(found.lrs) < 100  # it ended where the loss rose
    assert found.suggestion is not None
    assert 1e-3 < found.suggestion < 1.0
    assert found.losses[0] == pytest.approx(found.smooth[0])
    less = probes.lr_range_test(watched.model, loss_fn, batch, tf.sgd(), high=1e-5, precision="bfloat16")
    assert len(less.lrs) == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 0.0}, "must be numbers with 0 < low < high"),
        ({"low": 1.0, "high": 0.5}, "must be numbers with 0 < low < high"),
        ({"steps": 3}, "must be at least 10"),
    ],
)
def test_ranges_without_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probes.lr_range_test(model(), loss_fn, batch, tf.sgd(), **arguments)


def test_gradients_and_what_is_wrong_with_them() -> None:
    watched = Watched()
    watched.model.unused = torch.nn.Linear(2, 2)
    watched.model[4].bias.requires_grad_(False)

    def strange(net: Any, part: Any) -> Any:
        hidden = net[0](part[0])
        out = net[4](net[3](net[2](net[1](hidden)))) * 1e6
        return F.cross_entropy(out, part[1], reduction="sum") + 0 * net[0].bias.sum() / 0.0, 20

    report = {x.name: x for x in probes.gradient_report(watched.model, strange, batch()[0])}
    assert report["unused.weight"].problem.startswith("not used")
    assert report["4.bias"].problem.startswith("frozen")
    assert "NaN" in report["0.bias"].problem
    assert report["4.weight"].problem.startswith("large: its norm is above 1000")
    assert report["4.weight"].ratio == pytest.approx(report["4.weight"].norm / report["4.weight"].of_parameter)
    text = probes.table(list(report.values()))
    assert len(text.splitlines()) == 1 + len(report)
    assert "large" in text


def test_gradients_of_a_sound_model() -> None:
    watched = Watched()
    report = probes.gradient_report(watched.model, loss_fn, batch()[0])
    watched.check()
    assert [x.problem for x in report] == [""] * 3 + [""] * 3
    assert all(0 < x.norm < 10 for x in report)


def test_one_batch_is_learned() -> None:
    watched = Watched()
    verdict = probes.overfit_one_batch(watched.model, loss_fn, batch(), tf.adamw(lr=3e-2))
    watched.check()
    assert verdict.passed, verdict.reason
    assert verdict.losses[-1] <= 0.1 * verdict.losses[0]
    assert verdict.reason == f"learned after {len(verdict.losses)} updates"


def _detached(net: Any, part: Any) -> Any:
    return (net(part[0]) * 0).sum() + 5 * len(part[1]), len(part[1])


def _noise(net: Any, part: Any) -> Any:
    return F.cross_entropy(net(part[0] * 0), part[1], reduction="sum"), len(part[1])


def _infinite(net: Any, part: Any) -> Any:
    return loss_fn(net, part)[0] + (net[0].weight * 0).sqrt().sum(), len(part[1])


@pytest.mark.parametrize(
    ("loss", "rule", "reason"),
    [
        (_detached, tf.adamw(lr=1e-2), "no gradient reaches the parameters"),
        (_noise, tf.adamw(lr=1e-5), "the loss stays at"),
        (_infinite, tf.adamw(lr=1e-2), "20 of 20 updates were skipped"),
        (loss_fn, tf.sgd(lr=1e4), "the learning rate is too large"),
        (loss_fn, tf.adamw(lr=1e-3), "the loss fell from"),
    ],
)
def test_why_one_batch_is_not_learned(loss: Any, rule: tf.Rule, reason: str) -> None:
    verdict = probes.overfit_one_batch(model(), loss, batch(), rule, updates=20, share=0.01)
    assert not verdict.passed
    assert reason in verdict.reason


def test_precisions_side_by_side() -> None:
    watched = Watched()
    found = probes.compare_precisions(watched.model, loss_fn, batch(), tf.adamw(), samples=40, updates=3)
    watched.check()
    assert [x.name for x in found] == ["float32", "bfloat16", "float16"]
    for x in found:
        assert x.problem == ""
        assert x.samples_per_second == pytest.approx(40 / x.seconds)
        assert x.loss == pytest.approx(found[0].loss, rel=0.05)

    def only_single(net: Any, part: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("not implemented for this dtype\nand more")
        return loss_fn(net, part)

    found = probes.compare_precisions(watched.model, only_single, batch(), tf.adamw(), samples=40, updates=3)
    assert [x.problem for x in found] == ["", *2 * ["not implemented for this dtype"]]
    assert math.isnan(found[1].seconds)


def test_the_largest_part_that_fits() -> None:
    watched = Watched()

    def limited(net: Any, part: Any) -> Any:
        if len(part[1]) > 50:
            raise torch.OutOfMemoryError("not enough memory")
        return loss_fn(net, part)

    def part_of(n: int) -> Any:
        return torch.randn(n, 8), torch.zeros(n, dtype=torch.long)

    def found(most: int) -> int:
        net = watched.model
        net[1] = torch.nn.Identity()  # one sample has no variance
        return probes.largest_micro_batch(net, limited, part_of, tf.adamw(), most=most)

    assert (found(2**16), found(8)) == (32, 8)
    with pytest.raises(MemoryError, match="not even a part of one sample"):
        probes.largest_micro_batch(watched.model, limited, lambda n: part_of(99), tf.adamw())
    with pytest.raises(ZeroDivisionError):
        probes.largest_micro_batch(watched.model, lambda net, part: 1 / 0, part_of, tf.adamw())
