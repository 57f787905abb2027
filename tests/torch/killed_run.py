"""A small run in a process of its own, that is killed at random moments and goes on, until it has come to its end.

    python -m tests.torch.killed_run DIRECTORY KILLS SEED

DIRECTORY/straight is one that was let be. Prints how many of the kills came before the run had ended.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from tests.torch.test_training import RECIPE, Every, data, loss_fn, model
from trainfn_torch.training import fit


def run(directory: Path) -> None:
    torch.set_num_threads(1)
    fit(model(), loss_fn, data(bad=37), RECIPE, directory=directory, evaluation=data(), every=Every(3, 5, 1))


def begin(directory: Path) -> int:
    """A process that runs; forked before anything was computed here, so that no thread is lost."""
    child = os.fork()
    if child == 0:
        run(directory)
        os._exit(0)
    return child


def to_the_end(directory: Path) -> None:
    _, status = os.waitpid(begin(directory), 0)
    assert status == 0


def main(directory: Path, kills: int, seed: int) -> None:
    moments = random.Random(seed)
    in_the_middle = 0
    to_the_end(directory / "straight")
    for i in range(kills):
        child = begin(directory / "run")
        time.sleep(moments.uniform(0.0, 0.2))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            in_the_middle += 1
        else:  # it had ended, well; the next begins anew
            assert status == 0
            os.rename(directory / "run", directory / f"run{i}")
    to_the_end(directory / "run")
    print(in_the_middle)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
