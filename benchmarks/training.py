"""Training loops: what an update costs in the real loop, and what `fit` costs over a loop written by hand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

import trainfn as tf
import trainfn_torch
from benchmarks.pairs import Ratio, compare, said
from examples.charlm.config import Config
from examples.charlm.data import batch, load_corpus
from examples.charlm.model_torch import GPT
from examples.charlm.recipe import recipe
from trainfn.training.loop import Every
from trainfn.training.recipe import Recipe
from trainfn.training.sinks.jsonl import JSONL
from trainfn_torch.training import Step, fit

BIG = Config(width=408, layers=12, context=256)


def loss_fn(model: Any, part: Any) -> tuple[torch.Tensor, int]:
    inputs, targets = part
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), reduction="sum"), targets.numel()


def amp_update() -> Ratio:
    """Unscaling, finite check, clipping and AdamW of 25 M parameters, in loops that run the model."""
    tokens = torch.randint(0, 2048, (2, 9), generator=torch.Generator().manual_seed(0))
    part = tokens[:, :-1], tokens[:, 1:]
    model = GPT(BIG, 2048)
    rule = tf.loss_scaled(tf.chain(tf.clip_by_global_norm(1.0), tf.adamw()))
    step = Step(model, trainfn_torch.Optimizer(model.named_parameters(), rule), loss_fn, precision="float16", terms=16)
    spent = _timed(step.optimizer)

    def ours() -> float:
        step([part])
        return spent[-1]

    there = GPT(BIG, 2048)
    optimizer = torch.optim.AdamW(there.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu")

    def theirs() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss, weight = loss_fn(there, part)
        scaler.scale(loss / weight).backward()
        begin = time.perf_counter()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(there.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        return time.perf_counter() - begin

    return compare(ours, theirs, measure=said)


def _timed(optimizer: trainfn_torch.Optimizer) -> list[float]:
    """The seconds that each of its steps takes."""
    spent: list[float] = []
    whole = optimizer.step

    def step(*args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        result = whole(*args, **kwargs)
        spent.append(time.perf_counter() - begin)
        return result

    optimizer.step = step  # type: ignore[method-assign]
    return spent


class _Windows:
    """The demo's text as samples: each is a window of it."""

    def __init__(self, tokens: Any, context: int) -> None:
        self.tokens, self.context = torch.from_numpy(tokens).long(), context

    def __len__(self) -> int:
        return len(self.tokens) - self.context

    def __getitem__(self, indices: Any) -> Any:
        windows = self.tokens[torch.from_numpy(indices)[:, None] + torch.arange(self.context + 1)]
        return windows[:, :-1], windows[:, 1:]


def fit_over_a_loop(updates: int = 40) -> Ratio:
    """The demo's model at its default size: a run by `fit`, metrics on, and one by hand with the same optimizer."""
    config, corpus = Config(), load_corpus()
    windows = _Windows(corpus.train, config.context)

    def ours() -> float:
        model = GPT(config, len(corpus.vocabulary))
        with tempfile.TemporaryDirectory() as directory:
            sinks = [JSONL(f"{directory}/metrics.jsonl")]
            times: list[float] = []

            def noting(model: Any, part: Any) -> Any:
                times.append(time.perf_counter())
                return loss_fn(model, part)

            fit(model, noting, windows, Recipe(recipe(config), updates, config.batch), sinks=sinks, every=Every(log=10))
        return times[-1] - times[5]  # behind what is made and compiled once

    def theirs() -> float:
        model = GPT(config, len(corpus.vocabulary))
        optimizer = trainfn_torch.Optimizer(model.named_parameters(), recipe(config))
        times: list[float] = []
        for n in range(updates):
            inputs, targets = (torch.from_numpy(x).long() for x in batch(corpus.train, config, n))
            times.append(time.perf_counter())
            optimizer.zero_grad()
            F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).backward()
            optimizer.step()
        return times[-1] - times[5]

    return compare(ours, theirs, pairs=20, warmup=1, measure=said)


if __name__ == "__main__":
    measured: list[Callable[[], Ratio]] = [amp_update, fit_over_a_loop]
    for make in measured:
        print(make.__name__, make(), flush=True)
