"""Clipping: gradients made smaller before a rule sees them."""

from __future__ import annotations

from typing import Any

from trainfn import verbs
from trainfn.rule import rule
from trainfn.rules.matrices import as_matrix
from trainfn.trace import Static
from trainfn.verbs import (
    axis_sum,
    full_like,
    global_norm,
    leaf_norm,
    leaf_sum,
    maximum,
    minimum,
    reshape,
    sqrt,
    square,
    where,
)


@rule
def clip_by_global_norm(g: Any, *, max_norm: Any = 1.0, eps: Any = 0.0) -> Any:
    """g min(1, max_norm / (|g| + eps)) with |g| the Euclidean norm of the whole model's gradient.

    `eps = 1e-6` is torch's clip_grad_norm_, 0 is optax's clip_by_global_norm (which at |g| = max_norm = 0 gives NaN).
    A gradient with an infinity or NaN anywhere makes the scale 0 or NaN: put `skip_if_not_finite` around the rule.
    Pascanu et al., arXiv:1211.5063v2, Algorithm 1.
    """
    return g * minimum(max_norm / (global_norm(g) + eps), 1.0)


@rule
def clip_by_norm(g: Any, *, max_norm: Any = 1.0) -> Any:
    """g min(1, max_norm / |g|) with |g| the Euclidean norm of this leaf: each tensor is clipped on its own."""
    return g * minimum(max_norm / leaf_norm(g), 1.0)


@rule
def clip_by_rms(g: Any, *, max_rms: Any = 1.0) -> Any:
    """g / max(1, rms(g) / max_rms) with rms(g) = |g| / sqrt(size) of this leaf: optax's clip_by_block_rms.

    After a rule it is the update clipping of Adafactor (Shazeer & Stern, arXiv:1804.04235v1, section 6).
    """
    return g / maximum(rms(g) / max_rms, 1.0)


@rule
def clip_by_value(g: Any, *, max_value: Any = 1.0) -> Any:
    """Each element of g clipped to [-max_value, max_value]; NaN stays NaN."""
    return verbs.clip(g, -max_value, max_value)


@rule
def clip_by_unit_norm(g: Any, p: Any, *, max_ratio: Any = 1e-2, eps: Any = 1e-3, out_axis: Static[int] = 0) -> Any:
    """Adaptive gradient clipping (Brock et al., arXiv:2102.06171v1, eq. 3): g min(1, max_ratio max(|p|, eps) / |g|).

    The norms are of units: all that leads to one output, which axis `out_axis` counts, 0 in torch and -1 in JAX.  A
    vector is one unit.  It is optax's adaptive_grad_clip, but for leaves of three axes, of which optax takes the last
    two for outputs, and matrices of one row or column, which optax takes for vectors.
    """
    if g.ndim < 2:
        return _clipped(g, leaf_norm(g), max_ratio * maximum(leaf_norm(p), eps))
    x, w = as_matrix(g, out_axis), as_matrix(p, out_axis)
    size, length = (sqrt(axis_sum(square(a), -1 - out_axis)) for a in (x, w))
    return reshape(_clipped(x, size, max_ratio * maximum(length, eps)), g.shape)


def _clipped(g: Any, size: Any, limit: Any) -> Any:
    return where(size <= limit, g, g * (limit / size))


def rms(x: Any) -> Any:
    """|x| / sqrt(size) of this leaf, all its shards."""
    return leaf_norm(x) / sqrt(leaf_sum(full_like(x, 1.0)))
