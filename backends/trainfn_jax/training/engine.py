"""A JAX model as the loop sees it: updates, numbers, evaluation, and all that a checkpoint has to hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from trainfn.convert import Snapshot
from trainfn.training.rates import learning_rates
from trainfn.training.recipe import Recipe
from trainfn_jax import convert, trees
from trainfn_jax.training.models import Model
from trainfn_jax.training.step import Step
from trainfn_jax.transform import eval_params

_OF_MODEL = ("skipped", "skipped_in_a_row", "grad_norm", "loss_scale")


class Engine:
    """Makes updates of a model from batches.

    evaluation: parts to evaluate on, which are gone through each time.
    """

    def __init__(self, model: Model, recipe: Recipe, evaluation: Iterable[Any] = ()) -> None:
        self.model, self.recipe, self._evaluation = model, recipe, evaluation
        self.rank, self.ranks = 0, 1  # one process drives all devices
        self.step = Step(model, recipe.guarded(), seed=recipe.seed, terms=recipe.batch_size)
        self.state = self.step.init()
        self._names = [name for name, x in trees.named(model.params) if x is not None]
        shapes = {name: np.shape(x) for name, x in trees.named_leaves(model.params).items()}
        self.learning_rate = learning_rates(recipe.rule, shapes)

    def update(self, n: int, parts: Sequence[Any], is_logged: bool) -> None:
        self.state, norms = self.step(self.state, parts, n, with_norms=is_logged)
        if is_logged:
            self._norms = norms

    def read(self) -> Callable[[], tuple[Mapping[str, float], Mapping[str, float]]]:
        """The numbers of the batches since it was last called, and the norms of the last one's gradients."""
        optimizer = self.state.optimizer
        own = {f"train/{name}": getattr(optimizer, name) for name in _OF_MODEL if hasattr(optimizer, name)}
        values = {**own, "train/updates": optimizer.count, "loss": self.state.loss, "train/weight": self.state.weight}
        # Copies: the state's arrays are given away in the next step.
        values, norms = jax.tree.map(jax.numpy.copy, (values, self._norms))
        self.state = self.state._replace(
            **dict(zip(("loss", "weight"), self.step.zeros(self.state.params), strict=True))
        )

        def fetch() -> tuple[Mapping[str, float], Mapping[str, float]]:
            here = {k: float(x) for k, x in jax.device_get(values).items()}
            loss, weight = here.pop("loss"), here["train/weight"]
            here["train/loss"] = loss / weight if weight else float("nan")
            return here, dict(zip(self._names, np.asarray(norms).tolist(), strict=True))

        return fetch

    def applied(self) -> int:
        return int(self.state.optimizer.count)

    def agree(self, flag: bool) -> bool:
        return flag

    def evaluate(self) -> Mapping[str, float]:
        params = eval_params(self.step.rule, self.state.optimizer, self.state.params)
        sums = [self.step.measure(params, self.state.rest, part) for part in self._evaluation]
        loss, weight = (sum(map(float, xs)) for xs in zip(*sums, strict=True)) if sums else (0.0, 0.0)
        return {"eval/loss": loss / weight if weight else float("nan")}

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save(self) -> tuple[dict[str, Any], dict[str, Any]]:
        state = self.state
        known = convert.snapshot(state.optimizer, self.step.rule, state.params)
        arrays = {
            "params": convert.arrays(state.params),
            "buffers": convert.arrays(state.rest),
            "optimizer": known.arrays(),
        }
        return arrays, {"optimizer": known.header(), "sums": [float(state.loss), float(state.weight)]}

    def load(self, arrays: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
        state = self.state
        known = Snapshot.of_arrays(self.step.rule, arrays["optimizer"], numbers["optimizer"])
        optimizer = convert.filled(state.optimizer, known, state.params)
        params, rest = convert.tree(arrays["params"], state.params), convert.tree(arrays["buffers"], state.rest)
        loss, weight = (zero + x for zero, x in zip(self.step.zeros(params), numbers["sums"], strict=True))
        self.state = state._replace(params=params, rest=rest, optimizer=optimizer, loss=loss, weight=weight)

    def finish(self) -> None:
        """Give the trained arrays to the model."""
        self.model.write(*jax.tree.map(jax.numpy.copy, (self.state.params, self.state.rest)))
