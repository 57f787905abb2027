"""The pages' code runs as printed, and the contract names tests that exist.

The blocks of a page marked `python` are one program, run from top to bottom; a block marked `text` that follows one is
what it prints.  Blocks marked otherwise are on paper only.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import trainfn as tf

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/guide.md", "docs/training.md", "docs/language.md")
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<printed>.*?)^```\n)?", re.DOTALL | re.MULTILINE)


def _blocks(page: str) -> Iterator[re.Match[str]]:
    return BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Iterator[types.ModuleType]:
    """An importable module for a page's names: what is defined there can be found by its place, as in a user's file."""
    name = f"page_{abs(hash(request.node.name))}"
    sys.modules[name] = types.ModuleType(name)
    yield sys.modules[name]
    del sys.modules[name]


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # torch's Inductor, of its own code
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page: str, module: types.ModuleType) -> None:
    blocks = list(_blocks(page))
    assert blocks
    for block in blocks:
        line = block.string.count("\n", 0, block.start("code"))
        code = compile("\n" * line + block["code"], str(ROOT / page), "exec", dont_inherit=True)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, vars(module))
        said = block["printed"] or ""
        assert doctest.OutputChecker().check_output(said, printed.getvalue(), doctest.ELLIPSIS), (
            f"{page}, the block at line {line + 1}, printed\n{printed.getvalue()}\nand the page says\n{said}"
        )


@pytest.mark.parametrize("page", [*PAGES, "docs/contract.md", "docs/catalogue.md", "CONTRIBUTING.md"])
def test_files_named_by_a_page_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:trainfn|backends|tests|docs|examples|benchmarks)/[\w/]*\w\.\w+", text))
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_a_schedule_that_turns_negative() -> None:
    """The contract's last exception: torch sees the value and refuses it; numpy and JAX compute with it."""
    import torch

    import trainfn_torch
    from tests.executions import run_jax, run_reference

    rule = tf.sgd(lr=tf.linear(start=0.25, stop=-0.25, steps=2))
    ones = {"p": np.ones(3, np.float32)}
    for execution in (run_reference, lambda *run: run_jax("jit", *run)):
        assert [step["p/p"][0] for step in execution(rule, ones, [ones] * 3)] == [0.75, 0.75, 1.0]
    p = torch.ones(3, requires_grad=True)
    optimizer = trainfn_torch.Optimizer([p], rule)
    p.grad = torch.ones(3)
    optimizer.step()
    optimizer.step()
    with pytest.raises(ValueError, match=r"lr = -0\.25 must be at least 0"):
        optimizer.step()
    assert p.tolist() == [0.75] * 3
