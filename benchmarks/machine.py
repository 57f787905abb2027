"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

THREADS = "2"
_PACKAGES = ("torch", "jax", "jaxlib", "optax", "numpy")


def machine() -> str:
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) // 2**20 for line in _lines("/proc/meminfo") if "MemTotal" in line), 0)
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in _PACKAGES)
    hardware = f"{cpu or platform.processor()}, {os.cpu_count()} cores, {memory} GiB"
    return f"{hardware}; Python {platform.python_version()}, {versions}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []
