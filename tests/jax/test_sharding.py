"""Sharded leaves, automatic and explicit: the same bits, no leaf gathered, state where the parameters are."""

from __future__ import annotations

import subprocess
import sys


def test_two_devices() -> None:
    run = subprocess.run([sys.executable, "-m", "tests.jax.sharded_run"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "same bits" in run.stdout


def test_eight_devices_train_one_model() -> None:
    """Batches over devices, and parameters whole or over them, recomputed in the backward pass: as on one device."""
    command = [sys.executable, "-m", "tests.jax.training_devices"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
