"""Running a rule through the fused execution alone, without an optimizer, as `tests.executions` does for others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

import trainfn as tf
from tests.executions import Arrays, Trajectory, extras
from trainfn import random, reference
from trainfn.rule import resolve
from trainfn_torch import fused
from trainfn_torch.leaf import Batch, LeafUpdate

Arrange = Callable[[torch.Tensor], torch.Tensor]


def as_tensor(x: Any) -> torch.Tensor:
    """A numpy array as a tensor of its own, bfloat16 included."""
    x = np.array(x)
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def as_array(x: torch.Tensor, like: Any) -> np.ndarray[Any, Any]:
    """A tensor's numbers in the dtype of a numpy array."""
    x = x.detach().cpu().contiguous().clone()
    if x.dtype is torch.bfloat16:
        return x.view(torch.int16).numpy().view(np.asarray(like).dtype)
    return x.numpy()


class Model:
    """A rule's parameters and state as tensors, laid out by `arrange`, and steps on them.

    steps: updates each leaf has seen already, by name.
    """

    def __init__(
        self, rule: tf.Rule, params: Arrays, arrange: Arrange = torch.Tensor.clone, device: str = "cpu"
    ) -> None:
        self.rule, self.params, self.device = rule, params, device
        self.initial = reference.init(rule, params)
        self.tensors = {name: arrange(as_tensor(p)).to(device) for name, p in params.items()}
        self.shared = self._scalars(self.initial.model)
        self.count = torch.tensor(0.0, device=device)
        self._mappings: dict[int, dict[str, Any]] = {}
        self.leaves = {name: self._leaf(name, arrange) for name in params}
        self.batch = Batch(list(self.leaves.values()))

    def _scalars(self, values: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Scalars as they are stored: pairs as one tensor."""
        stored: dict[str, torch.Tensor] = {}
        for name, x in values.items():
            if name.endswith(".high"):
                low = values[name.removesuffix(".high") + ".low"]
                stored[name.removesuffix(".high")] = torch.tensor([x, low], dtype=torch.float32, device=self.device)
            elif not name.endswith(".low"):
                stored[name] = torch.tensor(x, dtype=torch.float32, device=self.device)
        return stored

    def _leaf(self, name: str, arrange: Arrange) -> LeafUpdate:
        state = self.initial.leaves[name]
        arrays = {k: arrange(as_tensor(x)).to(self.device) for k, x in state.items() if isinstance(x, np.ndarray)}
        scalars = self._scalars({k: x for k, x in state.items() if not isinstance(x, np.ndarray)})
        p = self.tensors[name]
        shape = np.shape(self.params[name])
        return LeafUpdate(
            program=self.rule.program(tf.Leaf(name, shape)),
            p=p,
            g=p,
            state={**arrays, **scalars, **self.shared},
            step=torch.tensor(0.0, device=self.device),
            hyper={},
            model=frozenset(self.shared),
        )

    def hyperparameters(self, name: str, **extras: Any) -> dict[str, Any]:
        leaf = tf.Leaf(name, np.shape(self.params[name]))
        values = resolve(self.rule, leaf)
        stream = {"stream.leaf": float(random.stream(name))} if self.rule.program(leaf).is_random else {}
        return {k: float(v(float(self.count)) if callable(v) else v) for k, v in values.items()} | stream | extras

    def step(self, grads: Mapping[str, Any], arrange: Arrange = torch.Tensor.clone, **extras: Any) -> bool:
        """One update; gradients are numpy arrays or tensors."""
        groups: dict[tuple[Any, ...], dict[str, Any]] = {}
        for name, leaf in self.leaves.items():
            hyper = self.hyperparameters(name, **extras)
            key = tuple(hyper[n] for n in hyper if n not in extras)
            if key not in groups:  # leaves with equal numbers share a mapping, which stays the same object
                groups[key] = self._mappings.setdefault(len(groups), {})
                groups[key].clear()
                groups[key].update(hyper)
            if leaf.hyper is not groups[key]:
                self.leaves[name] = leaf = replace(leaf, hyper=groups[key])
            g = grads[name]
            leaf.g = g if isinstance(g, torch.Tensor) else arrange(as_tensor(g)).to(self.device)
        leaves = list(self.leaves.values())
        if not all(x is y for x, y in zip_longest(leaves, self.batch.leaves)):
            self.batch = Batch(leaves)
        return bool(fused.step(self.batch, self.count))

    def snapshot(self) -> dict[str, Any]:
        """What `tests.executions` compares."""
        flat: dict[str, Any] = {"count": np.int64(self.count)}
        flat |= self._numbers(self.shared)
        for name, leaf in self.leaves.items():
            p = self.params[name]
            flat[f"{name}/p"] = as_array(leaf.p, p)
            flat[f"{name}/step"] = np.int64(leaf.step)
            own = {k: x for k, x in leaf.state.items() if k not in self.shared}
            arrays = {k: x for k, x in own.items() if isinstance(self.initial.leaves[name].get(k), np.ndarray)}
            flat |= {f"{name}/{k}": as_array(x, p) for k, x in arrays.items()}
            flat |= {f"{name}/{k}": x for k, x in self._numbers({k: own[k] for k in own.keys() - arrays}).items()}
        return flat

    def _numbers(self, scalars: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, x in scalars.items():
            numbers = x.reshape(-1).tolist()
            keys = [name] if len(numbers) == 1 else [f"{name}.high", f"{name}.low"]
            flat |= {key: np.float32(number) for key, number in zip(keys, numbers, strict=True)}
        return flat


def run_fused(
    rule: tf.Rule, params: Arrays, grads: Sequence[Arrays], arrange: Arrange = torch.Tensor.clone, device: str = "cpu"
) -> Trajectory:
    """The fused execution."""
    model = Model(rule, params, arrange, device)
    trajectory = []
    for n, g in enumerate(grads):
        model.step(g, arrange, **extras(rule, n))
        trajectory.append(model.snapshot())
    return trajectory
