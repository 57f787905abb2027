"""The learning rate that a log shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trainfn.rule import Rule, resolve
from trainfn.schedules.schedule import Schedule
from trainfn.trace import Leaf


def learning_rates(rule: Rule, shapes: Mapping[str, tuple[int, ...]]) -> Callable[[int], float | None]:
    """A function from the count of updates to the largest learning rate of these leaves; None where a rule has none."""
    if "lr" not in rule.hyper:
        return lambda updates: None
    of_leaves = (resolve(rule, Leaf(name, shape))["lr"] for name, shape in shapes.items())
    rates = list({repr(lr): lr for lr in of_leaves}.values())

    def largest(updates: int) -> float | None:
        return max((float(lr(updates)) if isinstance(lr, Schedule) else float(lr) for lr in rates), default=None)

    return largest
