"""Lookahead: k steps forward, one step back."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.trace import Array, LeafScalar, Static
from trainfn.verbs import where


class Slow(NamedTuple):
    """slow: the slow weights, shaped like p; ahead: how many updates the fast ones are ahead of them."""

    slow: Array
    ahead: LeafScalar

    @staticmethod
    def init(p: Any) -> Slow:
        return Slow(p, 0.0)  # type: ignore[arg-type]

    @staticmethod
    def eval_params(state: Slow, p: Any) -> Any:
        return state.slow


@rule
def lookahead(
    inner: Any,
    step: Any,
    state: Slow,
    g: Any,
    p: Any,
    *,
    k: Any = 5.0,
    alpha: Any = 0.5,
    from_first_sync: Static[bool] = False,
) -> Any:
    """Lookahead (Zhang et al., arXiv:1907.08610v2, Algorithm 1): the inner rule makes the fast weights p.

        every k updates:  slow <- slow + alpha (p - slow);  p <- slow

    The slow weights start as the parameter before the first update, as in the paper and optax; `from_first_sync`, as in
    timm, with the fast ones after k updates.  The inner rule's state stays as it is; k may be a schedule.  p gets the
    difference to slow as an update, so it may be off by a rounding; slow is not.
    """
    ahead = state.ahead + 1  # torch's count of updates stops at 2^24, and to be due must not stop with it
    is_due = ahead >= k
    u = inner(g)
    fast = p + u
    slow = state.slow + alpha * (fast - state.slow)
    if from_first_sync:
        slow = where(ahead > step, fast, slow)  # every update so far
    return where(is_due, slow - p, u), Slow(where(is_due, slow, state.slow), where(is_due, 0.0, ahead))
