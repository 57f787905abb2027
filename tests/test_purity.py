"""The core imports numpy and the standard library only, and costs next to nothing to import."""

from __future__ import annotations

import subprocess
import sys


def _modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_the_core_loads_numpy_and_the_standard_library_only() -> None:
    bare, numpy, core = (_modules_after(s) for s in ("pass", "import numpy", "import trainfn, trainfn.reference"))
    others = core - bare - numpy - set(sys.stdlib_module_names) - {"trainfn"}
    assert others == set()


def test_the_torch_backend_does_not_load_jax() -> None:
    assert not _modules_after("import trainfn_torch") & {"jax", "jaxlib", "optax", "flax", "trainfn_jax"}


def test_the_jax_backend_does_not_load_torch() -> None:
    assert not _modules_after("import trainfn_jax") & {"torch", "trainfn_torch"}


def test_a_first_step_imports_nothing_of_numpys_or_pythons() -> None:
    """It would pay for it, and a profiler that follows stacks stumbles over code that is gone afterwards."""
    code = """
import sys, torch, trainfn, trainfn_torch
p = torch.nn.Parameter(torch.ones(3))
p.grad = torch.ones(3)
optimizer = trainfn_torch.Optimizer([p], trainfn.chain(trainfn.clip_by_global_norm(), trainfn.adamw()))
before = set(sys.modules)
optimizer.step()
print(*(name for name in set(sys.modules) - before if not name.startswith("torch")))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
