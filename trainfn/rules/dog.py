"""DoG and DoWG: the distance travelled over the gradients met, for a learning rate."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, ModelPair, Static
from trainfn.verbs import global_dot, global_norm, maximum, sqrt, where


class Travelled(NamedTuple):
    """p0: the first parameter, shaped like p; r: the largest distance from it; G: sum of |g|^2."""

    p0: Array
    r: ModelPair
    G: ModelPair

    @staticmethod
    def init(p: Any, start: str, start_value: Any) -> Travelled:
        zero: Any = 0.0
        return Travelled(p, start_value if start == "distance" else zero, zero)


class WeightedTravelled(NamedTuple):
    """p0: the first parameter, shaped like p; r: the largest squared distance from it; v: sum of r |g|^2."""

    p0: Array
    r: ModelPair
    v: ModelPair

    @staticmethod
    def init(p: Any, initial_square_distance: Any, eps: Any) -> WeightedTravelled:
        zero: Any = 0.0
        return WeightedTravelled(p, eps if initial_square_distance is None else initial_square_distance, zero)


@rule
def dog(
    state: Travelled,
    g: Any,
    p: Any,
    *,
    lr: Any = 1.0,
    start: Static[str] = "heuristic",
    start_value: Any = 1e-6,
    eps: Any = 1e-8,
) -> Any:
    """DoG, distance over gradients (Ivgi, Hinder & Carmon, arXiv:2302.12022v3).

        r <- max(r, |p - p0|)                               norms of the model
        G <- G + |g|^2
        p <- p - lr r / sqrt(G + eps) g

    `start` says what `start_value` is: the first r ("distance"), the first r over 1 + |p0| ("heuristic"), or the
    factor of the first gradient that is not zero ("learning_rate"; in optax of the first, zero or not).
    For decay put `coupled_weight_decay` before it; the authors recommend to average the parameters.
    """
    if start not in ("distance", "heuristic", "learning_rate"):
        raise TypeError(f"dog: start is 'distance', 'heuristic' or 'learning_rate', not {start!r}.")
    r = state.r
    if start == "heuristic":
        r = where(r > 0, r, start_value * (1 + global_norm(p)))  # at the first update p is p0
    r = maximum(r, global_norm(p - state.p0))
    G = state.G + global_dot(g, g)
    eta = r / sqrt(G + eps)
    if start == "learning_rate":
        eta = where(state.G == 0, start_value, eta)
    return -lr * eta * g, Travelled(state.p0, r, G)


@rule
def dowg(
    state: WeightedTravelled,
    g: Any,
    p: Any,
    *,
    lr: Any = 1.0,
    initial_square_distance: Any = None,
    eps: Any = 1e-4,
) -> Any:
    """DoWG, distance over weighted gradients (Khaled, Mishchenko & Jin, arXiv:2305.16284v4, Algorithm 1).

        r <- max(r, |p - p0|^2)                             norms of the model
        v <- v + r |g|^2
        p <- p - lr r / (sqrt(v) + eps) g

    eps is optax's, and the first r where `initial_square_distance` is not given.
    """
    distance = p - state.p0
    r = maximum(state.r, global_dot(distance, distance))
    v = state.v + r * global_dot(g, g)
    return -lr * (r / (sqrt(v) + eps)) * g, WeightedTravelled(state.p0, r, v)
