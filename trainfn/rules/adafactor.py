"""Adafactor: second moments kept as the outer product of two vectors."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.clip import clip_by_rms, rms
from trainfn.rules.matrices import permuted
from trainfn.trace import Array, Static
from trainfn.verbs import axis_mean, axis_sum, maximum, minimum, sqrt, square, zeros_like


class Factored(NamedTuple):
    """rows, columns: running means of g * g along one axis each, kept with length 1; v: running mean of g * g where
    it is not factored; m: running mean of steps (momentum only)."""

    rows: Array | None
    columns: Array | None
    v: Array | None
    m: Array | None

    @staticmethod
    def init(p: Any, factored: bool, largest_axes: bool, min_size: int, momentum: Any) -> Factored:
        m = None if momentum is None else zeros_like(p)
        axes = _factored_axes(p, largest_axes, min_size) if factored else None
        if axes is None:
            return Factored(None, None, zeros_like(p), m)
        along_rows, along_columns = axes
        return Factored(axis_sum(zeros_like(p), along_rows), axis_sum(zeros_like(p), along_columns), None, m)

    def permuted(self, axes: tuple[int, ...], due: Any) -> Factored:
        rows, columns = permuted((self.rows, self.columns), axes, (due.rows, due.columns))
        (v,), (m,) = permuted((self.v,), axes, (due.v,)), permuted((self.m,), axes, (due.m,))
        return Factored(rows, columns, v, m)


@rule
def adafactor(
    step: Any,
    state: Factored,
    g: Any,
    p: Any,
    *,
    lr: Any = None,
    decay: Any = 0.8,
    eps1: Any = 1e-30,
    eps2: Any = 1e-3,
    d: Any | None = 1.0,
    weight_decay: Any = None,
    momentum: Any = None,
    step_offset: Any = None,
    relative_step: Static[bool] = True,
    scale_parameter: Static[bool] = True,
    eps1_is_floor: Static[bool] = False,
    lr_in_decay: Static[bool] = True,
    factored: Static[bool] = True,
    largest_axes: Static[bool] = False,
    min_size: Static[int] = 0,
) -> Any:
    """Adafactor (Shazeer & Stern, arXiv:1804.04235v1, Algorithms 4 to 6).

        b2      = 1 - t^-decay
        rows    <- b2 rows + (1 - b2) mean of g^2 + eps1 along each row
        columns <- b2 columns + (1 - b2) mean of g^2 + eps1 along each column
        v       = rows columns / (mean of rows)
        u       = g / sqrt(v)
        u       <- u / max(1, rms(u) / d)
        p       <- p - max(eps2, rms(p)) min(lr, 1 / sqrt(t)) u          without lr, 1e-2

    Leaves of fewer than two axes keep v whole, as do those of which the second largest axis is shorter than min_size.
    Others are factored along their last two axes, or with `largest_axes` along the two longest, as in optax.  Without
    `factored` none is.  With d None u is not clipped.  `step_offset` is taken from t in b2, which begins anew there.

    Without `relative_step` the factor of the step is lr, or 1 if there is none; without `scale_parameter` rms(p) is
    left out.  Both are HF transformers' words; optax has no relative step.

    With momentum, steps are replaced by a running mean of them.  weight_decay adds lr weight_decay p to the step, as
    in torch, or without `lr_in_decay` weight_decay p, as in optax.

    eps1 keeps g / sqrt(v) finite.  With `eps1_is_floor`, as in torch, it is not added to g^2; sqrt(v) and the mean of
    rows are at least eps1.  sqrt(v) is computed as sqrt(rows / mean) sqrt(columns), which does not underflow.
    """
    t = step + 1
    b2 = 1 - (t if step_offset is None else t - step_offset) ** (-decay)
    square_g = square(g) if eps1_is_floor else square(g) + eps1
    floor = eps1 if eps1_is_floor else None
    axes = _factored_axes(g, largest_axes, min_size) if factored else None
    root, rows, columns, v = _root(state, square_g, b2, floor, axes)
    u = g / _at_least(floor, root)
    if d is not None:
        u = clip_by_rms.function(u, max_rms=d)
    if lr is None:
        lr = 1e-2 if relative_step else 1.0
    rho = minimum(lr, 1 / sqrt(t)) if relative_step else lr
    u = (maximum(eps2, rms(p)) * rho if scale_parameter else rho) * u
    m = None
    if momentum is not None:
        u = m = momentum * state.m + (1 - momentum) * u
    if weight_decay is not None:
        u = u + (lr * weight_decay if lr_in_decay else weight_decay) * p
    return -u, Factored(rows, columns, v, m)


def _root(state: Factored, square_g: Any, b2: Any, floor: Any, axes: tuple[int, int] | None) -> tuple[Any, ...]:
    """sqrt(v), and the next rows, columns and v."""
    if axes is None:
        v = b2 * state.v + (1 - b2) * square_g
        return sqrt(v), None, None, v
    return *factored_root(state.rows, state.columns, square_g, b2, floor, axes), None


def factored_root(
    rows: Any, columns: Any, x: Any, b2: Any, floor: Any = None, axes: tuple[int, int] = (-1, -2)
) -> tuple[Any, Any, Any]:
    """The root of the factored running mean of x, which is positive, and the next rows and columns."""
    along_rows, along_columns = axes
    rows = b2 * rows + (1 - b2) * axis_mean(x, along_rows)
    columns = b2 * columns + (1 - b2) * axis_mean(x, along_columns)
    mean = _at_least(floor, axis_mean(rows, along_columns))
    return sqrt(rows / mean) * sqrt(columns), rows, columns


def _at_least(floor: Any, x: Any) -> Any:
    return x if floor is None else maximum(x, floor)


def _factored_axes(x: Any, largest_axes: bool, min_size: int) -> tuple[int, int] | None:
    """The axes along which `rows` and `columns` are means; None where v is kept whole."""
    if x.ndim < 2:
        return None
    by_length = sorted(range(x.ndim), key=lambda axis: x.shape[axis])
    if x.shape[by_length[-2]] < min_size:
        return None
    return (by_length[-1], by_length[-2]) if largest_axes else (-1, -2)
