"""Decompositions of matrices, made definite: which of the many correct answers each library is to give.

An eigenvector may be negated, and where eigenvalues coincide any basis of their space will do; LAPACK gives whichever
its rounding errors lead to.  Here signs are fixed, and what decides between equal eigenvalues, or about a column that
depends on others, is a perturbation that is smaller than the rounding of the matrix itself.  What then differs between
libraries is the rounding error of float64 arithmetic, most of which disappears when the result is rounded to float32.
Of matrices that are float64 themselves nothing is left to decide by: there these cases stay open.

Written once for libraries that speak numpy's language: `xp` is numpy or jax.numpy, `x` matrices along the last two axes
in float64, `eps` half of what separates 1 from the next number in the dtype that x was rounded to.  A matrix with a
number that is not finite gives NaN.
"""

from __future__ import annotations

import math
from typing import Any


def eigenvectors(xp: Any, x: Any, eps: float) -> Any:
    """Those of symmetric matrices, as columns, the one of the largest eigenvalue first."""
    n = x.shape[-1]
    if n == 0:
        return x
    x, size, is_finite = _finite(xp, 0.5 * x + 0.5 * xp.swapaxes(x, -1, -2))
    graded = xp.diag(xp.arange(n, 0, -1) / n)
    vectors = xp.linalg.eigh(x + eps * xp.where(size > 0, size, 1.0) * graded)[1][..., ::-1]
    weights = xp.exp(-xp.arange(n) / n)[:, None]  # to which no vector of whole numbers is orthogonal
    return xp.where(is_finite, vectors * _sign(xp, xp.sum(weights * vectors, axis=-2, keepdims=True)), math.nan)


def orthogonal(xp: Any, x: Any, eps: float) -> Any:
    """The factor Q of x = Q R for x of no more columns than rows, R triangular with a diagonal that is not negative."""
    if 0 in x.shape:
        return x
    x, _, is_finite = _finite(xp, x)
    lengths = xp.max(xp.abs(x), axis=-2, keepdims=True)
    q, r = xp.linalg.qr(x + eps * lengths * xp.eye(*x.shape[-2:]))
    return xp.where(is_finite, q * _sign(xp, xp.diagonal(r, axis1=-2, axis2=-1)[..., None, :]), math.nan)


def _finite(xp: Any, x: Any) -> tuple[Any, Any, Any]:
    """The matrices, zero in place of those that are not finite, their largest elements, and which are finite."""
    size = xp.max(xp.abs(x), axis=(-2, -1), keepdims=True)
    is_finite = size < math.inf
    return xp.where(is_finite, x, 0.0), xp.where(is_finite, size, 0.0), is_finite


def _sign(xp: Any, x: Any) -> Any:
    return xp.where(x < 0, -1.0, 1.0)
