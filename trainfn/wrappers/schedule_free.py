"""Schedule-free learning: an average in place of a decaying learning rate."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

from trainfn.hyperparameters import inherited, is_number
from trainfn.rule import Definition, Rule, rule
from trainfn.schedules.schedule import Schedule
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
        return where(b1 > 0, (p - (1 - b1) * state.z) / b1, p)


_MOMENTA = ("b1", "momentum")


def _check(inner: Rule, *, b1: Any, **_: Any) -> None:
    if is_number(b1) and b1 == 0:
        raise ValueError(
            "schedule_free: b1 = 0 must be above 0: it is the share of the average in the parameters that the model "
            "holds, of which the average is computed."
        )
    for link in inner.all_links:
        for name in _MOMENTA:
            value = link.hyper.get(name, 0.0)
            if isinstance(value, Schedule) or (is_number(value) and value):
                warnings.warn(
                    f"schedule_free stands in place of momentum, and {link.definition.name} has {name} = {value!r}: "
                    f"give it {name}={_none(link.definition, name)}, unless both are meant.",
                    stacklevel=4,
                )


def _none(definition: Definition, name: str) -> Any:
    """The value that leaves momentum out: None where the rule takes it, which keeps nothing, and otherwise 0."""
    return None if name in definition.optional or definition.defaults[name] is None else 0


@rule(check=_check)
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
    there is no mode to switch.  Only z is kept: x = (y - (1 - b1) z) / b1, so b1 > 0 (where it becomes 0, y is
    evaluated); put into the last line it gives

        y <- y + c (z - y) + (1 - b1 (1 - c)) u               with the z before the update

    An inner rule with momentum (a b1 or momentum above 0) is warned of when it is given: the paper's have none, for the
    average takes its place.

    lr is the inner rule's, of which a warm-up may be a schedule; optax looks one step ahead in it.  Decay inside of the
    inner rule is that of y.
    """
    u = inner(g)
    peak = maximum(lr, state.peak)
    weight = peak**weight_lr_power
    weights = state.weights + weight
    c = where(weights > 0, weight / weights, 0.0)
    return c * (state.z - p) + (1 - b1 * (1 - c)) * u, Fast(state.z + u, weights, peak)
