"""Printed kernels: scalars have Python's float64 bits, and arithmetic is never contracted."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainfn as tf
from tests.bits import differing
from tests.catalogue import ELEMENTWISE
from tests.inputs import uniform_bits
from trainfn import reference
from trainfn.lowering import lower
from trainfn.program import Sort
from trainfn.trace import Graph, Leaf, emit
from trainfn_torch.kernels import compiler
from trainfn_torch.kernels.cpu import Launcher, parallel_for
from trainfn_torch.kernels.printer import Kernel, host_source

EDGES = [0.0, -0.0, 5e-324, -1e-310, 2.2250738585072014e-308, 1.0, -1.0, 0.5, 2.0, -0.5, 709.7, 709.79, -708.1, 1e300,
         -1e300, 1e-40, -1e-40, 3.4e38, 3.5e38, math.inf, -math.inf, math.nan]  # fmt: skip


def scalar_kernel(op: str, arity: int) -> tuple[Kernel, Any]:
    graph = Graph()
    inputs = [graph.input(f"x{i}", Sort.SCALAR) for i in range(arity)]
    result = emit(op, *inputs)
    if result.sort is Sort.FLAG:
        result = emit("where", result, 1.0, 0.0)
    program = lower(graph.program({"state.result": result}))
    return Kernel(program, (("p", "float32"),)), program


def in_c(op: str, *xs: Any) -> Any:
    """A scalar operation evaluated by compiled C, once for each number."""
    kernel, program = scalar_kernel(op, len(xs))
    n = len(xs[0])
    launcher = Launcher(kernel, compiler.load(host_source(kernel)), [1] * n, list(range(n)), n)
    memory = np.zeros(2 * n, np.float32)
    launcher.steps[:] = memory.ctypes.data + 4 * np.arange(n, dtype=np.uint64)
    launcher.scalar_states[:, 0] = launcher.steps + np.uint64(4 * n)
    for i, x in enumerate(xs):
        launcher.hyper[:, i] = x
    launcher.gather(0.0)
    launcher.evaluate(0)
    return launcher.rows("slots")[:, kernel.slots[program.output["state.result"]]].copy()


def in_python(op: str, *xs: Any) -> Any:
    graph = Graph()
    inputs = [graph.input(f"x{i}", Sort.SCALAR) for i in range(len(xs))]
    result = emit(op, *inputs)
    if result.sort is Sort.FLAG:
        result = emit("where", result, 1.0, 0.0)
    program = graph.program({"result": result})
    rows = zip(*xs, strict=True)
    return np.array(
        [reference.evaluate(program, {f"x{i}": float(x) for i, x in enumerate(row)})["result"] for row in rows]
    )


def _uniform(key: int, low: float, high: float, n: int = 2000) -> Any:
    return low + (high - low) * uniform_bits(key, n).astype(np.float64) / 2**32


ONE = {
    "exp": [_uniform(1, -760, 720), _uniform(2, -1, 1) * 1e-5],
    "log": [np.exp2(_uniform(3, -1070, 1023)), _uniform(4, 0.5, 2)],
    "cos": [_uniform(5, -1e6, 1e6), _uniform(6, -4, 4)],
    "sqrt": [np.exp2(_uniform(7, -1070, 1023))],
    "floor": [_uniform(8, -1e3, 1e3), _uniform(9, -1e17, 1e17), _uniform(10, -1, 1)],
    "exponent": [np.exp2(_uniform(11, -1074, 1023))],
    "pow2": [np.floor(_uniform(12, -1100, 1100))],
    "single": [np.exp2(_uniform(13, -160, 130)), _uniform(14, -1, 1)],
    "neg": [],
    "abs": [],
}
TWO = {
    "pow": [(_uniform(20, 0.5, 1), np.floor(_uniform(21, 1, 60000))), (_uniform(22, 0, 10), _uniform(23, -5, 5))],
    "add": [],
    "sub": [],
    "mul": [],
    "div": [],
    "lt": [],
    "le": [],
    "eq": [],
    "maximum": [],
    "minimum": [],
}


@pytest.mark.parametrize("op", ONE)
def test_scalars_of_one_number(op: str) -> None:
    x = np.concatenate([EDGES, *ONE[op]])
    if op == "pow2":
        x = x[np.isnan(x) | (x == np.floor(x))]  # defined for whole numbers
    assert differing(in_c(op, x), in_python(op, x)) == 0


@pytest.mark.parametrize("op", TWO)
def test_scalars_of_two_numbers(op: str) -> None:
    pairs = [np.array([(a, b) for a in EDGES for b in EDGES]).T, *map(np.array, TWO[op])]
    x, y = np.concatenate(pairs, axis=1)
    assert differing(in_c(op, x, y), in_python(op, x, y)) == 0


@given(x=st.floats(allow_nan=True, allow_infinity=True), y=st.floats(allow_nan=True, allow_infinity=True))
def test_scalars_of_any_numbers(x: float, y: float) -> None:
    for op in ("exp", "log", "cos", "floor", "single"):
        assert differing(in_c(op, [x]), in_python(op, [x])) == 0, (op, x)
    for op in ("pow", "div"):
        assert differing(in_c(op, [x], [y]), in_python(op, [x], [y])) == 0, (op, x, y)


# -- what is built ---------------------------------------------------------------------------------------------------


def kernel_of(rule: tf.Rule, storage: str = "float32") -> Kernel:
    program = rule.program(Leaf("w", (3,)))
    program = lower(program.keep(name for name in program.output if name != "update"))
    names = dict.fromkeys([*program.inputs(Sort.ARRAY), *(n for n in program.output if n.startswith(("p", "state.")))])
    arrays = ["p", "g", *(n for n in names if n not in ("p", "g") and n in program.output)]
    arrays = [n for n in arrays if n == "g" or program.nodes[program.output[n]].sort is Sort.ARRAY]
    return Kernel(program, tuple((n, storage) for n in arrays))


def _assembly(kernel: Kernel, flags: tuple[str, ...]) -> str:
    command = [*compiler.find_compiler().command, *flags, "-S", "-o", "-", "-x", "c", "-"]
    flags_without_link = [f for f in command if f != "-shared"]
    done = subprocess.run(flags_without_link, input=host_source(kernel), capture_output=True, text=True, check=True)
    return done.stdout


# Without the one fused instruction that is meant: a product that is exact, and added to.
BUILD_FLAGS = (*compiler.FLAGS, "-march=native", "-DEXACT_FMA=0")


@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.name)
def test_nothing_is_contracted(row: Any) -> None:
    assert not re.findall(r"\bv?fn?m(?:add|sub)", _assembly(kernel_of(row.rule()), BUILD_FLAGS))


def test_contraction_would_be_seen() -> None:
    flags = tuple(f for f in compiler.FLAGS if "contract" not in f)
    text = _assembly(kernel_of(tf.adamw()), (*flags, "-ffp-contract=fast", "-march=native"))
    if "fma" not in compiler.cpu_features().split():
        pytest.skip("this processor has no fused multiply-add")
    assert re.search(r"\bv?fn?m(?:add|sub)", text)


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "float16", "float64"])
def test_inner_loops_are_vectorised(storage: str) -> None:
    """The square root, at least, works on whole vectors."""
    kind = "pd" if storage == "float64" else "ps"
    assert re.search(rf"\bv?sqrt{kind}\b", _assembly(kernel_of(tf.adamw(), storage), BUILD_FLAGS))


def test_no_library_but_the_c_library() -> None:
    """No OpenMP: a second thread pool in the process would fight with torch's."""
    if shutil.which("objdump") is None:
        pytest.skip("objdump is not installed")
    path = compiler.build(host_source(kernel_of(tf.adamw())))
    dump = subprocess.run(["objdump", "-p", str(path)], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"NEEDED\s+(\S+)", dump)) <= {"libc.so.6", "libm.so.6"}


def test_equal_programs_are_printed_once() -> None:
    assert host_source(kernel_of(tf.adamw(lr=1.0))) == host_source(kernel_of(tf.adamw(lr=2.0)))
    assert host_source(kernel_of(tf.adamw())) != host_source(kernel_of(tf.adam()))
    assert host_source(kernel_of(tf.adamw())) != host_source(kernel_of(tf.adamw(), "bfloat16"))


def test_torch_has_the_parallel_loop() -> None:
    assert parallel_for() != 0


def test_a_new_rule_is_built_quickly(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second is the aim; the machine may be busy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = host_source(kernel_of(tf.chain(tf.clip_by_global_norm(1.0), tf.adamw())))
    times = []
    for i in range(3):
        begin = time.perf_counter()
        compiler.build(f"{source}/* {i} */")
        times.append(time.perf_counter() - begin)
    assert min(times) < 2.0
