"""Trust ratios: updates as long as the parameters they move, layer by layer."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.verbs import leaf_norm, maximum, where


@rule
def trust_ratio(g: Any, p: Any, *, min_norm: Any = 0.0, trust_coefficient: Any = 1.0, eps: Any = 0.0) -> Any:
    """g trust_coefficient |p| / (|g| + eps), norms being of this leaf and at least min_norm.

    The factor is 1 where either norm is 0: parameters that start at zero would otherwise stay there.
    You et al., arXiv:1708.03888v3, eq. 6, which put it before momentum; arXiv:1904.00962v5 after it.
    """
    size, length = maximum(leaf_norm(p), min_norm), maximum(leaf_norm(g), min_norm)
    return g * where((size <= 0) | (length <= 0), 1.0, trust_coefficient * size / (length + eps))
