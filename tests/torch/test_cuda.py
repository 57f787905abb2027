"""CUDA kernels: their text on the host has the reference's bits, their PTX is clean, and devices, if any, agree.

Here the text for the device is compiled as C, with loops in place of grids, and run by the launcher that runs it on
devices; nvcc, where there is one, says what the device would execute.  Tests that need a device are collected where
one is.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
from tests.bits import assert_same_bits
from tests.catalogue import ELEMENTWISE, Row
from tests.executions import run_reference
from tests.inputs import uniform_bits
from tests.torch.fused_runs import Model, run_fused
from tests.torch.test_fused import (
    ALL_ROWS,
    EXTRA_ROWS,
    LARGE,
    SHAPES,
    assert_same,
    by_name,
    everything,
    leaves,
    special,
    sums,
)
from tests.torch.test_kernels import kernel_of
from trainfn_torch import fused
from trainfn_torch.kernels import compiler, cuda
from trainfn_torch.kernels.printer import Kernel, device_source

HERE = Path(__file__).parent
NVCC = shutil.which("nvcc") or next((p for p in ["/usr/local/cuda/bin/nvcc"] if Path(p).exists()), None)
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="nvcc is not installed")
needs_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class Emulated:
    """The text for the device, compiled for the host."""

    def __init__(self, kernel: Kernel) -> None:
        before, after = ((HERE / name).read_text() for name in ("emulate.h", "emulate_launch.h"))
        self.library = compiler.load(before + device_source(kernel) + after)
        self.launched: list[tuple[str, int]] = []

    def launch(self, name: str, blocks: int, context: cuda.Context) -> None:
        self.launched.append((name, blocks))
        address = ctypes.cast(self.library[name], ctypes.c_void_p)
        self.library.launch(address, ctypes.c_int64(blocks), ctypes.c_int64(cuda.THREADS), ctypes.byref(context))


def emulate(patch: pytest.MonkeyPatch) -> list[Emulated]:
    """Makes `fused` run everything as if it were on a device; the modules it makes appear in the list."""
    modules: list[Emulated] = []

    def launcher(kernel: Kernel, device: torch.device, shared: Any, *tables: Any) -> cuda.Launcher:
        modules.append(Emulated(kernel))
        return cuda.Launcher(kernel, modules[-1], device, shared, *tables)

    patch.setattr(fused, "_launcher", launcher)
    patch.setattr(fused, "_shared", lambda device, reductions: cuda.Shared(reductions, device))
    return modules


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> list[Emulated]:
    return emulate(monkeypatch)


def check(rule: tf.Rule, params: Any, grads: Any) -> None:
    assert_same(run_reference(rule, params, grads), run_fused(rule, params, grads))


# -- the text, on the host -------------------------------------------------------------------------------------------


@by_name
def test_every_rule(row: Row, emulated: list[Emulated]) -> None:
    check(row.rule(), leaves(1, SHAPES), [leaves(2, SHAPES), special(leaves(3, SHAPES, decades=70, largest=1e30), 4)])
    names = [name for name, _ in emulated[0].launched]
    assert names[0] == "begin"
    assert names[-1] == "finish"


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float64], ids=["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("row", [*ELEMENTWISE[::4], *EXTRA_ROWS[:1]], ids=lambda row: row.name)
def test_dtypes(row: Row, dtype: Any, emulated: list[Emulated]) -> None:
    check(row.rule(), leaves(1, SHAPES, dtype), [leaves(k, SHAPES, dtype) for k in (2, 3)])


@pytest.mark.parametrize("name", ["adamw", "everything", "adamw_clipped"])
def test_large_leaves(name: str, emulated: list[Emulated]) -> None:
    row = next(r for r in ALL_ROWS if r.name == name)
    check(row.rule(), leaves(1, LARGE), [leaves(2, LARGE)])
    blocks = dict(emulated[0].launched)
    assert blocks["pass_0"] == sum(-(-int(np.prod(s)) // cuda.CHUNK) for s in LARGE)


@tf.rule
def products(g: Any, p: Any) -> Any:
    return g * p + g / p


class Kept(NamedTuple):
    x: tf.Array


@tf.rule
def product(state: Kept, g: Any, p: Any) -> Any:
    return g, Kept(g * p)


@tf.rule
def quotient(state: Kept, g: Any, p: Any) -> Any:
    return g, Kept(g / p)


def _near_the_smallest_normal(key: int, n: int) -> tuple[Any, Any]:
    """Pairs whose product is within a few units of 2**-126, most of them just below."""
    x = np.ldexp(1 + (uniform_bits(key, n) >> 9).astype(np.float64) / 2**23, -60)
    y = (2.0**-126 * (1 - (uniform_bits(key + 1, n) % 9).astype(np.float64) / 2**26)) / x
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize("key", range(3))
def test_flush_decides_after_rounding(key: int, emulated: list[Emulated]) -> None:
    """Just below the smallest normal number the written-out flush is that of the processor and the reference."""
    x, y = _near_the_smallest_normal(key, 20_000)
    check(product(), {"w": x}, [{"w": y}])
    check(quotient(), {"w": np.float32(1) / x}, [{"w": y}])
    check(product(), {"w": y}, [{"w": x}])


def test_the_flush_is_needed() -> None:
    """Some of these products are rounded up to a normal number where there are subnormal ones."""
    x, y = _near_the_smallest_normal(0, 20_000)
    exact, rounded = x.astype(np.float64) * y, x * y
    assert np.count_nonzero((exact < 2.0**-126 - 2.0**-151) & (rounded == np.float32(2.0**-126))) > 1000


@pytest.mark.parametrize("sign", [1, -1])
def test_maxima_of_either_sign(sign: int, emulated: list[Emulated]) -> None:
    arrays = {k: np.abs(x) * np.float32(sign) for k, x in leaves(1, ((5,), (300,))).items()}
    check(sums(), arrays, [arrays])


@given(key=st.integers(0, 2**31), decades=st.integers(1, 75), exponent=st.integers(-140, 120))
def test_arithmetic_on_any_magnitudes(key: int, decades: int, exponent: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        emulate(patch)
        shapes = ((1000,),)
        params = special(leaves(key % 9999, shapes, decades=75, largest=1e37), key)
        grads = special(leaves(key % 9998 + 1, shapes, decades=decades, largest=2.0**exponent), key + 1)
        check(products(), params, [grads])


def test_a_skipped_step_stores_nothing(emulated: list[Emulated]) -> None:
    model = Model(tf.unscale(tf.adamw()), leaves(1, SHAPES))
    before = model.snapshot()
    found_inf, scale = torch.tensor(1.0), torch.tensor(8.0, dtype=torch.float64)
    model.step(leaves(2, SHAPES), grad_scale=scale, found_inf=found_inf)
    assert_same_bits(before, model.snapshot())
    found_inf.zero_()
    model.step(leaves(2, SHAPES), grad_scale=scale, found_inf=found_inf)
    assert model.snapshot()["count"] == 1
    assert model.snapshot()["w0/step"] == 1


def test_numbers_on_the_device_are_read_by_the_kernel(emulated: list[Emulated]) -> None:
    """So a replayed graph follows a schedule; nothing is uploaded again."""
    lr = torch.tensor(0.25, dtype=torch.float64)
    model = Model(tf.sgd(lr=0.1), leaves(1, SHAPES))
    grads = leaves(2, SHAPES)
    model.step(grads, lr=lr)
    plan = model.batch.kept
    tables = dict(plan.groups[0].launcher._tables)
    lr.fill_(0.5)
    before = model.snapshot()["w0/p"]
    launcher = plan.groups[0].launcher
    launcher.gather(1.0)
    launcher.evaluate(0)
    launcher.run_pass(0)
    assert_same_bits({"p": before + np.float32(-0.5) * grads["w0"]}, {"p": model.snapshot()["w0/p"]})
    assert tables == launcher._tables


def test_unlike_steps_and_groups(emulated: list[Emulated]) -> None:
    """Programs of unlike depth and dtype share reductions over the model."""
    shapes = ((5, 3), (6,), (7,))
    params = dict(leaves(1, shapes))
    params["w2"] = params["w2"].astype(ml_dtypes.bfloat16)
    grads = {k: x.astype(params[k].dtype) for k, x in leaves(2, shapes).items()}
    check(next(r for r in ALL_ROWS if r.name == "by_shape").rule(), params, [grads, grads])
    assert len(emulated) == 3


# -- what the device would execute -----------------------------------------------------------------------------------


def _ptx(kernel: Kernel, tmp_path: Path, options: Sequence[str] = cuda.OPTIONS) -> str:
    source = tmp_path / "kernel.cu"
    source.write_text(device_source(kernel))
    assert NVCC is not None
    command = [NVCC, "--ptx", "-arch=sm_80", "-w", *options, "-o", "-", str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


FORBIDDEN = r"\bfma\.|\bmad\.\w*\.?f|\.approx|div\.full|\.ftz"


@needs_nvcc
@pytest.mark.parametrize("storage", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["adamw", "everything"])
def test_ptx_is_clean(name: str, storage: str, tmp_path: Path) -> None:
    text = _ptx(kernel_of(next(r for r in ALL_ROWS if r.name == name).rule(), storage), tmp_path)
    assert not re.findall(FORBIDDEN, text)
    wide = "f64" if storage == "float64" else "f32"
    assert f"mul.rn.{wide}" in text
    assert f"div.rn.{wide}" in text
    assert f"sqrt.rn.{wide}" in text


@needs_nvcc
@pytest.mark.parametrize("row", ELEMENTWISE[::3], ids=lambda row: row.name)
def test_ptx_of_rules_is_clean(row: Row, tmp_path: Path) -> None:
    assert not re.findall(FORBIDDEN, _ptx(kernel_of(row.rule()), tmp_path))


@needs_nvcc
def test_unclean_ptx_would_be_seen(tmp_path: Path) -> None:
    """Fast mathematics reaches even intrinsics."""
    assert re.findall(FORBIDDEN, _ptx(kernel_of(tf.adamw()), tmp_path, ["--use_fast_math"]))


@needs_nvcc
def test_contraction_has_no_hold_on_intrinsics(tmp_path: Path) -> None:
    """The text says what it means even if an option is lost."""
    assert not re.findall(r"\bfma\.", _ptx(kernel_of(everything()), tmp_path, ["--fmad=true"]))


@needs_nvcc
@pytest.mark.parametrize(("storage", "vector"), [("float32", r"ld\.v4\.\w32"), ("bfloat16", r"ld\.v4\.u16")])
def test_memory_is_read_in_vectors(storage: str, vector: str, tmp_path: Path) -> None:
    assert re.search(vector, _ptx(kernel_of(tf.adamw(), storage), tmp_path))


def test_without_bindings_nothing_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(name)

    cuda._bindings.cache_clear()
    monkeypatch.setattr(cuda, "import_module", absent)
    with pytest.raises(compiler.CannotBuild, match="pip install cuda-bindings"):
        cuda.compile_source("", "sm_80")
    cuda._bindings.cache_clear()


def test_nvrtc_compiles_what_nvcc_does() -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda.bindings is not installed", exc_type=ImportError)
    try:
        code = cuda.compile_source(device_source(kernel_of(tf.adamw())), "sm_80")
    except compiler.CannotBuild as error:
        if "cannot be used" not in str(error):
            raise
        pytest.skip("NVRTC is not installed")
    assert code[:4] == b"\x7fELF"
    with pytest.raises(compiler.CannotBuild, match=r"NVRTC failed.*undefined"):
        cuda.compile_source("void f() { undefined(); }", "sm_80")


# -- on a device -----------------------------------------------------------------------------------------------------


@needs_device
@by_name
def test_every_rule_on_a_device(row: Row) -> None:
    params = leaves(1, SHAPES + LARGE)
    grads = [leaves(2, SHAPES + LARGE), special(leaves(3, SHAPES + LARGE, decades=70, largest=1e30), 4)]
    assert_same(run_reference(row.rule(), params, grads), run_fused(row.rule(), params, grads, device="cuda"))


@needs_device
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bfloat16", "float16"])
@by_name
def test_low_precision_on_a_device(row: Row, dtype: Any) -> None:
    params, grads = leaves(1, SHAPES, dtype), [leaves(k, SHAPES, dtype) for k in (2, 3)]
    assert_same(run_reference(row.rule(), params, grads), run_fused(row.rule(), params, grads, device="cuda"))


@needs_device
def test_flush_on_a_device() -> None:
    x, y = _near_the_smallest_normal(5, 100_000)
    for params, grads in (({"w": x}, {"w": y}), ({"w": y}, {"w": x})):
        for rule in (product(), quotient()):
            assert_same(run_reference(rule, params, [grads]), run_fused(rule, params, [grads], device="cuda"))


@needs_device
def test_a_captured_step_follows_device_numbers() -> None:
    rule = tf.unscale(tf.chain(tf.clip_by_global_norm(1.0), tf.adamw()))
    params, grads = leaves(1, LARGE), leaves(2, LARGE)
    scale, found_inf = torch.tensor(8.0, device="cuda"), torch.tensor(0.0, device="cuda")
    model, eager = Model(rule, params, device="cuda"), Model(rule, params, device="cuda")
    kept = {k: torch.from_numpy(g).cuda() for k, g in grads.items()}
    extras = {"grad_scale": scale, "found_inf": found_inf}
    model.step(kept, **extras)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model.step(kept, **extras)
    for _ in range(3):
        graph.replay()
    for _ in range(4):
        eager.step(kept, **extras)
    assert_same_bits(eager.snapshot(), model.snapshot())
    found_inf.fill_(1.0)
    graph.replay()
    assert_same_bits(eager.snapshot(), model.snapshot())


@needs_device
def test_a_step_waits_for_nothing() -> None:
    model = Model(tf.adamw(), leaves(1, SHAPES), device="cuda")
    grads = {k: torch.from_numpy(np.array(g)).cuda() for k, g in leaves(2, SHAPES).items()}
    model.step(grads)
    torch.cuda.set_sync_debug_mode("error")
    try:
        fused.step(model.batch, model.count)
    finally:
        torch.cuda.set_sync_debug_mode("default")
