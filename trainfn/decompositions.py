"""Decompositions of matrices, made definite: which of the many correct answers each library is to give.

An eigenvector may be negated, and where eigenvalues coincide any basis of their space will do; LAPACK gives whichever
its rounding errors lead to.  Here signs are fixed, and what decides between equal eigenvalues is a perturbation that is
smaller than the rounding of the matrix itself.  What then differs between libraries is the rounding error of float64
arithmetic, most of which disappears when the result is rounded to float32.

Written once for libraries that speak numpy's language: `xp` is numpy or jax.numpy, `x` matrices along the last two axes
in float64, and a matrix with a number that is not finite gives NaN.
"""

from __future__ import annotations

import math
from typing import Any


def eigenvectors(xp: Any, x: Any, eps: float) -> Any:
    """Those of symmetric matrices, as columns, the one of the largest eigenvalue first.

    eps: half of what separates 1 from the next number in the dtype that x was rounded to.
    """
    n = x.shape[-1]
    x = 0.5 * (x + xp.swapaxes(x, -1, -2))
    x, size = _finite(xp, x)
    if n == 0:
        return x
    graded = xp.diag(xp.arange(n, 0, -1) / n)
    vectors = xp.linalg.eigh(x + eps * size * graded)[1][..., ::-1]
    weights = (1.0 / xp.arange(1, n + 1))[:, None]  # unlikely to be orthogonal to what occurs
    return _undefined(xp, vectors * _sign(xp, xp.sum(weights * vectors, axis=-2, keepdims=True)), size)


def orthogonal(xp: Any, x: Any) -> Any:
    """The factor Q of x = Q R, where R is triangular and its diagonal not negative; x has no more columns than rows."""
    x, size = _finite(xp, x)
    if 0 in x.shape:
        return x
    q, r = xp.linalg.qr(x)
    return _undefined(xp, q * _sign(xp, xp.diagonal(r, axis1=-2, axis2=-1)[..., None, :]), size)


def _finite(xp: Any, x: Any) -> tuple[Any, Any]:
    """The matrices, zero in place of those that are not finite, and the size of each one's largest element."""
    size = xp.max(xp.abs(x), axis=(-2, -1), keepdims=True, initial=0.0)
    return xp.where(size < math.inf, x, 0.0), size


def _undefined(xp: Any, result: Any, size: Any) -> Any:
    return xp.where(size < math.inf, result, math.nan)


def _sign(xp: Any, x: Any) -> Any:
    return xp.where(x < 0, -1.0, 1.0)
