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
