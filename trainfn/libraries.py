"""Which package computes with whose numbers.

The core knows its backends by name only, and imports one when it meets a number of that library, which is then
imported already.
"""

from __future__ import annotations

import importlib
import types
from typing import Any

import numpy as np

_BACKENDS = {"jax": "trainfn_jax", "jaxlib": "trainfn_jax", "torch": "trainfn_torch"}


def backend_of(*numbers: Any) -> types.ModuleType:
    """The package that has `evaluate` and `evaluate_schedule` for these numbers: a backend's where one is its own."""
    found = {name for name in map(_backend, numbers) if name is not None}
    if len(found) > 1:
        raise TypeError(f"numbers of different libraries were mixed: {', '.join(map(_spell, numbers))}.")
    return importlib.import_module(found.pop() if found else "trainfn.reference")


def _backend(number: Any) -> str | None:
    if isinstance(number, int | float | np.ndarray | np.generic):
        return None
    library = type(number).__module__.partition(".")[0]
    if library not in _BACKENDS:
        raise TypeError(f"{_spell(number)} is no number of Python, numpy, torch or JAX.")
    return _BACKENDS[library]


def _spell(number: Any) -> str:
    return f"{number!r} ({type(number).__name__})"
