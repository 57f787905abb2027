"""Sophia: momentum over an estimate of the Hessian's diagonal, and no element far."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, ModelScalar, Static
from trainfn.verbs import clip, count_if, maximum, square, where, zeros_like


class Curvature(NamedTuple):
    """m: running mean of g; h: that of the estimates of the Hessian's diagonal; both shaped like p.

    updates_left: of the model, how many updates there are before the next estimate; at 0 the next call brings it.
    """

    m: Array
    h: Array
    updates_left: ModelScalar

    @staticmethod
    def init(p: Any, estimate_after: bool) -> Curvature:
        left: Any = 1.0 if estimate_after else 0.0
        return Curvature(zeros_like(p), zeros_like(p), left)


def _check(*, estimator: Any, batch_size: Any, **_: Any) -> None:
    if estimator not in ("gauss-newton-bartlett", "hutchinson"):
        raise TypeError(f"sophia: estimator is 'gauss-newton-bartlett' or 'hutchinson', not {estimator!r}.")
    if estimator == "gauss-newton-bartlett" and batch_size is None:
        raise TypeError(
            "sophia needs batch_size, of how many losses the gradient is the mean (in language models of tokens): its "
            "estimate is batch_size g^2. With estimator='hutchinson' it needs none."
        )


@rule(check=_check)
def sophia(
    step: Any,
    state: Curvature,
    g: Any,
    p: Any,
    *,
    lr: Any = 1e-4,
    b1: Any = 0.96,
    b2: Any = 0.99,
    gamma: Any = 0.01,
    eps: Any = 1e-12,
    clip_threshold: Any = 1.0,
    weight_decay: Any = 0.1,
    every: Any = 10.0,
    batch_size: Any | None = None,
    estimator: Static[str] = "gauss-newton-bartlett",
    estimate_after: Static[bool] = False,
    debias: Static[bool] = False,
) -> Any:
    """Sophia (Liu et al., arXiv:2305.14342v4, Algorithm 3), whose period is one estimate and then `every` updates.

        estimate   h <- b2 h + (1 - b2) h_hat
        update     m <- b1 m + (1 - b1) g
                   p <- p - lr (clip(m / max(gamma h, eps)) + weight_decay p)      to [-clip_threshold, clip_threshold]

    A call for an estimate is given in place of the gradient what its `estimator` says, for the whole model, and changes
    h alone; it does not count as an update.

        "gauss-newton-bartlett"   g, the gradient of the mean loss with labels drawn from the model's own outputs;
                                  h_hat = batch_size g^2, batch_size being of how many losses it is the mean
                                  (in language models of tokens), without a default
        "hutchinson"              h_hat itself, u (H u), with u of random signs or normal, and H u the Hessian's product

    The first call is for an estimate, and then each time when the state `updates_left` is 0.  In torch

        if optimizer.param_groups[0]["updates_left"] == 0:
            logits = model(inputs)
            labels = torch.distributions.Categorical(logits=logits.detach()).sample()
            torch.nn.functional.cross_entropy(logits, labels).backward()     # gauss-newton-bartlett
            optimizer.step()
            optimizer.zero_grad()

    before the loss's own backward and step.  In JAX, also inside of jit,

        def estimated(state):                                                # hutchinson
            u = optax.tree.random_like(key, params, jax.random.rademacher)
            product = jax.jvp(jax.grad(loss), (params,), (u,))[1]
            return tx.update(jax.tree.map(jnp.multiply, u, product), state, params)[1]

        state = jax.lax.cond(state.updates_left == 0, estimated, lambda state: state, state)

    What is given to links before it in a chain is an estimate, too, in such a call: clip gradients in the loop.  A call
    that is skipped from outside, as by a gradient scaler, is still to be made: repeat it.  Its calls are the whole
    model's, so that it cannot stand in a partition.

    As in optax with `estimate_after`: the first update, which then follows the sign of m, comes before the first
    estimate, and each period's other updates after it; and with `debias`: m is divided by 1 - b1^t.  pytorch_optimizer
    has no gamma: it is 1 there.  The default b1, b2, eps and every are the paper's, gamma is optax's; the authors tell
    by the share of elements that are not clipped, 0.1 to 0.5 of them, whether gamma is large enough.
    """
    is_estimate = state.updates_left < 0.5
    h_hat = batch_size * square(g) if estimator == "gauss-newton-bartlett" else g
    h = where(is_estimate, b2 * state.h + (1 - b2) * h_hat, state.h)
    m = where(is_estimate, state.m, b1 * state.m + (1 - b1) * g)
    m_hat = m / (1 - b1 ** (step + 1)) if debias else m
    u = clip(m_hat / maximum(gamma * h, eps), -clip_threshold, clip_threshold)
    left = where(is_estimate, every, state.updates_left - 1)
    update = where(is_estimate, -0.0, -lr * (u + weight_decay * p))
    return count_if(~is_estimate, update), Curvature(m, h, left)
