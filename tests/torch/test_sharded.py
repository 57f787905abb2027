"""Sharded parameters on two ranks: the same bits, and one decision for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.torch.sharded_run import RANKS


def test_two_ranks(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.torch.sharded_run"]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE, text=True)
        for rank in range(RANKS)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]  # a rank whose other failed fails too
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * RANKS, "\n".join(e[-2000:] for e in errors)
