"""Run in two processes, each a rank with its shards: sharded updates have the bits of unsharded ones.

python -m tests.torch.sharded_run RANK FILE
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from tests.torch.optimizer_runs import EXECUTIONS, give_gradients, parameters
from trainfn.verbs import leaf_max, leaf_norm

RANKS = 2
SHAPES: dict[str, tuple[int, ...]] = {"matrix": (5, 3), "vector": (4,), "on one rank alone": (1,)}
RULES: dict[str, Callable[[], tf.Rule]] = {
    "adamw": lambda: tf.adamw(lr=tf.warmup_cosine(1e-2, 2, 9)),
    "clipped": lambda: tf.skip_if_not_finite(tf.chain(tf.clip_by_global_norm(0.1), tf.lion(lr=1e-3))),
    "of each leaf": lambda: largest_and_norm(),
    "noisy": lambda: tf.noisy_sgd(lr=1e-2, seed=3),
}


class Numbers(NamedTuple):
    largest: tf.LeafScalar
    norm: tf.LeafScalar


@tf.rule
def largest_and_norm(state: Numbers, g: Any) -> Any:
    """All gradients' numbers are below 0: what no element is in must not be taken for 0."""
    return -0.1 * g, Numbers(leaf_max(-abs(g)), leaf_norm(g))


@tf.rule
def by_the_loss(g: Any, value: Any, *, lr: Any = 0.5) -> Any:
    return -lr * value * g


class Model:
    """The same parameters and gradients whole and sharded."""

    def __init__(self, mesh: Any, rule: tf.Rule, execution: str | None = None) -> None:
        self.mesh, self.whole = mesh, parameters(shapes=SHAPES)
        self.shards = {n: torch.nn.Parameter(self.shard(p)) for n, p in self.whole.items()}
        self.plain = trainfn_torch.Optimizer(list(self.whole.items()), rule, execution="single")
        self.sharded = trainfn_torch.Optimizer(list(self.shards.items()), rule, execution=execution)

    def shard(self, x: torch.Tensor) -> DTensor:
        return distribute_tensor(x.detach().clone(), self.mesh, [Shard(0)])

    def give_gradients(self, n: int) -> None:
        give_gradients(self.whole, n)
        for name, p in self.shards.items():
            p.grad = self.shard(self.whole[name].grad)

    def step(self, n: int, **extras: Any) -> None:
        self.give_gradients(n)
        self.plain.step(**extras)
        self.sharded.step(**extras)

    def check(self, context: str) -> None:
        assert float(self.plain.param_groups[0]["updates"]) == float(self.sharded.param_groups[0]["updates"]), context
        for name, p in self.whole.items():
            shard = self.shards[name]
            assert_same_bits({name: p.detach()}, {name: shard.detach().full_tensor()}, context)  # type: ignore[attr-defined]
            for key, x in self.plain.state[p].items():
                y = self.sharded.state[shard][key]
                assert_same_bits({key: x}, {key: y.full_tensor() if isinstance(y, DTensor) else y}, context)


def same_bits(mesh: Any) -> None:
    for name, rule in RULES.items():
        for execution in EXECUTIONS:
            model = Model(mesh, rule(), execution)
            for n in range(3):
                model.step(n)
                model.check(f"{name}, {execution}, step {n}")


def what_is_not_finite_in_one_shard_holds_all(mesh: Any) -> None:
    for number in (math.nan, math.inf, -math.inf):
        for of_rank in range(RANKS):
            model = Model(mesh, RULES["clipped"]())
            model.step(0)
            model.give_gradients(1)
            if dist.get_rank() == of_rank:
                model.shards["matrix"].grad.to_local()[0, 0] = number  # type: ignore[union-attr]
            model.sharded.step()
            model.check(f"{number} in rank {of_rank}")


def a_loss_of_which_each_rank_has_a_part(mesh: Any) -> None:
    for execution in EXECUTIONS:
        model = Model(mesh, by_the_loss(), execution)
        model.give_gradients(0)
        model.plain.step(value=3.0)
        model.sharded.step(value=DTensor.from_local(torch.tensor(1.0 + dist.get_rank()), mesh, [Partial()]))
        model.check(f"a loss in parts, {execution}")


def memory_that_is_exchanged(mesh: Any) -> None:
    for execution in EXECUTIONS:
        model = Model(mesh, RULES["adamw"](), execution)
        for n in range(4):
            if n == 2:
                for p in model.shards.values():
                    old = p._local_tensor  # type: ignore[attr-defined]
                    p._local_tensor = old.clone()  # type: ignore[attr-defined]  # as FSDP2 does it
                    old.detach().fill_(math.nan)
            model.step(n)
            model.check(f"other memory, {execution}, step {n}")


def main() -> None:
    rank, file = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=RANKS)
    mesh = dist.device_mesh.init_device_mesh("cpu", (RANKS,))
    same_bits(mesh)
    what_is_not_finite_in_one_shard_holds_all(mesh)
    a_loss_of_which_each_rank_has_a_part(mesh)
    memory_that_is_exchanged(mesh)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
