"""Mechanic: any rule, with its learning rate learned."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, ModelPair
from trainfn.verbs import abs, clip, global_dot, global_norm, maximum, sqrt, square

_BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)


class Tuner(NamedTuple):
    """p0: the first parameter, shaped like p; the rest belongs to the tuners, one for each of the betas.

    m: the largest |h|; v: sum of h^2; r: what was won; s: its part of the learning rate.
    """

    p0: Array
    m0: ModelPair
    m1: ModelPair
    m2: ModelPair
    m3: ModelPair
    m4: ModelPair
    m5: ModelPair
    v0: ModelPair
    v1: ModelPair
    v2: ModelPair
    v3: ModelPair
    v4: ModelPair
    v5: ModelPair
    r0: ModelPair
    r1: ModelPair
    r2: ModelPair
    r3: ModelPair
    r4: ModelPair
    r5: ModelPair
    s0: ModelPair
    s1: ModelPair
    s2: ModelPair
    s3: ModelPair
    s4: ModelPair
    s5: ModelPair

    @staticmethod
    def init(p: Any, s_init: Any) -> Tuner:
        numbers: dict[str, Any] = {name: s_init if name.startswith("s") else 0.0 for name in Tuner._fields[1:]}
        return Tuner(p, **numbers)


@rule
def mechanic(
    inner: Any, state: Tuner, g: Any, p: Any, *, s_init: Any = 1e-6, eps: Any = 1e-8, weight_decay: Any = 1e-2
) -> Any:
    """Mechanic (Cutkosky, Defazio & Mehta, arXiv:2306.00144v2, Algorithm 1) around a rule whose update is u.

        S <- sum of s;  D <- (p0 - p) / (S + eps)
        h <- <g + weight_decay S |g| / |p| p, D>                        sums over the model
        for each beta, h being clipped to [-m, m] for r:
            m <- max(beta m, |h| + eps);  v <- beta^2 v + h^2;  r <- beta r + h s
            s <- (s_init / 6 m + max(r, 0)) / (sqrt(v) + eps)
        p <- p0 - (new sum of s) (D - u)

    As in optax's mechanize h is clipped, which the paper does not.  The inner rule's lr is a schedule whose peak is 1.
    """
    total = _sum_of_s(state)
    decayed = g + weight_decay * total * global_norm(g) / (global_norm(p) + eps) * p
    past = (state.p0 - p) / (total + eps)
    h = global_dot(decayed, past)
    after = {}
    for k, beta in enumerate(_BETAS):
        m, v, r, s = (getattr(state, f"{name}{k}") for name in "mvrs")
        won = clip(h, -m, m) * s
        after[f"m{k}"] = m = maximum(beta * m, abs(h) + eps)
        after[f"v{k}"] = v = beta * beta * v + square(h)
        after[f"r{k}"] = r = beta * r + won
        after[f"s{k}"] = (s_init / len(_BETAS) * m + maximum(r, 0.0)) / (sqrt(v) + eps)
    tuned = Tuner(state.p0, **after)
    return state.p0 - _sum_of_s(tuned) * (past - inner(g)) - p, tuned


def _sum_of_s(state: Tuner) -> Any:
    first, *rest = (getattr(state, f"s{k}") for k in range(len(_BETAS)))
    return sum(rest, first)
