"""Freezing: leaves that do not learn, or not yet."""

from __future__ import annotations

from typing import Any, NamedTuple

from trainfn.rule import rule
from trainfn.schedules.schedule import schedule
from trainfn.trace import LeafScalar
from trainfn.verbs import where, zeros_like


@rule
def frozen(g: Any) -> Any:
    """No update: for leaves that never learn, as in partition({"embed*": frozen()}, otherwise=adamw())."""
    return zeros_like(g)


@schedule
def updates(step: Any) -> Any:
    """The count of updates applied to the model before this one."""
    return step


class Learnt(NamedTuple):
    """t: updates of this leaf since it learns."""

    t: LeafScalar


@rule
def unfreeze(inner: Any, state: Learnt, g: Any, *, start: Any, now: Any = updates()) -> Any:  # noqa: B008 - frozen
    """The inner rule from the model's update `start` on, counted from 0; before it nothing of the leaf changes.

        unfreeze(adamw(lr=1e-4), start=by_leaf({"head*": 0, "blocks.1.*": 500, "blocks.0.*": 1000}))

    is gradual unfreezing (Howard & Ruder, arXiv:1801.06146v5, section 3.3).  The inner rule's `step` counts from there
    on, so that its moments are debiased as of a leaf that is new; schedules go by the model.
    """
    learns = now >= start
    u = inner(g, step=state.t, when=learns)
    return u, Learnt(state.t + where(learns, 1.0, 0.0))
