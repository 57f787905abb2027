"""`fit` in several processes: each takes its share of every batch, and rank 0 writes.

torchrun --nproc-per-node 2 -m examples.training.ddp [DIRECTORY]
"""

from __future__ import annotations

import sys

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from examples.training.digits import pictures
from examples.training.own_loop_torch import loss_fn, model
from examples.training.trainer_torch import RECIPE
from trainfn.training.loop import Every
from trainfn_torch.training import fit


def main(directory: str = "runs/ddp") -> None:
    dist.init_process_group("gloo")  # "nccl" on GPUs
    data, held_out = pictures(0, 1000), pictures(1, 200)
    net = DistributedDataParallel(model())  # or fully_shard(model())
    result = fit(net, loss_fn, data, RECIPE, evaluation=held_out, directory=directory, every=Every(20, 100, 100))
    if dist.get_rank() == 0:
        print(f"{dist.get_world_size()} ranks, {result.updates} updates, {result.numbers['eval/loss']:.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
