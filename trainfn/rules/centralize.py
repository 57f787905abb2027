"""Gradient centralisation: gradients of matrices without their means."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.rules.matrices import as_matrix
from trainfn.trace import Static
from trainfn.verbs import axis_mean, reshape


@rule
def centralize(g: Any, *, out_axis: Static[int] = 0) -> Any:
    """g minus, for each output, its mean over all inputs (Yong et al., arXiv:2004.01461v2, eq. 1).

    `out_axis` is the axis that counts outputs: 0 in torch, and in optax's centralize, -1 in JAX's layers.  Vectors stay
    as they are.
    """
    if g.ndim < 2:
        return g
    x = as_matrix(g, out_axis)
    return reshape(x - axis_mean(x, -1 - out_axis), g.shape)
