"""Fromage: steps of a given length relative to each layer."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.verbs import leaf_norm, maximum, sqrt, square, where


@rule
def fromage(g: Any, p: Any, *, lr: Any = 1e-2, min_norm: Any = 1e-6) -> Any:
    """Fromage (Bernstein et al., arXiv:2002.03432v3, Algorithm 1).

        p <- (p - lr |p| / |g| g) / sqrt(1 + lr^2)         with norms of the leaf

    As in optax norms are at least `min_norm`, and the ratio is 1 where either is 0 all the same.
    """
    size, length = maximum(leaf_norm(p), min_norm), maximum(leaf_norm(g), min_norm)
    ratio = where((size <= 0) | (length <= 0), 1.0, size / length)
    shrink = 1 / sqrt(1 + square(lr))
    return (shrink - 1) * p - shrink * lr * ratio * g
