"""One update of a JAX model: gradients of the parts of a batch, and the rule, as one jitted function of a whole state.

    step = Step(Functional(params, loss_fn), guard(rule))
    state = step.init()
    state = step(state, [part], n)

The state is donated.  What decides whether an update happens is in the rule (`guard`, `loss_scaled`); what it holds is
the rule's state, and here what the model carries along besides, such as batch statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]

from trainfn.rule import Rule
from trainfn_jax.training.models import Model
from trainfn_jax.transform import transform


class State(NamedTuple):
    """params, and what else the model carries along (rest); the optimizer's state; loss, weight: the sums of those of
    the batches since they were last read."""

    params: Any
    rest: Any
    optimizer: Any
    loss: Any
    weight: Any


class Step:
    """Updates a model from batches, one call each.

    model: `Functional`, or what `models.OfNNX` makes of an nnx module.
    rule: in `guard`, or for float16 in `loss_scaled`.
    seed: of all that the model draws; its keys are functions of this, the batch and the part.
    terms: about how many losses a batch has: with `loss_scaled` the loss is divided by the power of two below, and the
        weight with it, which moves the scale from sums to means.

    What a model computes in is its own: `nn.Dense(..., dtype=jnp.float16)`, beside parameters in float32.
    """

    def __init__(self, model: Model, rule: Rule, *, seed: int = 0, terms: int = 1) -> None:
        fields = {f.name for f in rule.fields}
        if "skipped_in_a_row" not in fields:
            raise ValueError(
                f"the rule is {rule!r}, and a Step divides by weights and skips what is not "
                "finite in the rule: make it with trainfn.guard(rule), or for float16 with trainfn.loss_scaled(rule)."
            )
        self.model, self.rule, self.transform = model, rule, transform(rule)
        self._is_scaled = "loss_scale" in fields
        self._unit = 2.0 ** (max(terms, 1).bit_length() - 1) if self._is_scaled else 1.0
        self._key = jax.random.key(seed)
        self._update = jax.jit(self._updated, donate_argnums=0)
        self._several = jax.jit(self._updated_several, donate_argnums=0)
        self._measure = jax.jit(self._measured)

    def init(self) -> State:
        """The state before the first batch, with copies of the model's arrays, because a step takes its state's."""
        params, rest = jax.tree.map(jnp.copy, (self.model.params, self.model.rest))
        return State(params, rest, self.transform.init(params), *self.zeros(params))

    @staticmethod
    def zeros(params: Any) -> tuple[Any, Any]:
        wide = jnp.result_type(*jax.tree.leaves(params), jnp.float32)
        return jnp.zeros((), wide), jnp.zeros((), wide)

    def __call__(self, state: State, parts: Sequence[Any], n: int, *, with_norms: bool = False) -> tuple[State, Any]:
        """The state after batch n, given in the parts that memory has room for, and norms of its leaves' gradients."""
        if not parts:
            raise ValueError("a batch without parts: there is nothing to learn from.")
        return self._update(state, stacked(parts), np.uint32(n), with_norms)  # type: ignore[no-any-return]

    def several(self, state: State, batches: Sequence[Sequence[Any]], n: int) -> State:
        """The state after the batches from n on, which have parts of equal shapes: one call for many small steps."""
        each = jax.tree.map(lambda *xs: np.stack(xs), *(stacked(parts) for parts in batches))
        return self._several(state, each, np.uint32(n))  # type: ignore[no-any-return]

    def measure(self, params: Any, rest: Any, part: Any) -> tuple[Any, Any]:
        """The sum of a part's losses and its weight, with these parameters and nothing random."""
        return self._measure(params, rest, part)  # type: ignore[no-any-return]

    # -- what is jitted ------------------------------------------------------------------------------------------------

    def _updated(self, state: State, parts: Any, n: Any, with_norms: Any) -> tuple[State, Any]:
        key = jax.random.fold_in(self._key, n)
        factor = state.optimizer.loss_scale / self._unit if self._is_scaled else 1.0
        grads, loss, weight, rest = self._summed(state, parts, key, factor)
        divided = weight / self._unit
        extras = {"value": loss / weight} if "value" in self.rule.extras else {}
        updates, optimizer = self.transform.update(grads, state.optimizer, state.params, weight=divided, **extras)
        happened = optimizer.skipped_in_a_row == 0
        rest = jax.tree.map(partial(jnp.where, happened), rest, state.rest)
        leaves = jax.tree.leaves(grads)

        def measured() -> Any:
            norms = [jnp.linalg.norm(g.astype(jnp.float32).ravel()) for g in leaves]
            return jnp.stack(norms) / jnp.float32(weight * factor)

        norms = jax.lax.cond(with_norms, measured, lambda: jnp.zeros(len(leaves), jnp.float32))
        params = optax.apply_updates(state.params, updates)
        return State(params, rest, optimizer, state.loss + loss, state.weight + weight), norms

    def _updated_several(self, state: State, batches: Any, n: Any) -> State:
        def one(carried: tuple[State, Any], parts: Any) -> tuple[tuple[State, Any], None]:
            state, n = carried
            return (self._updated(state, parts, n, False)[0], n + 1), None

        return jax.lax.scan(one, (state, n), batches)[0][0]

    def _summed(self, state: State, parts: Any, key: Any, factor: Any) -> tuple[Any, Any, Any, Any]:
        """The sums of the parts' gradients, losses and weights, and what the model carries along after them."""

        def scaled(params: Any, rest: Any, part: Any, key: Any) -> Any:
            (loss, weight), rest = self.model.loss(params, rest, part, key)
            return loss * factor, (loss, weight, rest)

        def one(carried: Any, part: Any) -> tuple[Any, None]:
            grads, loss, weight, rest, i = carried
            own, (part_loss, part_weight, rest) = jax.grad(scaled, has_aux=True)(
                state.params, rest, part, jax.random.fold_in(key, i)
            )
            grads = jax.tree.map(jnp.add, grads, own)
            loss, weight = loss + part_loss.astype(loss.dtype), weight + jnp.asarray(part_weight, weight.dtype)
            return (grads, loss, weight, rest, i + 1), None

        equal, last = parts
        zeros = self.zeros(state.params)
        carried = jax.tree.map(jnp.zeros_like, state.params), *zeros, state.rest, jnp.uint32(0)
        if equal is not None:
            carried, _ = jax.lax.scan(one, carried, equal)
        if last is not None:
            carried, _ = one(carried, last)
        grads, loss, weight, rest, _ = carried
        return grads, loss, weight, rest

    def _measured(self, params: Any, rest: Any, part: Any) -> tuple[Any, Any]:
        return self.model.evaluation_loss(params, rest, part)


def stacked(parts: Sequence[Any]) -> tuple[Any, Any]:
    """The parts of equal shapes on top of each other, to be scanned, and the last one where it is alone or smaller."""
    shapes = [[np.shape(x) for x in jax.tree.leaves(part)] for part in parts]
    equal = [part for part, shape in zip(parts, shapes, strict=True) if shape == shapes[0]]
    if len(parts) - len(equal) > 1 or shapes[: len(equal)] != [shapes[0]] * len(equal):
        raise ValueError(f"the parts of a batch have shapes {shapes}: only the last may be smaller than the others.")
    if len(equal) == 1:
        return (None, parts[0]) if len(parts) == 1 else (jax.tree.map(lambda x: x[None], parts[0]), parts[1])
    one = jax.tree.map(lambda *xs: np.stack(xs) if isinstance(xs[0], np.ndarray) else jnp.stack(xs), *equal)
    return one, parts[-1] if len(equal) < len(parts) else None
