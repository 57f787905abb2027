"""Which of two optimizers takes less time for a step? Measured in interleaved pairs, on this model's
parameters.

A machine's speed drifts by more than what is to be measured. So the two sides alternate, which of them goes
first alternates too, and the figure reported is the median of the pairs' ratios with its 95 % interval: order
statistics, no distribution assumed.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch

import trainfn_jax
import trainfn_torch

from .baselines import TorchBaseline, optax_baseline
from .config import Config
from .data import Corpus
from .recipe import recipe
from .train_flax import on_device
from .train_torch import build
from .weights import Named, table, to_flax

Step = Callable[[], None]

STEPS_PER_TIMING = 10  # one step of a small model is too short for the clock
PAIRS_TO_WARM_UP = 3


class Comparison(NamedTuple):
    what: str
    against: str
    ours: list[float]  # seconds for a step, one entry per pair
    theirs: list[float]

    @property
    def ratios(self) -> np.ndarray:
        return np.array(self.ours) / np.array(self.theirs)

    @property
    def ratio(self) -> float:
        return float(np.median(self.ratios))

    @property
    def interval(self) -> tuple[float, float]:
        """Of the median, 95 %: ranks 1.96 standard deviations of a fair coin from the middle."""
        ratios = np.sort(self.ratios)
        n = len(ratios)
        rank = max(int(n / 2 - 1.96 * n**0.5 / 2), 1)  # counted from 1, from either end
        return float(ratios[rank - 1]), float(ratios[n - rank])


def interleaved(what: str, against: str, ours: Step, theirs: Step, pairs: int) -> Comparison:
    result = Comparison(what, against, [], [])
    for pair in range(-PAIRS_TO_WARM_UP, pairs):
        sides = [(ours, result.ours), (theirs, result.theirs)]
        for step, seconds in sides if pair % 2 else reversed(sides):
            start = time.perf_counter()
            step()
            if pair >= 0:
                seconds.append((time.perf_counter() - start) / STEPS_PER_TIMING)
    return result


def compare_steps(config: Config, corpus: Corpus, weights: Named, gradient: Named) -> list[Comparison]:
    """Clip, AdamW and schedule: trainfn against each library's own."""
    torch_steps = partial(_torch_steps, config, corpus, weights, gradient)
    jax_steps = partial(_jax_steps, config, weights, gradient)
    return [
        interleaved(
            "trainfn in PyTorch",
            "clip_grad_norm_ + torch.optim.AdamW(fused=True) + LambdaLR",
            torch_steps(lambda named: trainfn_torch.Optimizer(named, recipe(config))),
            torch_steps(lambda named: TorchBaseline(named, config)),
            config.timed_pairs,
        ),
        interleaved(
            "trainfn in JAX, jitted",
            "optax.chain(clip_by_global_norm, adamw), jitted",
            jax_steps(trainfn_jax.transform(recipe(config))),
            jax_steps(optax_baseline(config)),
            config.timed_pairs,
        ),
    ]


def _torch_steps(config: Config, corpus: Corpus, weights: Named, gradient: Named, make: Callable[[Any], Any]) -> Step:
    named = dict(build(config, corpus, weights).named_parameters())
    for name, p in named.items():
        p.grad = torch.tensor(gradient[name])
    optimizer = make(named.items())

    def steps() -> None:
        for _ in range(STEPS_PER_TIMING):
            optimizer.step()

    return steps


def _jax_steps(config: Config, weights: Named, gradient: Named, transform: optax.GradientTransformation) -> Step:
    rows = table(config.layers)
    gradient_tree = on_device(to_flax(gradient, rows))
    params = on_device(to_flax(weights, rows))
    state = transform.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Any, state: Any, gradient: Any) -> tuple[Any, Any]:
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def steps() -> None:
        nonlocal params, state
        for _ in range(STEPS_PER_TIMING):
            params, state = update(params, state, gradient_tree)
        jax.block_until_ready(params)

    return steps
