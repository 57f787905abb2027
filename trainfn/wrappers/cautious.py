"""Updates that wait where momentum and gradient disagree."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.trace import Static
from trainfn.verbs import full_like, leaf_sum, maximum, where


@rule
def cautious(inner: Any, g: Any, *, min_share: Any = 1e-3, plus_one: Static[bool] = False) -> Any:
    """The inner rule's update where it goes against the gradient, 0 elsewhere (Liang et al., arXiv:2411.16085v4).

    What is left is divided by its share of the leaf's elements, at least `min_share`, as in the authors' code and timm.
    With `plus_one` it is multiplied by size / (number left + 1): the paper's formula, and pytorch_optimizer's.
    Weight decay is put outside: chain(cautious(adam()), decoupled_weight_decay()).
    """
    u = inner(g)
    agrees = ((u < 0) & (g > 0)) | ((u > 0) & (g < 0))  # a product might underflow
    left = leaf_sum(where(agrees, 1.0, 0.0))
    size = leaf_sum(full_like(g, 1.0))  # of all shards
    factor = size / (left + 1) if plus_one else 1 / maximum(left / size, min_share)
    return where(agrees, factor * u, 0.0)
