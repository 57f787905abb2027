"""trainfn's rules under the names of optax.contrib, with its arguments and defaults."""

from __future__ import annotations

__all__: list[str] = []
