"""The short programs in `examples/training/`, each of which learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.training import crossing, flax_linen, flax_nnx, own_loop_torch, trainer_torch
from trainfn.training.sinks.jsonl import read

UNTRAINED = np.log(4)


def test_own_loop() -> None:
    losses = own_loop_torch.with_step(), own_loop_torch.with_grad_scaler()
    assert max(losses) < 0.9 * UNTRAINED
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_trainer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = trainer_torch.main(str(tmp_path))
    assert result.best is not None
    assert result.best[0] < 0.8 * UNTRAINED
    assert "best evaluation loss" in capsys.readouterr().out
    steps, losses = read(tmp_path / "metrics.jsonl").series("eval/loss")
    assert (steps[-1], min(losses)) == (result.counters.attempts, result.best[0])
    again = trainer_torch.main(str(tmp_path))  # there is nothing left to do
    assert (again.updates, again.best, again.reason) == (result.updates, result.best, result.reason)


@pytest.mark.parametrize("example", [flax_linen, flax_nnx], ids=["linen", "nnx"])
def test_flax(example: object) -> None:
    assert example.main().numbers["eval/loss"] < 0.8 * UNTRAINED  # type: ignore[attr-defined]


def test_crossing(tmp_path: Path) -> None:
    assert crossing.main(str(tmp_path)).numbers["eval/loss"] < 0.8 * UNTRAINED
    losses = [read(tmp_path / run / "metrics.jsonl").series("train/loss") for run in ("torch again", "jax", "torch")]
    assert losses[0][0] == [1, *range(20, 201, 20)]
    assert losses[0][1][:5] == losses[1][1][:5] == losses[2][1]


def test_ddp(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ran = subprocess.run(
        [*command, "-m", "examples.training.ddp", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "2 ranks, 200 updates" in ran.stdout
