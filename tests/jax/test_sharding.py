"""Sharded leaves, automatic and explicit: the same bits, no leaf gathered, state where the parameters are."""

from __future__ import annotations

import subprocess
import sys


def test_two_devices() -> None:
    run = subprocess.run([sys.executable, "-m", "tests.jax.sharded_run"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "same bits" in run.stdout
