"""Sharded parameters on two ranks: the same bits, and one decision for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.torch.sharded_run import RANKS


def in_two_processes(module: str, *arguments: object) -> None:
    command = [sys.executable, "-m", f"tests.torch.{module}"]
    ranks = [
        subprocess.Popen([*command, str(rank), *map(str, arguments)], stderr=subprocess.PIPE, text=True)
        for rank in range(RANKS)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]  # a rank whose other failed fails too
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * RANKS, "\n".join(e[-2000:] for e in errors)


def test_two_ranks(tmp_path: Path) -> None:
    in_two_processes("sharded_run", tmp_path / "meet")


def test_two_ranks_train_one_model(tmp_path: Path) -> None:
    """In DDP and after `fully_shard`, resumed in between: as one process does on whole batches."""
    in_two_processes("training_ranks", tmp_path)
