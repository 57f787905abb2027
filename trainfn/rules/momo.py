"""MoMo: step sizes from a model of the loss made of past losses and gradients."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, ModelPair, ModelScalar, Static
from trainfn.verbs import global_dot, maximum, minimum, sqrt, square, where, zeros_like


class LossModel(NamedTuple):
    """m: running mean of g, shaped like p; f, gamma: of the loss and of <g, p>; lb: a bound of the loss; t: updates."""

    m: Array
    f: ModelPair
    gamma: ModelPair
    lb: ModelPair
    t: ModelScalar

    @staticmethod
    def init(p: Any, lower_bound: Any) -> LossModel:
        zero: Any = 0.0
        return LossModel(zeros_like(p), zero, zero, lower_bound, zero)


class AdamLossModel(NamedTuple):
    """As `LossModel`, and v: running mean of g * g, shaped like p."""

    m: Array
    v: Array
    f: ModelPair
    gamma: ModelPair
    lb: ModelPair
    t: ModelScalar

    @staticmethod
    def init(p: Any, lower_bound: Any) -> AdamLossModel:
        zero: Any = 0.0
        return AdamLossModel(zeros_like(p), zeros_like(p), zero, zero, lower_bound, zero)


@rule
def momo(
    state: LossModel,
    g: Any,
    p: Any,
    value: Any,
    *,
    lr: Any = 1.0,
    b1: Any = 0.9,
    lower_bound: Any = 0.0,
    weight_decay: Any = 0.0,
    adapt_lower_bound: Static[bool] = False,
) -> Any:
    """MoMo (Schaipp et al., arXiv:2305.07583, Algorithm 1).

        m, f, gamma <- running means of g, value, <g, p>    beginning with the first; sums over the model
        c   <- 1 + lr weight_decay
        tau <- min(lr, max(c (f - lb - gamma) + <m, p>, 0) / |m|^2)
        p   <- p / c - tau m

    value is the loss, lr the longest step.  lb is `lower_bound`, or estimated from there with
    `adapt_lower_bound`.  Nothing moves where |m| = 0; in optax where |m|^2 is below 2.2e-16.
    """
    b = where(state.t > 0, b1, 0.0)
    m = b * state.m + (1 - b) * g
    f = b * state.f + (1 - b) * value
    gamma = b * state.gamma + (1 - b) * global_dot(g, p)
    along, energy = global_dot(m, p), global_dot(m, m)
    c = 1 + lr * weight_decay
    lb = state.lb
    if adapt_lower_bound:
        cap = c * (f - gamma) + along
        lb = where(cap < c * lb, maximum(cap / (2 * c), lower_bound), lb)
    gap = maximum(c * (f - lb - gamma) + along, 0.0)
    tau = where(energy > 0, minimum(lr, gap / energy), 0.0)
    if adapt_lower_bound:
        lb = maximum(f + along - gamma - tau * energy / 2, lower_bound)
    return -(lr * weight_decay / c) * p - tau * m, LossModel(m, f, gamma, lb, state.t + 1)


@rule
def momo_adam(
    step: Any,
    state: AdamLossModel,
    g: Any,
    p: Any,
    value: Any,
    *,
    lr: Any = 1e-2,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    lower_bound: Any = 0.0,
    weight_decay: Any = 0.0,
    adapt_lower_bound: Static[bool] = False,
) -> Any:
    """MoMo-Adam (Schaipp et al., arXiv:2305.07583).

        m, v, f, gamma <- running means of g, g^2, value, <g, p>        sums over the model
        c   <- 1 + lr weight_decay;  c1 <- 1 - b1^t
        u   <- m / (sqrt(v / (1 - b2^t)) + eps)
        tau <- min(lr / c1, max(c (f - c1 lb - gamma) + <m, p>, 0) / <m, u>)
        p   <- p / c - tau u

    value, lr, lb and what does not move are as in `momo`.
    """
    m = b1 * state.m + (1 - b1) * g
    v = b2 * state.v + (1 - b2) * square(g)
    f = b1 * state.f + (1 - b1) * value
    gamma = b1 * state.gamma + (1 - b1) * global_dot(g, p)
    u = m / (sqrt(v / (1 - b2 ** (step + 1))) + eps)
    along, energy = global_dot(m, p), global_dot(m, u)
    t = state.t + 1
    c, c1 = 1 + lr * weight_decay, 1 - b1**t
    lb = state.lb
    if adapt_lower_bound:
        cap = c * (f - gamma) + along
        lb = where(cap < c * c1 * lb, maximum(cap / (2 * c1 * c), lower_bound), lb)
    gap = maximum(c * (f - c1 * lb - gamma) + along, 0.0)
    tau = where(energy > 0, minimum(lr / c1, gap / energy), 0.0)
    if adapt_lower_bound:
        lb = maximum((f + along - gamma - tau * energy / 2) / c1, lower_bound)
    return -(lr * weight_decay / c) * p - tau * u, AdamLossModel(m, v, f, gamma, lb, t)
