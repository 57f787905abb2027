"""The training loop in JAX: one jitted function from (parameters, optimizer state, batch) to the next."""

import time
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from jax import Array
from numpy.typing import NDArray

import trainfn_jax

from . import model_flax
from .config import Config
from .data import Corpus, Tokens, batch, held_out_batches
from .model_flax import Params
from .recipe import learning_rate, recipe
from .run import OnUpdate, Predictor, Run
from .weights import Named, table, to_flax, to_torch


def build(config: Config, corpus: Corpus) -> model_flax.GPT:
    return model_flax.GPT(config, len(corpus.vocabulary))


def on_device(tree: Params) -> Params:
    return jax.tree.map(jax.numpy.asarray, tree)


def train(config: Config, corpus: Corpus, initial: Named, on_update: OnUpdate) -> Run:
    rows = table(config.layers)
    loss_fn = partial(model_flax.loss, build(config, corpus))
    transform = trainfn_jax.transform(recipe(config))
    lr = learning_rate(config)

    @partial(jax.jit, donate_argnames=("params", "state"))
    def update(params: Params, state: Any, inputs: Array, targets: Array) -> tuple[Params, Any, Array, Array]:
        loss, gradients = jax.value_and_grad(loss_fn)(params, inputs, targets)
        lr_now = lr(state.count)  # only to be reported: the transform evaluates the same schedule itself
        updates, state = transform.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss, lr_now

    params = on_device(to_flax(initial, rows))
    state = transform.init(params)
    run = Run("flax")
    for step in range(config.updates):
        start = time.perf_counter()
        params, state, loss, lr_now = update(params, state, *batch(corpus.train, config, step))
        run.loss.append(float(loss))
        run.lr.append(float(lr_now))
        run.seconds.append(time.perf_counter() - start)
        on_update(step, run.loss[-1])
    run.weights = to_torch(params, rows)
    evaluate = jax.jit(loss_fn)
    run.held_out_loss = float(np.mean([evaluate(params, x, y) for x, y in held_out_batches(corpus, config)]))
    return run


def predictor(config: Config, corpus: Corpus, weights: Named) -> Predictor:
    model = build(config, corpus)
    params = on_device(to_flax(weights, table(config.layers)))
    logits = jax.jit(model.apply)

    def predict(tokens: Tokens) -> NDArray[np.float32]:
        return np.asarray(logits({"params": params}, tokens))

    return predict
