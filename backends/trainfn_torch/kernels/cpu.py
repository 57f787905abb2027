"""Running printed programs on the CPU: the tables a kernel reads, and calls into it.

`host.h` describes the same structure from the other side.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from trainfn_torch.kernels.printer import Kernel
from trainfn_torch.scalars import load

_GRAIN = 16384  # elements: fewer are not worth a second thread


class _Context(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("tensors", "hypers", "rows")),
        ("count", ctypes.c_double),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("starts", "buffers", "steps", "scalar_states", "hyper", "hyper_of", "row_of", "hyper_of_row"),
                *("slots", "meets", "sums", "totals", "parallel_for"),
            )
        ),
        *((name, ctypes.c_int64) for name in ("grain", "level")),
    )


@lru_cache(maxsize=1)
def parallel_for() -> int:
    """The address of torch's own parallel loop, which uses its threads and obeys its thread count; 0 before 2.10."""
    name = {"nt": "torch_cpu.dll", "posix": "libtorch_cpu.so"}.get(os.name, "")
    folder = os.path.join(os.path.dirname(torch.__file__), "lib")
    for candidate in (os.path.join(folder, name), os.path.join(folder, "libtorch_cpu.dylib")):
        try:
            function = ctypes.CDLL(candidate).torch_parallel_for
        except (OSError, AttributeError):
            continue
        return ctypes.cast(function, ctypes.c_void_p).value or 0
    return 0


class Launcher:
    """One compiled program and the tables of the tensors it runs over.

    The caller owns all tensors; addresses are written into `buffers`, `steps` and `scalar_states` before each step.
    """

    shares_totals = False  # of reductions over the model each program has its own part

    def __init__(
        self, kernel: Kernel, library: ctypes.CDLL, sizes: Sequence[int], hyper_of: Sequence[int], hypers: int
    ) -> None:
        self.kernel = kernel
        self.library = library
        tensors = len(sizes)
        real = np.float64 if kernel.is_double else np.float32
        reductions = len(kernel.reductions)
        self.starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self.buffers = np.zeros((tensors, len(kernel.formats)), np.uint64)
        self.steps = np.zeros(tensors, np.uint64)
        self.scalar_states = np.zeros((tensors, len(kernel.scalar_states)), np.uint64)
        self.hyper = np.zeros((hypers, len(kernel.hypers)), np.float64)
        self.totals = np.zeros(reductions, np.float64)
        self._hyper_of = np.asarray(hyper_of, np.int32)
        self._scratch: dict[str, np.ndarray[Any, Any]] = {
            "row_of": np.zeros(tensors, np.int32),
            "hyper_of_row": np.zeros(tensors, np.int32),
            "slots": np.zeros((tensors, kernel.slot_count), np.float64),
            "meets": np.zeros((tensors, len(kernel.meets)), real),
            "sums": np.zeros((tensors, reductions), np.float64),
        }
        self._context = self._make_context(tensors, hypers)
        self._address = ctypes.byref(self._context)
        self._gather = self._function("gather", None)
        self._evaluate = self._function("evaluate", None)
        self._is_applied = self._function("is_applied", ctypes.c_int)
        self._pass = self._function("pass", ctypes.c_int)
        self._finish = self._function("finish", None)

    def _make_context(self, tensors: int, hypers: int) -> _Context:
        tables: dict[str, np.ndarray[Any, Any]] = {
            "starts": self.starts,
            "buffers": self.buffers,
            "steps": self.steps,
            "scalar_states": self.scalar_states,
            "hyper": self.hyper,
            "hyper_of": self._hyper_of,
            "totals": self.totals,
            **self._scratch,
        }
        context = _Context(tensors=tensors, hypers=hypers, grain=_GRAIN, parallel_for=parallel_for() or None)
        for name, table in tables.items():
            setattr(context, name, table.ctypes.data)
        return context

    def _function(self, name: str, result: Any) -> Any:
        function = self.library[name]  # a new object, so argument types are nobody else's
        function.restype = result
        return function

    @property
    def levels(self) -> int:
        return len(self.kernel.phases)

    @property
    def elements(self) -> int:
        return int(self.starts[-1])

    def addresses_changed(self) -> None:
        """`buffers`, `steps` and `scalar_states` are read where they are."""

    def set_hyperparameters(self, values: Sequence[Sequence[Any]]) -> None:
        """The numbers of each mapping."""
        for row, numbers in zip(self.hyper, values, strict=True):
            row[:] = [float(load(x)) for x in numbers]

    def rows(self, table: str) -> np.ndarray[Any, Any]:
        """The rows of scalars a step has filled: "slots" or "meets"."""
        return self._scratch[table][: self._context.rows]

    def gather(self, count: float) -> None:
        """Read counters, scalar state and hyperparameters into rows; `count` is the elements of the whole model."""
        self._context.count = count
        self._gather(self._address)

    def evaluate(self, level: int) -> None:
        """Evaluate the scalars of a level."""
        self._evaluate(self._address, ctypes.c_int64(level))

    def run_pass(self, level: int) -> None:
        """Run one pass over the arrays; `totals` then holds this program's part of reductions over the model."""
        if self._pass(self._address, ctypes.c_int64(level)):
            raise RuntimeError("torch_parallel_for failed")

    def is_applied(self) -> bool:
        return bool(self._is_applied(self._address))

    def finish(self, updates: int) -> None:
        """Write scalar state and step counters, and the model's counter at the address `updates`, if not 0."""
        self._finish(self._address, ctypes.c_void_p(updates))
