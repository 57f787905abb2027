"""What every execution is handed: one parameter with its gradient, state and hyperparameters, as tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from trainfn.program import Program


@dataclass
class LeafUpdate:
    """One parameter's part of an optimizer step, to be carried out in place.

    program: the traced rule for this leaf, not lowered, with outputs `p`, `state.*` and perhaps `applied`.
    p, g: parameter and gradient, real dtypes (complex ones as views), g never written.
    state: the rule's state by core name (`m`, `v`): arrays, and 0-d float32 tensors (2 elements for pairs).
    step: 0-d float32 tensor, updates applied to this leaf.
    hyper: every scalar input of the program but `step` and the counts (hyperparameters, `value`, `grad_scale`,
        `found_inf`), as Python floats or 0-d tensors.  Leaves of one group share one mapping object.
    """

    program: Program
    p: torch.Tensor
    g: torch.Tensor
    state: dict[str, torch.Tensor]
    step: torch.Tensor
    hyper: Mapping[str, Any]
