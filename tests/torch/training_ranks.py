"""Run in two processes that train one model together, with DDP or FSDP2: as one process on whole batches.

python -m tests.torch.training_ranks RANK DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import trainfn as tf
from trainfn.training.checkpoints import Checkpoints
from trainfn.training.loop import Every
from trainfn.training.recipe import Recipe
from trainfn_torch.training import fit

RANKS = 2
RULE = tf.chain(tf.clip_by_global_norm(0.3), tf.ema(tf.adamw(lr=tf.warmup(peak=1e-2, steps=5)), decay=0.9))


def recipe(updates: int) -> Recipe:
    return Recipe(RULE, updates, batch_size=12, micro_batch_size=3, seed=3)


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))


def data() -> tuple[Any, Any]:
    """One sample is infinite: a batch of each epoch is skipped, by the rank that does not have it, too."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    x[37] = np.inf
    return x, y


def loss_fn(model: Any, part: Any) -> Any:
    """Of unequal weights: the mean over ranks is not the mean over samples."""
    weights = 1.0 + part[1].double()
    return (F.cross_entropy(model(part[0]), part[1], reduction="none") * weights).sum(), weights.sum()


def run(net: Any, directory: Path, updates: int) -> Any:
    x, y = data()
    held_out = x[:7], y[:7]
    return fit(net, loss_fn, (x, y), recipe(updates), evaluation=held_out, directory=directory, every=Every(2, 4, 3))


def last(directory: Path) -> dict[str, Any]:
    with Checkpoints(directory / "checkpoints", only_reads=True) as checkpoints:
        arrays = checkpoints.load().arrays
    return {f"{file}/{name.removeprefix('module.')}": x for file, named in arrays.items() for name, x in named.items()}


class Counted(DistributedDataParallel):
    """Counts the times that gradients are summed over ranks."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        self.sums = 0
        self.register_comm_hook(None, self._count)

    def _count(self, state, bucket):  # torch looks at annotations here
        self.sums += 1
        whole = bucket.buffer().div_(RANKS)
        return dist.all_reduce(whole, async_op=True).get_future().then(lambda done: done.value()[0])


def train(kind: str, rank: int, directory: Path) -> None:
    def wrapped() -> Any:
        return Counted(model()) if kind == "ddp" else fully_shard(model())

    net = wrapped()
    result = run(net, directory / kind, 4)
    if kind == "ddp":
        assert net.sums == result.counters.attempts, net.sums  # once a batch, not once a part
    result = run(wrapped(), directory / kind, 9)  # goes on from the fourth update
    assert (result.updates, result.reason) == (9, "updates")
    if rank == 0:
        expected, found = last(directory / "alone"), last(directory / kind)
        assert expected.keys() == found.keys(), (expected.keys(), found.keys())
        for name, x in expected.items():
            np.testing.assert_allclose(found[name], x, 2e-4, 1e-6, err_msg=f"{kind}: {name}")
        assert found["optimizer/skipped"] == expected["optimizer/skipped"] > 0


def main(rank: int, directory: Path) -> None:
    if rank == 0:
        run(model(), directory / "alone", 9)
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=RANKS)
    for kind in ("ddp", "fsdp"):
        train(kind, rank, directory)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
