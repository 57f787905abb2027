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
        return _averaged(state.z, p, b1)


@rule
def schedule_free(
    inner: Any, state: Fast, g: Any, p: Any, *, lr: Any = inherited, b1: Any = 0.9, weight_lr_power: Any = 2.0
) -> Any:
    """Schedule-free learning around a rule without momentum (Defazio et al., arXiv:2405.15682v4, eqs. 3-5 and 23).

        z <- z + u                            u the inner rule's update, of the gradient at y
        x <- (1 - c) x + c z,                 c = max(lr so far)^weight_lr_power / sum of these
        y <- b1 x + (1 - b1) z

        schedule_free(sgd(lr=1.0)), schedule_free(adamw(lr=3e-3, b1=0.0)), schedule_free(radam(lr=3e-3, b1=0.0))

    The parameters that the model holds are y; x, which is evaluated, is what `eval_params` of a backend gives, so that
    there is no mode to switch.  Only z is kept: x = (y - (1 - b1) z) / b1, so b1 > 0.  lr is the inner rule's, of which
    a warm-up may be a schedule; optax looks one step ahead in it.  Decay inside of the inner rule is that of y.
    """
    x = _averaged(state.z, p, b1)
    z = state.z + inner(g)
    peak = maximum(lr, state.peak)
    weight = peak**weight_lr_power
    weights = state.weights + weight
    c = where(weights > 0, weight / weights, 0.0)
    y = b1 * ((1 - c) * x + c * z) + (1 - b1) * z
    return y - p, Fast(z, weights, peak)


def _averaged(z: Any, y: Any, b1: Any) -> Any:
    return (y - (1 - b1) * z) / b1
