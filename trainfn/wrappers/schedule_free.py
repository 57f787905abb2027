"""Schedule-free learning: an average in place of a decaying learning rate."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.hyperparameters import inherited
from trainfn.rule import rule
from trainfn.trace import Array, LeafPair
from trainfn.verbs import maximum, where


class Fast(NamedTuple):
    """z: the fast sequence, shaped like p; weights: the sum of the averages' weights; peak: the largest lr so far."""

    z: Array
    weights: LeafPair
    peak: LeafPair

    @staticmethod
    def init(p: Any) -> Fast:
        return Fast(p, 0.0, 0.0)  # type: ignore[arg-type]

    @staticmethod
    def eval_params(state: Fast, p: Any, b1: Any) -> Any:
        return (p - (1 - b1) * state.z) / b1


@rule
def schedule_free(
    inner: Any, state: Fast, g: Any, p: Any, *, lr: Any = inherited, b1: Any = 0.9, weight_lr_power: Any = 2.0
) -> Any:
    """Schedule-free learning around a rule without momentum (Defazio et al., arXiv:2405.15682v4, eqs. 3-5 and 23).

        z <- z + u                            u the inner rule's update, of the gradient at y
        x <- (1 - c) x + c z,                 c = max(lr so far)^weight_lr_power / sum of these
        y <- b1 x + (1 - b1) z

    The three of the literature, without a first moment, whose place z takes:

        SGD     schedule_free(chain(coupled_weight_decay(1e-4), sgd(lr=1.0)))
        AdamW   schedule_free(adamw(lr=warmup(2.5e-3, 1000), b1=None))
        RAdam   schedule_free(adamw(lr=radam_warmup(peak=2.5e-3), b1=None))      which weighs by the rectified lr

    The parameters that the model holds are y; x, which is evaluated, is what `eval_params` of a backend gives, so that
    there is no mode to switch.  Only z is kept: x = (y - (1 - b1) z) / b1, so b1 > 0; put into the last line it gives

        y <- y + c (z - y) + (1 - b1 (1 - c)) u               with the z before the update

    lr is the inner rule's, of which a warm-up may be a schedule; optax looks one step ahead in it.  Decay inside of the
    inner rule is that of y.
    """
    u = inner(g)
    peak = maximum(lr, state.peak)
    weight = peak**weight_lr_power
    weights = state.weights + weight
    c = where(weights > 0, weight / weights, 0.0)
    return c * (state.z - p) + (1 - b1 * (1 - c)) * u, Fast(state.z + u, weights, peak)
