"""JAX on the CPU: jitted updates, parameters and state donated, against optax."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainfn as tf
import trainfn_jax
from benchmarks.models import TRANSFORMER, Shapes
from benchmarks.pairs import compare
from benchmarks.rows import ratio_row, row

Step = Callable[[], object]
SMALL_LAYER = ((32, 32), (32,), (96, 32), (96,), (32, 128), (128,))


def model(shapes: Shapes) -> tuple[Any, Any]:
    """Parameters and gradients of these shapes."""
    rng = np.random.default_rng(0)
    params = {f"{i:03d}": jnp.asarray(rng.standard_normal(s, np.float32) * 0.02) for i, s in enumerate(shapes)}
    return params, {k: jnp.asarray(rng.standard_normal(p.shape, np.float32) * 1e-3) for k, p in params.items()}


def update(tx: Any, **extras: Any) -> Any:
    """One jitted update of parameters and state, which are donated."""

    @partial(jax.jit, donate_argnums=(0, 1))
    def jitted(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params, **extras)
        return optax.apply_updates(params, updates), state

    return jitted


def step(tx: Any, shapes: Shapes = TRANSFORMER, **extras: Any) -> Step:
    """A closure that carries parameters and state from one call to the next, as a training loop does.

    The state gets memory of its own: some of optax's begin as the parameters themselves, which cannot be donated twice.
    """
    params, grads = model(shapes)
    one, carried = update(tx, **extras), [params, jax.tree.map(jnp.copy, tx.init(params))]

    def carry_on() -> None:
        carried[:] = one(*carried, grads)
        jax.block_until_ready(carried)

    return carry_on


def clip_adamw() -> dict[str, str]:
    ours = trainfn_jax.transform(tf.chain(tf.clip_by_global_norm(1.0), tf.adamw(weight_decay=1e-4)))
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    return ratio_row(
        "clip + AdamW under jit", "optax.chain(clip_by_global_norm, adamw)", compare(step(ours), step(theirs)), 0.75
    )


ELEMENTWISE: tuple[tuple[str, tf.Rule, Any], ...] = (
    ("SGD with momentum", tf.sgd(momentum=0.9), optax.sgd(1e-3, momentum=0.9)),
    ("Adam", tf.adam(), optax.adam(1e-3)),
    ("AdamW", tf.adamw(weight_decay=1e-4), optax.adamw(1e-3)),
    ("Lion", tf.lion(), optax.lion(1e-4)),
    ("RAdam", tf.radam(), optax.radam(1e-3)),
    ("RMSprop", tf.rmsprop(), optax.rmsprop(1e-2, decay=0.99, eps_in_sqrt=False)),
    ("Adagrad", tf.adagrad(initial_accumulator_value=0.1, eps=1e-7, eps_in_sqrt=True), optax.adagrad(1e-2)),
)


def _elementwise(name: str, rule: tf.Rule, namesake: Any) -> Callable[[], dict[str, str]]:
    def measured() -> dict[str, str]:
        ratio = compare(step(trainfn_jax.transform(rule)), step(namesake), pairs=24, seconds=15)
        return ratio_row(f"{name} under jit", "its optax namesake", ratio, 1.05)

    measured.__name__ = name.replace(" ", "_").lower()
    return measured


def _compilation(tx: Any, leaves: int = 300) -> Step:
    """A closure that traces, lowers and compiles an update of many small leaves, each time from nothing."""
    shapes = [SMALL_LAYER[i % len(SMALL_LAYER)] for i in range(leaves)]
    params = {f"{i:03d}": jax.ShapeDtypeStruct(s, np.float32) for i, s in enumerate(shapes)}
    state = jax.eval_shape(tx.init, params)

    def update(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def compile_anew() -> None:
        jax.clear_caches()
        jax.jit(update).lower(params, state, params).compile()

    return compile_anew


def compile_time() -> dict[str, str]:
    """Tracing, lowering and compiling, with a schedule; a price of exact bits that is paid once."""
    schedule = optax.cosine_decay_schedule(1e-3, 100)
    adamw = tf.adamw(lr=tf.cosine(peak=1e-3, steps=100))
    pairs = {
        "AdamW": (adamw, optax.adamw(schedule)),
        "clip + AdamW": (
            tf.chain(tf.clip_by_global_norm(1.0), adamw),
            optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule)),
        ),
    }
    measured = []
    for name, (ours, theirs) in pairs.items():
        contenders = _compilation(trainfn_jax.transform(ours)), _compilation(theirs)
        ratio = compare(*contenders, pairs=5, warmup=1)
        measured.append(f"{name} {ratio} ({ratio.ours:.1f} s)")
    return row("compile time under jit, 300 leaves", "their optax namesakes", "; ".join(measured), "no target", "-")


ROWS: tuple[Callable[[], dict[str, str]], ...] = (
    clip_adamw,
    *(_elementwise(*case) for case in ELEMENTWISE),
    compile_time,
)
