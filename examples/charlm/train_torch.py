"""The training loop in PyTorch."""

import time
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

import trainfn_torch

from . import model_torch
from .config import Config
from .data import Corpus, Tokens, batch, held_out_batches
from .recipe import recipe
from .run import OnUpdate, Predictor, Run
from .weights import Named


def build(config: Config, corpus: Corpus, weights: Named | None = None) -> model_torch.GPT:
    """The model, freshly initialised from the configuration's seed or holding the given weights."""
    model = model_torch.GPT(config, len(corpus.vocabulary))
    if weights is not None:
        model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()})
    return model


def numpy_of(tensors: Iterable[tuple[str, torch.Tensor]]) -> Named:
    """Copies, so that the next update does not change what was recorded."""
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors}


def train(config: Config, corpus: Corpus, initial: Named, on_update: OnUpdate) -> Run:
    model = build(config, corpus, initial)
    optimizer = trainfn_torch.Optimizer(model.named_parameters(), recipe(config))
    run = Run("PyTorch")
    for step in range(config.updates):
        start = time.perf_counter()
        inputs, targets = map(_tensor, batch(corpus.train, config, step))
        loss = model_torch.loss(model, inputs, targets)
        optimizer.zero_grad()
        loss.backward()
        if config.is_recorded(step):
            run.gradients.append(numpy_of((name, p.grad) for name, p in model.named_parameters() if p.grad is not None))
        run.lr.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        run.loss.append(loss.item())
        run.seconds.append(time.perf_counter() - start)
        on_update(step, run.loss[-1])
    run.weights = numpy_of(model.named_parameters())
    with torch.inference_mode():
        run.held_out_loss = float(
            np.mean(
                [model_torch.loss(model, _tensor(x), _tensor(y)).item() for x, y in held_out_batches(corpus, config)]
            )
        )
    return run


def predictor(config: Config, corpus: Corpus, weights: Named) -> Predictor:
    model = build(config, corpus, weights)

    @torch.inference_mode()
    def predict(tokens: Tokens) -> NDArray[np.float32]:
        return model(_tensor(tokens)).numpy()

    return predict


def _tensor(tokens: Tokens) -> torch.Tensor:
    return torch.from_numpy(tokens).long()  # what torch's cross entropy asks of targets
