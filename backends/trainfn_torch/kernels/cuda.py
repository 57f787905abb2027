"""Running printed programs on CUDA devices: compiled by NVRTC, launched on torch's current stream.

The host only launches.  Tables of addresses and hyperparameters are uploaded when they change, without waiting; what
the device knows itself (counters, scheduled values, loss scale, found_inf) it reads itself, and whether the step is
applied it decides itself.  So a step can be captured in a CUDA graph, once one step has been made outside: tables that
a graph has seen are kept for good.

NVRTC and the driver are called through `cuda.bindings`, which torch's CUDA wheels bring along.  `device.h` describes
the tables from the other side; the tests run the same launcher and the same text on the host.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, Protocol

import numpy as np
import torch

from trainfn_torch.kernels.compiler import CannotBuild
from trainfn_torch.kernels.printer import Kernel
from trainfn_torch.scalars import whole

CHUNK = 16384  # elements of a block, as in device.h
THREADS = 256

# Everything that could let a compiler round otherwise than written is off; the intrinsics say it once more.
OPTIONS = ("--std=c++17", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true")


class Context(ctypes.Structure):
    """What a kernel is handed, by value."""

    _fields_ = (
        ("tensors", ctypes.c_int64),
        ("count", ctypes.c_double),
        *(
            (name, ctypes.c_void_p)
            for name in (
                *("sizes", "buffers", "steps", "scalar_states", "hyper", "wide", "narrow", "hyper_of", "chunks"),
                *("slots", "meets", "sums", "totals", "skip", "updates"),
            )
        ),
    )


class Module(Protocol):
    """Compiled kernels."""

    def launch(self, name: str, blocks: int, context: Context) -> None:
        """Run the kernel called `name` on a grid of `blocks` times THREADS threads."""


class Shared:
    """What all programs of a model have in common on one device."""

    def __init__(self, reductions: int, device: torch.device) -> None:
        self.totals = torch.zeros(max(reductions, 1), dtype=torch.int64, device=device)
        self.skip = torch.zeros(1, dtype=torch.int64, device=device)


class Launcher:
    """One program on one device; `trainfn_torch.kernels.cpu.Launcher` for tensors that the host cannot read."""

    shares_totals = True  # all programs of the model accumulate into one table

    def __init__(
        self,
        kernel: Kernel,
        module: Module,
        device: torch.device,
        shared: Shared,
        sizes: Sequence[int],
        hyper_of: Sequence[int],
        hypers: int,
    ) -> None:
        self.kernel, self.module, self.device, self.shared = kernel, module, device, shared
        tensors = len(sizes)
        self.elements = sum(sizes)
        self.sizes = np.asarray(sizes, np.int64)
        self.buffers = np.zeros((tensors, len(kernel.formats)), np.uint64)
        self.steps = np.zeros(tensors, np.uint64)
        self.scalar_states = np.zeros((tensors, len(kernel.scalar_states)), np.uint64)
        self._chunks = _chunks(self.sizes)
        self._numbers: list[Any] = [()] * hypers
        self._context = Context(tensors=tensors)
        real = torch.float64 if kernel.is_double else torch.float32
        reductions = len(kernel.reductions)
        scratch = {
            "slots": torch.empty(tensors, kernel.slot_count, dtype=torch.float64, device=device),
            "meets": torch.empty(tensors, len(kernel.meets), dtype=real, device=device),
            "sums": torch.empty(tensors, reductions, dtype=torch.int64, device=device),
            "totals": shared.totals,
            "skip": shared.skip,
        }
        self._tables: dict[str, torch.Tensor] = {}
        self._captured: list[Any] = [scratch]
        self._point_to(scratch)
        self._upload(sizes=self.sizes, hyper_of=np.asarray(hyper_of, np.int64), chunks=self._chunks)

    @property
    def levels(self) -> int:
        return len(self.kernel.phases)

    # -- tables ------------------------------------------------------------------------------------------------------

    def _point_to(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, x in tensors.items():
            setattr(self._context, name, x.data_ptr())

    def _upload(self, **tables: np.ndarray[Any, Any]) -> None:
        """New tables, in memory of their own: kernels in flight, and captured ones, go on with the old."""
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "the addresses of gradients or the hyperparameters changed between the last step and the capture of a "
                "CUDA graph. Make one step before capturing, and keep the gradients' memory: "
                "zero_grad(set_to_none=False)."
            )
        for name, table in tables.items():
            x = torch.from_numpy(np.ascontiguousarray(table).view(np.int64).reshape(-1).copy())
            if self.device.type == "cuda":
                x = x.pin_memory().to(self.device, non_blocking=True)
            self._tables[name] = x
        self._point_to({name: self._tables[name] for name in tables})

    def addresses_changed(self) -> None:
        """Take over `buffers`, `steps` and `scalar_states`."""
        self._upload(buffers=self.buffers, steps=self.steps, scalar_states=self.scalar_states)

    def set_hyperparameters(self, values: Sequence[Sequence[Any]]) -> None:
        """The numbers of each mapping; those on the device are read there."""
        self._read = [[whole(x) for x in row] for row in values]  # kept until the device has read them
        rows = [[self._where(x) for x in row] for row in self._read]
        if rows == self._numbers:
            return
        table = np.array(rows, np.float64).reshape(len(rows), len(self.kernel.hypers), 3)
        addresses = table[..., 1:].astype(np.uint64)
        self._upload(hyper=table[..., 0], wide=addresses[..., 0], narrow=addresses[..., 1])
        self._numbers = rows

    def _where(self, x: Any) -> tuple[float, int, int]:
        """A number; or where the device has it, in float64 or in float32."""
        if not isinstance(x, torch.Tensor) or x.device != self.device:
            return float(x), 0, 0
        if x.dtype is torch.float64:
            return 0.0, x.data_ptr(), 0
        if x.dtype is torch.float32:
            return 0.0, 0, x.data_ptr()
        raise TypeError(f"a hyperparameter on {x.device} must be float64 or float32, not {x.dtype}.")

    # -- a step ------------------------------------------------------------------------------------------------------

    def gather(self, count: float) -> None:
        """Begin a step; `count` is the elements of the whole model."""
        self._context.count = count
        if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            self._captured.append(dict(self._tables))
        self.module.launch("begin", 1, self._context)

    def evaluate(self, level: int) -> None:
        """Evaluate the scalars of a level."""
        self.module.launch(f"evaluate_{level}", self._blocks_of_tensors, self._context)

    def run_pass(self, level: int) -> None:
        """Run one pass over the arrays."""
        phase = self.kernel.phases[level]
        if len(self._chunks) and self.kernel.has_pass(phase):
            self.module.launch(f"pass_{level}", len(self._chunks), self._context)

    def is_applied(self) -> bool:
        """The device knows, and acts accordingly."""
        return True

    def finish(self, updates: int) -> None:
        """Write scalar state and step counters, and the model's counter at the address `updates`, if not 0."""
        self._context.updates = updates
        self.module.launch("finish", self._blocks_of_tensors, self._context)

    @property
    def _blocks_of_tensors(self) -> int:
        return -(-len(self.sizes) // THREADS)


def _chunks(sizes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(tensor, first element) of every chunk."""
    counts = -(-sizes // CHUNK)
    tensors = np.repeat(np.arange(len(sizes)), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([tensors, CHUNK * (np.arange(len(tensors)) - first)], axis=1).astype(np.int64)


# -- NVRTC and the driver --------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _bindings() -> tuple[Any, Any]:
    try:
        return import_module("cuda.bindings.driver"), import_module("cuda.bindings.nvrtc")
    except ImportError as error:
        raise CannotBuild(
            f"cuda.bindings cannot be imported ({error}). torch's CUDA wheels bring it; otherwise "
            "`pip install cuda-bindings nvidia-cuda-nvrtc`."
        ) from error


def _checked(result: tuple[Any, ...], what: str) -> Any:
    """The value of a call that returns (status, value)."""
    status, *values = result
    if int(status) != 0:
        raise CannotBuild(f"{what} failed with {status}")
    return values[0] if values else None


def compile_source(source: str, architecture: str) -> bytes:
    """Machine code for an architecture such as `sm_90`."""
    try:
        return _compile(source, architecture)
    except CannotBuild:
        raise
    except RuntimeError as error:  # the bindings are there, but not the library
        raise CannotBuild(f"NVRTC cannot be used: {error}") from error


def _compile(source: str, architecture: str) -> bytes:
    _, nvrtc = _bindings()
    options = [option.encode() for option in (f"--gpu-architecture={architecture}", *OPTIONS)]
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"trainfn.cu", 0, [], []), "NVRTC")
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if int(status) != 0:
            raise CannotBuild(
                f"NVRTC failed: {_text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)!r}"
            )
        return _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _text(get_size: Callable[..., Any], get: Callable[..., Any], program: Any) -> bytes:
    content = b" " * int(_checked(get_size(program), "NVRTC"))
    _checked(get(program, content), "NVRTC")
    return content


class CudaModule:
    """Kernels on one CUDA device."""

    def __init__(self, source: str, device: torch.device) -> None:
        self.device = device
        self._driver, _ = _bindings()
        major, minor = torch.cuda.get_device_capability(device)
        self._code = ctypes.create_string_buffer(compile_source(source, f"sm_{major}{minor}"))
        with torch.cuda.device(device):
            torch.cuda.current_stream().synchronize()  # the device's context exists from here on
            module = self._driver.cuModuleLoadData(ctypes.addressof(self._code))
        self._module = _checked(module, "loading a kernel")
        self._functions: dict[str, Any] = {}

    def launch(self, name: str, blocks: int, context: Context) -> None:
        """On torch's current stream."""
        if name not in self._functions:
            function = self._driver.cuModuleGetFunction(self._module, name.encode())
            self._functions[name] = _checked(function, f"looking up {name}")
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(context))
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream(self.device).cuda_stream
            (status,) = self._driver.cuLaunchKernel(
                self._functions[name], blocks, 1, 1, THREADS, 1, 1, 0, stream, ctypes.addressof(arguments), 0
            )
        if int(status) != 0:
            raise RuntimeError(f"launching {name} on {self.device} failed with {status}")


@lru_cache(maxsize=256)
def load(source: str, device: torch.device) -> CudaModule:
    """The kernels of a CUDA C++ text on a device; raises CannotBuild."""
    return CudaModule(source, device)
