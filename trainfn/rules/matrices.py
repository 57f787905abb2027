"""Leaves as matrices: what rules that work on rows, columns or singular values share."""

from __future__ import annotations

import math
from typing import Any

from trainfn.verbs import reshape


def as_matrix(x: Any, out_axis: int = 0) -> Any:
    """x with all axes but one, its first (0) or last (-1), made one; a vector becomes one column, or one row."""
    length = x.shape[out_axis] if x.ndim else 1
    rest = math.prod(x.shape[1:] if out_axis == 0 else x.shape[:-1])
    return reshape(x, (length, rest) if out_axis == 0 else (rest, length))
