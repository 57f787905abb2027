"""What every execution is handed: one parameter with its gradient, state and hyperparameters, as tensors.

An execution is a module (`fused`, `foreach`, `single`) with two functions.

`accepts(leaf)` says whether it takes this parameter with its state.  It is asked when a `LeafUpdate` is made, not at
every step; gradients of another layout or dtype than the first one must be coped with.

`step(batch, updates)` carries the update of a `Batch` out in place: parameters, states, step counters and `updates`,
the 0-d float32 count of updates applied to the model (None where another execution advances it), behind autograd's back
only if it tells autograd.  It returns whether the update was applied: a bool, or a 0-d bool tensor where only a device
knows.  Where the program has an output `applied`, nothing changes unless it holds for every leaf; where it has one
`counted`, no counter does.  State of the model
is one tensor shared by all leaves: each leaf's program computes the same number for it.  Leaves that need each other
(`is_coupled`) are handed over together.  While nothing but gradients and numbers changes, every step hands over the
same list of the same objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from trainfn.program import Program, Sort


@dataclass(eq=False)
class LeafUpdate:
    """One parameter's part of an optimizer step, to be carried out in place.

    The object lives as long as its parameter's state does not change hands: `g` is exchanged at every step, `hyper` is
    changed in place; whatever else is exchanged comes with a new `LeafUpdate`, so that what an execution derived from
    one may be kept with it.

    program: the traced rule for this leaf, not lowered, with outputs `p`, `state.*` and perhaps `applied`; equal
        programs of one optimizer are one object.
    p, g: parameter and gradient, real dtypes (complex ones as views), g never written.
    state: the rule's state by core name (`m`, `v`): arrays, and 0-d float32 tensors (2 elements for pairs).
    step: 0-d float32 tensor, updates applied to this leaf.
    hyper: every scalar input of the program but `step` and the counts (hyperparameters, `value`, `grad_scale`,
        `found_inf`), as Python floats or 0-d tensors.  Leaves of one group share one mapping object.
    model: names in `state` that belong to the whole model.
    shapes: of those arrays in `state` that are not shaped like p.
    age: leaves of equal age have been updated together since their steps were equal, so that an execution that cannot
        read `step` without waiting for a device knows which steps are equal.
    """

    program: Program
    p: torch.Tensor
    g: torch.Tensor
    state: dict[str, torch.Tensor]
    step: torch.Tensor
    hyper: Mapping[str, Any]
    model: frozenset[str] = frozenset()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    age: int = 0

    def is_array(self, name: str) -> bool:
        """Whether a field of the state has one number per parameter."""
        index = self.program.output.get(f"state.{name}")
        return index is not None and self.program.nodes[index].sort is Sort.ARRAY

    @property
    def is_coupled(self) -> bool:
        """Whether the leaves of the model need each other, and must be handed to one execution together."""
        return bool(self.model or self.program.scopes or {"applied", "counted"} & self.program.output.keys())


@dataclass(eq=False)
class Batch:
    """Leaves that one execution updates together, step after step.

    kept: what the execution derived from them, which goes when the batch goes.
    """

    leaves: Sequence[LeafUpdate]
    kept: Any = None


class Reshaped(ValueError):
    """A leaf's tensors are of several shapes; nothing has been written."""

    def __init__(self, leaf: LeafUpdate, name: str, x: torch.Tensor) -> None:
        super().__init__(f"its shape is {tuple(leaf.p.shape)}, and its {name} has shape {tuple(x.shape)}")
        self.leaf = leaf


def check_shapes(leaves: Sequence[LeafUpdate]) -> None:
    """Raise if a parameter was given another shape than its gradient or state has."""
    for leaf in leaves:
        shape = leaf.p.shape
        if leaf.g.shape != shape:
            raise Reshaped(leaf, "gradient", leaf.g)
        for name, x in leaf.state.items():
            if x.shape != leaf.shapes.get(name, shape) and leaf.is_array(name):
                raise Reshaped(leaf, f"state {name}", x)
