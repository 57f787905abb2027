"""Muon: momentum made orthogonal, matrix by matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.rules.decay import decayed
from trainfn.rules.matrices import as_matrix
from trainfn.trace import Array, Static
from trainfn.verbs import abs, axis_sum, leaf_dot, leaf_norm, matmul, maximum, reshape, sqrt, transpose

# a, b, c of each step of the iteration: one triple for all, or one for each.
COEFFICIENTS: Mapping[str, tuple[Any, ...]] = {
    "standard": (3.4445, -4.7750, 2.0315),  # of the authors
    "dion": (  # Ahn et al., arXiv:2504.05295
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}


class Momentum(NamedTuple):
    """m: running mean of g, shaped like p."""

    m: Array

    @staticmethod
    def axes(shape: tuple[int, ...], out_axis: int) -> tuple[int, ...]:
        return (out_axis % len(shape),) if shape else ()


@rule
def muon(
    step: Any,
    state: Momentum,
    g: Any,
    p: Any,
    *,
    lr: Any = 2e-2,
    momentum: Any = 0.95,
    eps: Any = 1e-7,
    weight_decay: Any | None = 0.0,
    consistent_rms: Any = None,
    coefficients: Static[Any] = COEFFICIENTS["standard"],
    steps: Static[int] = 5,
    nesterov: Static[bool] = True,
    debias: Static[bool] = False,
    eps_is_floor: Static[bool] = True,
    is_scaled: Static[bool] = True,
    adaptive: Static[bool] = False,
    preconditioning: Static[str] = "frobenius",
    out_axis: Static[int] = 0,
    precision: Static[str] = "high",
) -> Any:
    """Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon).

        m <- momentum m + (1 - momentum) g
        u = (1 - momentum) g + momentum m               or m without nesterov
        o = U V^T, nearly, where u = U S V^T            see `orthogonalised`
        p <- p - lr (scale o + weight_decay p)

    scale is sqrt(max(1, out / in)) for a matrix that maps `in` numbers to `out`, with `consistent_rms` it is
    consistent_rms sqrt(max(out, in)) (Liu et al., arXiv:2502.16982v1: 0.2 for the learning rates of AdamW), and 1
    without `is_scaled`.  `out_axis` is the axis of a leaf that counts outputs: 0 in torch, -1 in JAX.  A convolution's
    kernel is the matrix that its other axes make together; a vector is one of a single column.  Embeddings, heads and
    vectors have AdamW in the authors' recipe: `partition` gives it to them.

    With `debias`, as in optax, m is divided by 1 - momentum^t and, with nesterov, as in its nadam.  eps keeps |u| from
    0: its least value, as in torch, or without `eps_is_floor` added to it, as in optax.

    With `adaptive` o is multiplied by <u, o>, the dual norm of u, or nearly (Bernstein & Newhouse, arXiv:2409.20325).
    The preconditioning "frobenius" divides u by |u|.  "schatten" divides by sqrt(|u u^T|), and "aol" each row of u by
    the root of the sum of |u u^T| along it (Prach & Lampert, arXiv:2208.03160), which leave larger singular values to
    begin with.

    precision is that of the iteration's products (`trainfn.verbs.matmul`): "high", which sees some 20 bits of each
    number, and three times the work for "highest" have the same bits everywhere; "library" has not, and is the fastest.

    Departs from torch, which iterates in bfloat16, of 8 bits.
    """
    t = step + 1
    m = momentum * state.m + (1 - momentum) * g
    m_hat, g_hat = m, g
    if debias:
        m_hat = m / (1 - momentum ** (t + 1 if nesterov else t))
        g_hat = g / (1 - momentum**t)
    u = (1 - momentum) * g_hat + momentum * m_hat if nesterov else m_hat
    x = as_matrix(u, out_axis)
    if preconditioning == "frobenius":
        x = x / (maximum(leaf_norm(x), eps) if eps_is_floor else leaf_norm(x) + eps)
    o = reshape(orthogonalised(x, coefficients, steps, precision, preconditioning), g.shape)
    if adaptive:
        o = leaf_dot(u, o) * o
    o = o if not is_scaled else _scale(x.shape, out_axis, consistent_rms) * o
    return -lr * decayed(o, weight_decay, p), Momentum(m)


def orthogonalised(x: Any, coefficients: Any, steps: int, precision: str, preconditioning: str = "frobenius") -> Any:
    """The matrix x, whose singular values are at most 1, with singular values that are all about 1.

    Another preconditioning than "frobenius", which was done before, is done here, of any matrix.

    Each step takes x to a x + (b x x^T + c (x x^T)^2) x, which takes each singular value s to a s + b s^3 + c s^5.
    The standard coefficients raise small ones fast and end between 0.7 and 1.2.
    """
    each = coefficients[-steps:] if isinstance(coefficients[0], tuple) else (coefficients,) * steps
    is_tall = x.shape[0] > x.shape[1]
    x = transpose(x) if is_tall else x
    for k, (a, b, c) in enumerate(each):
        gram = matmul(x, transpose(x), precision)
        if k == 0:
            x, gram = _preconditioned(x, gram, preconditioning)
        x = a * x + matmul(b * gram + c * matmul(gram, gram, precision), x, precision)
    return transpose(x) if is_tall else x


def _preconditioned(x: Any, gram: Any, how: str) -> tuple[Any, Any]:
    """x with singular values of at most 1, and its x x^T."""
    if how == "frobenius":
        return x, gram
    if how == "schatten":
        square_norm = maximum(leaf_norm(gram), _LEAST)
        return x * (1 / sqrt(square_norm)), gram * (1 / square_norm)
    if how == "aol":
        s = 1 / sqrt(maximum(axis_sum(abs(gram), -1), _LEAST))
        return x * s, gram * s * transpose(s)
    raise TypeError(f"muon: preconditioning is 'frobenius', 'schatten' or 'aol', not {how!r}.")


_LEAST = 1e-8  # by which zeros are divided; optax's


def _scale(shape: tuple[int, ...], out_axis: int, consistent_rms: Any) -> Any:
    outs, ins = shape[out_axis], shape[-1 - out_axis]
    if consistent_rms is not None:
        return consistent_rms * max(outs, ins) ** 0.5
    return max(1.0, outs / max(ins, 1)) ** 0.5
