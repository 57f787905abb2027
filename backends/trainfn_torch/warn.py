"""Warnings that point at the user's line."""

from __future__ import annotations

import sys
import warnings

# Modules whose lines tell a user nothing about where a step was made.
_NOT_THE_USERS = frozenset({"trainfn_torch", "torch"})


def warn(message: str) -> None:
    """A RuntimeWarning at the line that called torch or trainfn."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_USERS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


warned: set[str] = set()


def warn_once(message: str) -> None:
    """The same, the first time."""
    if message not in warned:
        warned.add(message)
        warn(message)
