"""Loops over arrays that fit together by numpy's rules: elementwise stretches of programs that work along axes.

A piece is the text of one loop: what arrays it reads, of which some are the same along the innermost axis, what it
computes of them, and what of that it keeps.  `whole.h` has what stands between pieces, in C as well: sums and maxima.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from trainfn.elementary import slices
from trainfn.program import Node, Sort
from trainfn_torch.kernels.compiler import load
from trainfn_torch.kernels.cpu import parallel_for
from trainfn_torch.kernels.printer import FORMATS, call, header, host_head, kind_of, plain_head

_GRAIN = 16384  # elements: fewer are not worth a second thread


@dataclass(frozen=True)
class Piece:
    """One loop.

    nodes: what is computed, in order, each reading the ones before it.
    arrays: of the nodes that are read, those that are arrays, with the format each is stored in and whether it has one
        element for all of the innermost axis.
    scalars: the nodes that are read as Scalars and flags.
    results: the nodes that are kept, in float32.
    stored: the format of the parameter, to which some operations round.
    """

    nodes: tuple[tuple[int, Node], ...]
    arrays: tuple[tuple[int, str, bool], ...]
    scalars: tuple[int, ...]
    results: tuple[int, ...]
    stored: str

    def text(self) -> str:
        """A whole C translation unit."""
        parts = [header("arithmetic.h"), header("environment.h"), *self._loop(), header("piece.h")]
        return "\n".join([*host_head(False), f"enum {{ {self._sizes()} }};", *parts])

    def _sizes(self) -> str:
        return f"ARRAYS = {len(self.arrays) + len(self.results)}, SCALARS = {len(self.scalars)}"

    def _loop(self) -> Iterator[str]:
        known = dict(self.nodes)
        in_order = tuple(known.get(i, Node("input", (), Sort.ARRAY)) for i in range(max(known, default=-1) + 1))
        masks = {node.args[0] for node in known.values() if node.op == "meet" and node.sort is Sort.MASK}
        yield "/* Not inlined: its arithmetic must stay behind the change of the floating-point environment. */"
        yield "FUNCTION void loop(char *const *at, i64 n, const real *k) {"
        for position, (i, kind, _) in enumerate(self.arrays):
            yield f"    const stored_{kind} *__restrict__ x{i} = (const stored_{kind} *)at[{position}];"
        for position, i in enumerate(self.results):
            yield f"    real *__restrict__ y{i} = (real *)at[{len(self.arrays) + position}];"
        for position, i in enumerate(self.scalars):
            yield f"    const {'int' if i in masks else 'real'} s{i} = k[{position}]{' != 0' if i in masks else ''};"
        yield "#pragma omp simd"
        yield "    for (i64 i = 0; i < n; ++i) {"
        for i, kind, is_spread in self.arrays:
            yield f"        const real v{i} = LOAD_MOVED({kind}, x{i}, {'0' if is_spread else 'i'});"
        for i, node in self.nodes:
            yield f"        const {kind_of(node)} v{i} = {self._expression(node, in_order)};"
        yield from (f"        y{i}[i] = v{i};" for i in self.results)
        yield "    }"
        yield "    (void)k;"
        yield "}"

    def _expression(self, node: Node, nodes: tuple[Node, ...]) -> str:
        if node.op in ("meet", "fill"):
            return f"s{node.args[0]}"
        if node.op in ("stored", "rounded"):
            return f"STORED({self.stored}, v{node.args[0]})"
        return call("a", node, nodes)


class _Threads(ctypes.Structure):
    _fields_ = (("parallel_for", ctypes.c_void_p), ("grain", ctypes.c_int64))


@lru_cache(maxsize=1)
def threads() -> Any:
    """What compiled code is told of torch's threads."""
    return ctypes.byref(_Threads(parallel_for() or None, _GRAIN))


@dataclass(frozen=True)
class Walk:
    """How a loop goes over arrays, contiguous each: along axes of these sizes, by so many elements of each array."""

    sizes: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @staticmethod
    def over(shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> Walk:
        """Over all of `shape`, of arrays that fit it; axes that every array takes as one are one."""
        axes = [(n, *own) for n, *own in zip(shape, *(_strides(x, shape) for x in shapes), strict=True) if n != 1]
        merged: list[tuple[int, ...]] = []
        for size, *strides in reversed(axes):
            if merged and all(a == b * merged[-1][0] for a, b in zip(strides, merged[-1][1:], strict=True)):
                merged[-1] = (size * merged[-1][0], *merged[-1][1:])
            else:
                merged.append((size, *strides))
        sizes, *columns = zip(*(reversed(merged) if merged else [(1,) * (1 + len(shapes))]), strict=True)
        return Walk(sizes, tuple(columns))

    @property
    def is_spread(self) -> tuple[bool, ...]:
        """Of each array, whether one element stands for all along the innermost axis."""
        return tuple(strides[-1] == 0 for strides in self.strides)


def _strides(own: tuple[int, ...], shape: tuple[int, ...]) -> list[int]:
    """Of a contiguous array of one shape along the axes of another: 0 where it has one element for all."""
    sizes = (1,) * (len(shape) - len(own)) + own
    return [0 if n == 1 else math.prod(sizes[axis + 1 :]) for axis, n in enumerate(sizes)]


class Loop:
    """A piece, compiled, for arrays of given shapes."""

    def __init__(self, piece: Piece, walk: Walk, shape: tuple[int, ...]) -> None:
        self._run = load(piece.text())["run"]
        self._run.restype = ctypes.c_int
        self._shape, self._results = shape, len(piece.results)
        self._arrays, self._scalars = len(walk.strides), len(piece.scalars)
        widths = [FORMATS[kind] for _, kind, _ in piece.arrays] + [4] * self._results
        in_bytes = [s * width for strides, width in zip(walk.strides, widths, strict=True) for s in strides]
        self._axes = ctypes.c_int64(len(walk.sizes))
        self._sizes = (ctypes.c_int64 * len(walk.sizes))(*walk.sizes)
        self._bytes = (ctypes.c_int64 * len(in_bytes))(*in_bytes)

    def __call__(self, arrays: Sequence[torch.Tensor], scalars: Sequence[float]) -> tuple[torch.Tensor, ...]:
        """The results, of these arrays and numbers."""
        results = tuple(_empty(self._shape) for _ in range(self._results))
        if math.prod(self._shape):
            _check(
                self._run(
                    threads(),
                    (ctypes.c_void_p * self._arrays)(*map(torch.Tensor.data_ptr, (*arrays, *results))),
                    (ctypes.c_double * self._scalars)(*scalars),
                    self._axes,
                    self._sizes,
                    self._bytes,
                )
            )
        return results


def _empty(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Memory of the processor, whatever users made torch's default dtype and device."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def _check(failed: int) -> None:
    if failed:
        raise RuntimeError("torch_parallel_for failed")


# -- what stands between pieces --------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def whole() -> ctypes.CDLL:
    """Sums, maxima and the parts of products, in C."""
    parts = [header("arithmetic.h"), header("environment.h"), header("whole.h")]
    return load("\n".join([*plain_head(False), *parts]))


def along_axis(op: str, axis: int, x: torch.Tensor) -> torch.Tensor:
    """axis_sum or axis_max of a contiguous float32 tensor."""
    result = _empty([1 if i == x.ndim + axis else n for i, n in enumerate(x.shape)])
    if result.numel():
        _check(whole().along_axis(threads(), op == "axis_max", _address(x), *_sizes(x, axis), _address(result)))
    return result


def _sizes(x: torch.Tensor, axis: int) -> Iterator[ctypes.c_int64]:
    """The elements before, along and behind an axis."""
    axis += x.ndim
    return map(ctypes.c_int64, (math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])))


def matmul(precision: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The matrix product of float32 tensors in exact parts: of the first alone, or of all but the smallest."""
    is_highest = precision == "highest"
    (a, a_rest), (b, b_rest) = _slices(-1, x, is_highest), _slices(-2, y, is_highest)
    high = a @ b
    small = a @ b_rest + a_rest @ b if a_rest is not None and b_rest is not None else None
    result = _empty(high.shape)
    parts = _address(high), ctypes.c_void_p(None) if small is None else _address(small)
    _check(whole().together(threads(), *parts, ctypes.c_int64(result.numel()), _address(result)))
    return result


def _slices(axis: int, x: torch.Tensor, has_rest: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The parts of x for sums along an axis."""
    if not x.is_contiguous() and x.mT.is_contiguous():
        high, rest = _slices(-3 - axis, x.mT, has_rest)
        return high.mT, None if rest is None else rest.mT
    x = x.contiguous()
    high = _empty(x.shape, torch.float64)
    rest = torch.empty_like(high) if has_rest else None
    grids = map(ctypes.c_double, slices(x.shape[axis]))
    parts = _address(high), ctypes.c_void_p(None) if rest is None else _address(rest)
    if x.numel():
        _check(whole().slices(threads(), _address(x), *_sizes(x, axis), *grids, *parts))
    return high, rest


_KINDS = ("max", "max_abs", "sum_coarse", "sum_fine")


def over_all(op: str, grids: Sequence[float], x: torch.Tensor, y: torch.Tensor | None = None) -> float:
    """A reduction of x, or of x * y, contiguous float32 tensors of one shape."""
    result = ctypes.c_double()
    coarse, fine = (*grids, 0.0, 0.0)[:2]
    ys = ctypes.c_void_p(None) if y is None else _address(y)
    numbers = ctypes.c_int64(x.numel()), ctypes.c_double(coarse), ctypes.c_double(fine)
    _check(whole().over_all(threads(), _KINDS.index(op), _address(x), ys, *numbers, ctypes.byref(result)))
    return result.value


def _address(x: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())
