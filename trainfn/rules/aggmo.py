"""AggMo: several momenta at once, the slow ones damped by the fast."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, Static, TraceError
from trainfn.verbs import zeros_like


class Velocities(NamedTuple):
    """v0 to v4: a decaying sum of gradients for each of the betas, shaped like p; absent for one that is 0."""

    v0: Array | None
    v1: Array | None
    v2: Array | None
    v3: Array | None
    v4: Array | None

    @staticmethod
    def init(p: Any, betas: tuple[float, ...]) -> Velocities:
        return _velocities(zeros_like(p) if b else None for b in betas)


@rule
def aggmo(state: Velocities, g: Any, *, lr: Any = 1e-2, betas: Static[tuple[float, ...]] = (0.0, 0.9, 0.99)) -> Any:
    """AggMo, aggregated momentum (Lucas et al., arXiv:1804.00325v3), of K <= 5 betas.

        v_i <- beta_i v_i + g
        p <- p - lr / K (v_1 + ... + v_K)

    The default betas are the paper's, 1 - 0.1^i.  That of 0, whose v is g, keeps no state.
    """
    if not 1 <= len(betas) <= len(Velocities._fields) or not all(0 <= b < 1 for b in betas):
        raise TraceError(f"betas = {betas} must be one to {len(Velocities._fields)} numbers in [0, 1).")
    sums: tuple[Any, ...] = state
    kept = [b * v + g if b else None for b, v in zip(betas, sums, strict=False)]
    first, *rest = (g if v is None else v for v in kept)
    return -(lr / len(betas)) * sum(rest, first), _velocities(kept)


def _velocities(kept: Any) -> Velocities:
    return Velocities(*(*kept, None, None, None, None, None)[: len(Velocities._fields)])
