"""A model as a step sees it: parameters, what else it carries along, and a pure function of both and a part of a batch.

`Functional` is a model that is such a function already, as flax's linen modules are with `apply`; one of nnx is taken
apart and put together again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
from flax import nnx

# From a part of a batch to the sum of its losses and their number; rest is what else the model carries along.
Loss = Callable[[Any, Any, Any, Any], tuple[tuple[Any, Any], Any]]


class Model(Protocol):
    """params: trees of what is trained; rest: of batch statistics and the like; loss(params, rest, part, key)."""

    params: Any
    rest: Any

    def loss(self, params: Any, rest: Any, part: Any, key: Any) -> tuple[tuple[Any, Any], Any]: ...

    def evaluation_loss(self, params: Any, rest: Any, part: Any) -> tuple[Any, Any]: ...

    def write(self, params: Any, rest: Any) -> None: ...


class Functional:
    """A model that is a function.

        model = Functional(variables["params"], loss_fn)
        model = Functional(variables["params"], loss_fn, rest=variables["batch_stats"], evaluate=evaluate_fn)

    loss_fn: from (params, part, key) to the sum of the losses and their number; with `rest` from (params, rest, part,
        key) to both of these and the next rest, ((total, weight), rest).
    evaluate: from (params, part), with `rest` (params, rest, part), to the sum and the number, where dropout is off and
        batch statistics are used; without it the loss is taken, with one key.

    `params` and `rest` are the trained ones at the end of `fit`.
    """

    def __init__(
        self, params: Any, loss_fn: Callable[..., Any], *, rest: Any = None, evaluate: Callable[..., Any] | None = None
    ) -> None:
        self.params, self.rest = params, {} if rest is None else rest
        self._has_rest, self._loss_fn, self._evaluate = rest is not None, loss_fn, evaluate

    def loss(self, params: Any, rest: Any, part: Any, key: Any) -> tuple[tuple[Any, Any], Any]:
        if self._has_rest:
            pair, rest = checked_length(self._loss_fn(params, rest, part, key), "((sum, weight), rest)")
            return checked(pair), rest
        return checked(self._loss_fn(params, part, key)), rest

    def evaluation_loss(self, params: Any, rest: Any, part: Any) -> tuple[Any, Any]:
        if self._evaluate is None:
            return self.loss(params, rest, part, jax.random.key(0))[0]
        return checked(self._evaluate(*((params, rest, part) if self._has_rest else (params, part))))

    def write(self, params: Any, rest: Any) -> None:
        self.params, self.rest = params, rest


class OfNNX:
    """A module of nnx and loss_fn(model, part), which returns the sum of the losses and their number.

    Its generators begin anew in each part of a batch, with keys that are functions of the run's seed and the batch.
    """

    def __init__(self, model: nnx.Module, loss_fn: Callable[[Any, Any], Any]) -> None:
        self._model: Any = model
        self._loss_fn = loss_fn
        self._streams = sorted({x.tag for _, x in nnx.iter_graph(model) if isinstance(x, nnx.RngKey)})
        self._graph, self.params, self.rest = self._apart(model)

    @staticmethod
    def _apart(model: Any) -> tuple[Any, Any, Any]:
        parts: Any = nnx.split(model, nnx.Param, nnx.RngState, ...)
        return parts[0], parts[1], parts[3]

    def _whole(self, params: Any, rest: Any, key: Any) -> Any:
        # The generators' state is not carried along: it is made of the key.
        generators = nnx.state(self._model, nnx.RngState)
        model: Any = nnx.merge(self._graph, params, generators, rest, copy=True)
        keys: Any = {name: jax.random.fold_in(key, i) for i, name in enumerate(self._streams)}
        nnx.reseed(model, **keys)
        return model

    def loss(self, params: Any, rest: Any, part: Any, key: Any) -> tuple[tuple[Any, Any], Any]:
        model = self._whole(params, rest, key)
        model.train()
        pair = checked(self._loss_fn(model, part))
        return pair, self._apart(model)[2]

    def evaluation_loss(self, params: Any, rest: Any, part: Any) -> tuple[Any, Any]:
        model = self._whole(params, rest, jax.random.key(0))
        model.eval()
        return checked(self._loss_fn(model, part))

    def write(self, params: Any, rest: Any) -> None:
        self.params, self.rest = params, rest
        nnx.update(self._model, params, rest)


def checked_length(returned: Any, due: str) -> Any:
    if not (isinstance(returned, tuple | list) and len(returned) == 2):
        raise TypeError(f"loss_fn must return {due}; it returned {type(returned).__name__}.")
    return returned


def checked(returned: Any) -> tuple[Any, Any]:
    """What a loss function returned, if it is what it should."""
    loss, weight = checked_length(returned, "the sum of the losses and their number, (losses.sum(), len(losses))")
    shapes = [jax.numpy.shape(x) for x in (loss, weight)]
    if any(shapes):
        raise ValueError(
            f"loss_fn must return two numbers, and these have shapes {shapes[0]} and {shapes[1]}: sum them."
        )
    return loss, weight


def model_of(model: Any, loss_fn: Callable[..., Any] | None) -> Model:
    """What a step takes, of what a user gives."""
    if isinstance(model, nnx.Module):
        if loss_fn is None:
            raise TypeError("give a module of nnx with its loss_fn(model, part).")
        return OfNNX(model, loss_fn)
    if not isinstance(model, Functional):
        raise TypeError(
            f"the model is a {type(model).__name__}: give a module of nnx, or Functional(params, loss_fn), as of "
            "linen's variables and a function that calls module.apply."
        )
    if loss_fn is not None:
        raise TypeError("a Functional has its loss_fn already.")
    return model
