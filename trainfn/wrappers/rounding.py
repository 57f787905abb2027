"""How a parameter of low precision takes up an update: how often the sum is rounded, and which way."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.verbs import abs, full_like, maximum, rounded, uniform_like, unrounded, where

# By this a rule that draws noise with the same seed draws other numbers than these.
_PURPOSE = 1


@rule
def round_once(inner: Any, g: Any) -> Any:
    """The inner rule, whose update is added to the parameter before anything is rounded: p <- round(p + u).

    Without it p <- round(p + round(u)), as in optax.  In float32 and float64 it changes nothing; in JAX updates for
    bfloat16 and float16 become float32, and optax.apply_updates rounds the sum.
    """
    return unrounded(inner(g))


@rule
def stochastic_rounding(inner: Any, step: Any, g: Any, p: Any, *, seed: Any = 0) -> Any:
    """The inner rule with x = p + u rounded up or down by chance, so that the mean of what is stored is x.

    Between two neighbours a < x < b of the parameter's dtype, x becomes b with the probability (x - a) / (b - a), else
    a (Gupta et al., arXiv:1502.02551v1, section 3); a number that the dtype holds stays.  Updates too small to change p
    when they are rounded to the nearest thus act in the mean.  In float32 and float64 it changes nothing.

    Probabilities are exact to 24 bits, in bfloat16 for |x| > 2^-95; remainders of smaller x may be subnormal, and are
    flushed then.  Beyond the dtype's largest number the nearest is taken.  In JAX updates for bfloat16 and float16
    become float32, and optax.apply_updates stores the number meant here.
    """
    u = inner(g)
    x = p + u
    nearest = rounded(x)
    rest = x - nearest
    away = _more_than_half_a_gap(nearest)
    other = rounded(nearest + where(rest < 0, -away, away))
    moves = abs(rest) > uniform_like(p, seed, step, _PURPOSE) * abs(other - nearest)
    p_next = where(moves, other, nearest)
    return unrounded(where(p_next == x, u, p_next - p))


def _more_than_half_a_gap(x: Any) -> Any:
    """Between half of the gap to a neighbour in the parameter's dtype, and one and a half, on both sides of |x|.

    bfloat16 has 8 significant bits, float16 has 11 and no gap below 2^-24.
    """
    is_float16 = rounded(full_like(x, 1 + 2.0**-10)) > 1.0
    return where(is_float16, maximum(abs(x) * (1.25 * 2.0**-11), 2.0**-24), abs(x) * (1.25 * 2.0**-8))
