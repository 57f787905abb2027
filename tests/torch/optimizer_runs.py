"""A small model with prescribed gradients, and the reference beside it: what the optimizer's tests share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

import trainfn as tf
from tests.bits import assert_same_bits
from tests.inputs import numbers
from trainfn import reference
from trainfn_torch.names import Names

SHAPES = {"weight": (3, 5), "bias": (5,), "scale": ()}
EXECUTIONS = ("single", "foreach", "fused")


def parameters(key: int = 1, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, torch.nn.Parameter]:
    return {
        name: torch.nn.Parameter(torch.from_numpy(numbers(key + i, shape)))
        for i, (name, shape) in enumerate(shapes.items())
    }


def give_gradients(params: Mapping[str, torch.Tensor], key: int, only: Iterable[str] | None = None) -> None:
    """A gradient for every parameter, or for some and none for the others."""
    for i, (name, p) in enumerate(params.items()):
        chosen = only is None or name in only
        p.grad = torch.from_numpy(numbers(100 * key + i, tuple(p.shape))).to(p) if chosen else None


class Reference:
    """numpy's run of the same rule on the same numbers; leaves without a gradient rest."""

    def __init__(self, rule: tf.Rule, params: Mapping[str, torch.Tensor]) -> None:
        self.rule = rule
        self.params = {name: p.detach().numpy().copy() for name, p in params.items()}
        self.state = reference.init(rule, self.params)

    def step(self, params: Mapping[str, torch.Tensor], **extras: float) -> None:
        taken = {name: self.params[name] for name, p in params.items() if p.grad is not None}
        grads = {name: p.grad.numpy() for name, p in params.items() if p.grad is not None}
        s = self.state
        part = reference.State(s.count, s.model, {k: s.steps[k] for k in taken}, {k: s.leaves[k] for k in taken})
        updates, part = reference.update(self.rule, part, grads, taken, **extras)
        self.state = reference.State(
            part.count, {**s.model, **part.model}, {**s.steps, **part.steps}, {**s.leaves, **part.leaves}
        )
        for name, u in updates.items():
            self.params[name] = np.asarray(reference.load(self.params[name] + u))

    def check(self, optimizer: Any, params: Mapping[str, torch.Tensor], context: str = "") -> None:
        """Parameters, states and counters have the reference's bits."""
        names = Names(self.rule).state
        assert float(optimizer.param_groups[0]["updates"]) == self.state.count, context
        for name, p in params.items():
            assert_same_bits({"p": self.params[name]}, {"p": p.detach().numpy()}, f"{context} {name}")
            state = optimizer.state.get(p, {})
            if state:
                assert float(state["step"]) == self.state.steps[name], f"{context} {name}"
                expected = {k: np.asarray(x, np.float32) for k, x in self.state.leaves[name].items()}
                assert_same_bits(expected, {k: state[names[k]].numpy() for k in expected}, f"{context} {name}")


def snapshot(optimizer: Any) -> dict[str, Any]:
    """Everything an update may change, as numbers."""
    flat: dict[str, Any] = {}
    for i, group in enumerate(optimizer.param_groups):
        for k, v in group.items():
            if k not in ("params", "param_names", "name"):
                flat[f"{i}/{k}"] = v.numpy().copy() if isinstance(v, torch.Tensor) else np.array(v, np.float64)
        for j, p in enumerate(group["params"]):
            flat[f"{i}/{j}/p"] = p.detach().numpy().copy()
            flat |= {f"{i}/{j}/{k}": x.numpy().copy() for k, x in optimizer.state.get(p, {}).items()}
    return flat
