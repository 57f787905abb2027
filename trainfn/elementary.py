"""exp, log, cos and powers of float64 Scalars, and the grids of reproducible sums, written in exact operations.

Every libm, XLA and CUDA have an exp, a pow and a cos of their own, which differ in the last bit; a schedule computed
with them is a different schedule on each.  Here they are written once in + - * /, comparison, `floor`, `exponent`
and `pow2`, each of which is exactly rounded everywhere, so that a learning rate has the same 64 bits in Python, numpy,
C, CUDA and XLA.  Lowering (`trainfn.lowering`) replaces the nodes `exp`, `log`, `cos`, `pow` by these texts.

Errors against the correctly rounded value: exp, log and cos at most 2 ulp (cos: absolute, of 1), pow at most
2 + 2 |y log x| ulp.  exp underflows to zero below e**-708, so that no result is subnormal, and log takes subnormal
numbers for zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from trainfn.program import Program, Sort
from trainfn.trace import Graph, emit

# ln 2 and pi/2 in parts: the leading parts have few enough bits for k * part to be exact.
_LN2_HIGH = float.fromhex("0x1.62e42fefa3800p-1")
_LN2_LOW = float.fromhex("0x1.ef35793c76730p-45")
_HALF_PI = (
    float.fromhex("0x1.921fb544p+0"),
    float.fromhex("0x1.0b4611a6p-34"),
    float.fromhex("0x1.3198a2e037073p-69"),
)

_SMALLEST = 2.0**-1022  # of normal numbers
_EXP = tuple(1.0 / math.factorial(k) for k in range(14))
_ATANH = tuple(2.0 / (2 * k + 1) for k in range(1, 12))  # log((1+s)/(1-s)) = 2s + s * sum(_ATANH[k] * s**2k)
_COS = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(9))
_SIN = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(9))


def exp(x: Any) -> Any:
    """e**x = 2**k * e**r with k the whole number nearest to x / ln 2."""
    k = _floor(x * (1.0 / math.log(2.0)) + 0.5)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    half = _floor(k * 0.5)  # in two factors: 2**1024 is no number, e**709.7 is
    result = polynomial(_EXP, r) * _pow2(half) * _pow2(k - half)
    return _where(x > 709.78, _where(x > 709.782712893384, math.inf, result), _where(x < -708.0, 0.0, result))


def log(x: Any) -> Any:
    """log x = e * ln 2 + log(1 + f) with 1 + f between sqrt(1/2) and sqrt(2)."""
    e = _exponent(x)
    half = _floor(e * 0.5)  # in two factors: 2**-1023 is not normal, 2**1023 is
    m = x * _pow2(-half) * _pow2(half - e)
    large = m > math.sqrt(2.0)
    f = _where(large, m * 0.5, m) - 1.0
    e = _where(large, e + 1.0, e)
    s = f / (f + 2.0)
    square = s * s
    hump = f * f * 0.5
    tail = s * (hump + square * polynomial(_ATANH, square)) + e * _LN2_LOW
    result = e * _LN2_HIGH - ((hump - tail) - f)
    regular = (x >= _SMALLEST) & (x < math.inf)
    special = _where(x >= _SMALLEST, math.inf, _where(x < 0.0, math.nan, -math.inf))  # inf; negative; zero
    return _where(regular | _is_nan(x), _where(_is_nan(x), x, result), special)


def pow(x: Any, y: Any) -> Any:
    """x**y: exactly 1, x, x * x and sqrt(x) for y = 0, 1, 2 and 1/2, else e**(y log |x|).

    A negative x has powers of whole y only, negative ones for odd y; others are NaN.  A zero counts as +0, and 1 to an
    infinite power is NaN.
    """
    size = exp(y * log(emit("abs", x)))
    is_whole = _equal(_floor(y), y)
    is_odd = emit("not", _equal(_floor(y * 0.5) * 2.0, y))
    general = _where(x < 0.0, _where(is_whole, _where(is_odd, -size, size), math.nan), size)
    return _where(
        _equal(y, 0.0),
        1.0,
        _where(
            _equal(y, 1.0),
            x,
            _where(_equal(y, 2.0), x * x, _where(_equal(y, 0.5), emit("sqrt", x), general)),
        ),
    )


def cos(x: Any) -> Any:
    """cos x = +-cos r or +-sin r with r = x - n pi/2."""
    n = _floor(x * (2.0 / math.pi) + 0.5)
    r = ((x - n * _HALF_PI[0]) - n * _HALF_PI[1]) - n * _HALF_PI[2]
    square = r * r
    cosine = polynomial(_COS, square)
    sine = r * polynomial(_SIN, square)
    quadrant = n - 4.0 * _floor(n * 0.25)
    odd = _equal(quadrant, 1.0) | _equal(quadrant, 3.0)
    size = _where(odd, sine, cosine)
    return _where(_equal(quadrant, 1.0) | _equal(quadrant, 2.0), -size, size)


def coarse_grid(largest: Any, count: Any) -> Any:
    """The power of two M for which the sum of `count` numbers (x + M) - M, |x| <= largest, is exact in any order.

    With 2**e > largest and 2**L > count take M = 2**(e + L): each summand is a multiple of M * 2**-53 and all partial
    sums are below M in size, so 53 bits hold them.
    """
    return _pow2((_exponent(largest) + 1.0) + (_exponent(count) + 1.0))


def fine_grid(coarse: Any, count: Any) -> Any:
    """The same for what the coarse grid left over, which is at most M * 2**-53 each."""
    return coarse * _pow2((_exponent(count) + 1.0) - 53.0)


@cache
def grids() -> Program:
    """Both grids, for many sums at once: outputs `coarse` and `fine` of the inputs `largest` and `count`."""
    graph = Graph()
    largest, count = (graph.input(name, Sort.SCALAR) for name in ("largest", "count"))
    coarse = coarse_grid(largest, count)
    return graph.program({"coarse": coarse, "fine": fine_grid(coarse, count)})


def slices(count: int) -> tuple[float, float]:
    """Factors for which two matrices can be cut in two parts each whose products are exact in any order.

    Of a row or column of `count` numbers, the largest of size m, the coarse part of x is (x + M) - M with M = c m, and
    the fine part the same of what is left, with M = f m.  The power of two c = 2**(54 - b) makes the coarse part a
    whole number of b bits at most, in units of M's last bit or half of that, and f = c 2**-b the fine part another of
    as many.  A product of two has 2 b bits, and a sum of `count` < 2**L products 2 b + L, which b = (53 - L) / 2 makes
    53 at most, whoever takes it (Ozaki et al., Numerical Algorithms 59, 2012).  What is left is below 2**(1 - 2 b) m:
    2**-41 m for rows of a thousand.
    """
    bits = (53 - count.bit_length()) // 2
    return 2.0 ** (54 - bits), 2.0 ** (54 - 2 * bits)


def polynomial(coefficients: Sequence[float], x: Any) -> Any:
    """Horner's rule."""
    result: Any = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


def _floor(x: Any) -> Any:
    return emit("floor", x)


def _pow2(k: Any) -> Any:
    return emit("pow2", k)


def _exponent(x: Any) -> Any:
    return emit("exponent", x)


def _equal(x: Any, y: Any) -> Any:
    return emit("eq", x, y)


def _where(condition: Any, x: Any, y: Any) -> Any:
    return emit("where", condition, x, y)


def _is_nan(x: Any) -> Any:
    return emit("not", _equal(x, x))
