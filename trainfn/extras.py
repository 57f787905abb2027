"""Packages that are no requirement of trainfn: imported where one is asked for, and not before."""

from __future__ import annotations

import importlib
from typing import Any


def load(module: str, extra: str, purpose: str) -> Any:
    """A module of an optional package; where that is missing, an error says which extra of trainfn brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise  # the package is there, and misses something itself
        raise ModuleNotFoundError(
            f"{package} is needed {purpose}: pip install 'trainfn[{extra}]'.", name=error.name
        ) from error
