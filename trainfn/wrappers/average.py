"""Averages of the parameters that a rule walks through: what to evaluate, beside what is trained.

They stand outermost, so that the parameter they see is the one that the model will have.  `eval_params` of a backend
gives the average.  It has the parameter's dtype: for parameters of 16 bits give the adapter state_dtype="float32",
because a decay of 0.999 moves nothing there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, Static, TraceError
from trainfn.verbs import floor, maximum, minimum, where


class Average(NamedTuple):
    """mean: the averaged parameter, shaped like p; the parameter itself before the first update."""

    mean: Array

    @staticmethod
    def init(p: Any) -> Average:
        return Average(p)

    @staticmethod
    def eval_params(state: Average, p: Any) -> Any:
        return state.mean


@rule
def ema(
    inner: Any,
    step: Any,
    state: Average,
    g: Any,
    p: Any,
    *,
    decay: Any = 0.999,
    warmup: Static[bool] = False,
    debias: Static[bool] = False,
) -> Any:
    """The exponential moving average of the parameters (Polyak & Juditsky, 1992; as used in arXiv:1701.06548, 4.2).

        mean <- decay mean + (1 - decay) p

    It starts with the parameter before the first update.  Two ways to forget that sooner:
    warmup, as in TensorFlow's ExponentialMovingAverage: the decay of update t is min(decay, (1 + t) / (10 + t));
    debias, as in Adam: the mean of t updates is divided by 1 - decay^t, so that the start has no weight; written as a
    decay of its own, decay (1 - decay^(t - 1)) / (1 - decay^t).

    torch's AveragedModel copies the parameters when it is first updated: update it once before training for this one.
    """
    t = step + 1
    if warmup and debias:
        raise TraceError("ema forgets its start by one of warmup and debias, not by both.")
    d = decay
    if warmup:
        d = minimum(d, (1 + t) / (10 + t))
    if debias:
        d = d * (1 - decay ** (t - 1)) / (1 - decay**t)
    u = inner(g)
    return u, Average(d * state.mean + (1 - d) * (p + u))


@rule
def polyak_average(inner: Any, step: Any, state: Average, g: Any, p: Any, *, start: Any = 1.0, eta: Any = 0.0) -> Any:
    """The mean of the parameters after each update from `start` on, counted from 1.

    Polyak & Juditsky, SIAM J. Control 30, 1992.

        mean <- (1 - c) mean + c p,   c = (eta + 1) / (n + eta)

    for the n-th of them: uniform weights with eta = 0; with more, later ones weigh more (polynomial-decay averaging,
    Shamir & Zhang, arXiv:1212.1824v2, section 4).  Before it the mean is the parameter.
    """
    n = step + 2 - start
    c = (eta + 1) / (maximum(n, 1.0) + eta)
    u = inner(g)
    return u, Average((1 - c) * state.mean + c * (p + u))


@rule
def swa(inner: Any, step: Any, state: Average, g: Any, p: Any, *, start: Any, every: Any) -> Any:
    """Stochastic weight averaging: the mean of the parameters after updates start, start + every, ... (from 1).

        mean <- (n mean + p) / (n + 1)        (Izmailov et al., arXiv:1803.05407v3, Algorithm 1)

    where n are in it already.  Before it the mean is the parameter.  The learning rate cycles or stays high from
    `start` on; batch-norm statistics are estimated anew for the mean, which is the training loop's.
    """
    since = step + 1 - start
    n = floor(since / every)
    c = 1 / (maximum(n, 0.0) + 1)
    is_due = (since < 0) | (since - every * n < 0.5)
    u = inner(g)
    return u, Average(where(is_due, (1 - c) * state.mean + c * (p + u), state.mean))
