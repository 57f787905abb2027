"""Random numbers in torch: in whatever layout a parameter lies, and refused where nobody can say which they are."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from tests.executions import run_reference
from tests.inputs import numbers
from tests.torch.test_kernels import in_c, in_python
from trainfn import random, reference
from trainfn_torch import single
from trainfn_torch.kernels import compiler
from trainfn_torch.kernels.printer import header
from trainfn_torch.scalars import TABLE, word

RULE = tf.chain(tf.gradient_noise(eta=0.3, seed=5), tf.sgd(lr=0.1))
EXECUTIONS = ("single", "foreach", "fused")


def _after(execution: str, p: torch.Tensor, grads: list[Any], name: str = "w") -> torch.Tensor:
    optimizer = trainfn_torch.Optimizer([(name, p.requires_grad_())], RULE, execution=execution)
    for g in grads:
        p.grad = torch.tensor(g)
        optimizer.step()
    return p.detach()


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("layout", ["transposed", "channels_last", "strided", "offset"])
def test_the_place_in_a_leaf_is_its_index_not_its_address(execution: str, layout: str) -> None:
    shape = (2, 3, 4, 5)
    start, grads = numbers(1, shape), [numbers(n, shape) for n in (2, 3)]
    memory = {
        "transposed": lambda: torch.empty(5, 4, 3, 2).permute(3, 2, 1, 0),
        "channels_last": lambda: torch.empty(shape, memory_format=torch.channels_last),
        "strided": lambda: torch.empty(2, 3, 4, 10)[..., ::2],
        "offset": lambda: torch.empty(3, 3, 4, 5)[1:],
    }[layout]()
    after = _after(execution, memory.copy_(torch.tensor(start)), grads)
    expected = run_reference(RULE, {"w": start}, [{"w": g} for g in grads])[-1]["w/p"]
    assert_same_bits({"p": expected}, {"p": after.numpy()}, layout)


def test_a_parameter_without_a_name_is_refused() -> None:
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"draws random numbers by the parameters' names.*model.named_parameters\(\)"):
        trainfn_torch.Optimizer([p], RULE).step()


def test_a_group_stays_one_group() -> None:
    """What leaves are told apart by is no hyperparameter."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 3))
    assert len(trainfn_torch.Optimizer(model.named_parameters(), RULE).param_groups) == 1


def test_a_loaded_state_goes_on_with_the_same_numbers() -> None:
    start, grads = numbers(1, (7,)), [numbers(n, (7,)) for n in (2, 3)]
    p = torch.nn.Parameter(torch.tensor(start))
    saved: dict[str, Any] | None = None
    for g in grads:
        optimizer = trainfn_torch.Optimizer([("w", p)], RULE)
        if saved is not None:
            optimizer.load_state_dict(saved)
        p.grad = torch.tensor(g)
        optimizer.step()
        saved = optimizer.state_dict()
    assert torch.equal(p.detach(), _after("fused", torch.tensor(start), grads))


def test_a_kernel_counts_beyond_32_bits() -> None:
    """The text of kernels at places that no test could have the memory for."""
    head = "#define REAL_IS_DOUBLE 0\n#define FLUSHED_BY_HARDWARE 0\n" + header("arithmetic.h")
    export = (
        '__attribute__((visibility("default"))) double drawn(i64 i) { return a_random_1(1.0, 2.0, 4294967295.0, i); }'
    )
    function = compiler.load(f"{head}\n{export}\n").drawn
    function.argtypes, function.restype = [ctypes.c_int64], ctypes.c_double
    for place in (0, 5, 2**32 - 1, 2**32, 3 * 2**32 + 7):
        assert function(place) == random.threefry2x32((1, 2), random.place(place, 2**32 - 1))[1] >> 8


NUMBERS = np.array([0.0, 7.0, 5.9, -0.5, -1.0, 2.0**32 - 1, 2.0**32, 3e10, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("op", ["threefry_0", "threefry_1"])
def test_words_in_c_are_those_of_the_host(op: str) -> None:
    words = [np.roll(NUMBERS, n) for n in range(4)]
    expected = [TABLE.scalars[op](*map(float, row)) for row in zip(*words, strict=True)]
    np.testing.assert_array_equal(in_c(op, *words), expected)
    np.testing.assert_array_equal(in_python(op, *words), expected)


def test_words_on_a_device_are_those_of_the_host() -> None:
    """0-d tensors stand for what only a device knows."""
    for x in map(float, NUMBERS):
        given = torch.tensor(x, dtype=torch.float64)
        assert int(word(given)) == reference.word(x)
        for op in ("threefry_0", "threefry_1"):
            on_host, on_device = (TABLE.scalars[op](0.0, 3.0, y, 5.0) for y in (x, given))
            assert float(on_device) == on_host
    key = [torch.tensor(x, dtype=torch.float64) for x in (1.0, 2.0)]
    p = torch.zeros(3, 4)
    expected = random.threefry2x32((1, 2), random.place(np.arange(12), 9))[0] >> 8
    np.testing.assert_array_equal(single.draw(0, p, *key, 9.0).reshape(-1), expected.astype(np.float32))
