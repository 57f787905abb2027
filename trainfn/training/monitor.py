"""Watching a run: what its loss and gradients do, and warnings that say what is wrong, where, and what helps."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

_SPIKE, _EXPLODES, _VANISHES = 6.0, 100.0, 1e-8


class Monitor:
    """Takes the loss and the norms of leaves' gradients now and then, and answers with warnings.

    window: how many of the last losses are looked at.  Of each kind of warning there is at most one in a window.

    A spike is a loss above the window's median by more than 6 median absolute deviations and a tenth of it.  A loss
    oscillates if in a full window nearly every change goes against the last and the changes are larger than a fifth
    of its median.  A gradient explodes if its norm is 100 times the median of its own last ones, or not finite; it
    vanishes if it is below 1e-8 of the largest layer's.
    """

    def __init__(self, window: int = 20) -> None:
        if window < 8:
            raise ValueError(f"Monitor: window = {window} must be at least 8 losses.")
        self.window = window
        self._losses: deque[tuple[int, float]] = deque(maxlen=window)
        self._norms: dict[str, deque[float]] = {}
        self._first: float | None = None
        self._warned: dict[str, int] = {}
        self._seen = 0

    def observe(self, step: int, loss: float, norms: Mapping[str, float] | None = None) -> list[str]:
        """Warnings about the losses and gradient norms so far, the last of which these are."""
        self._seen += 1
        found = [*self._of_loss(loss), *self._of_gradients(norms or {})]
        if math.isfinite(loss):
            self._first = loss if self._first is None else self._first
            self._losses.append((step, loss))
        for name, norm in (norms or {}).items():
            if math.isfinite(norm):
                self._norms.setdefault(name, deque(maxlen=self.window)).append(norm)
        due = [kind for kind, _ in found if self._seen - self._warned.get(kind, -self.window) >= self.window]
        self._warned |= dict.fromkeys(due, self._seen)
        return [text for kind, text in found if kind in due]

    def summary(self) -> dict[str, float]:
        """mean and std of the window's losses, their trend (the slope of a line, per batch), and how much less than the
        first the mean is, as a share of the first."""
        losses = [x for _, x in self._losses]
        if not losses:
            return {}
        mean = statistics.fmean(losses)
        improvement = (self._first - mean) / abs(self._first) if self._first else 0.0
        return {"mean": mean, "std": statistics.pstdev(losses), "trend": self._trend(), "improvement": improvement}

    def state(self) -> dict[str, Any]:
        """All that it remembers, for JSON."""
        norms = {name: list(some) for name, some in self._norms.items()}
        return {
            "losses": list(self._losses),
            "norms": norms,
            "first": self._first,
            "warned": self._warned,
            "seen": self._seen,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self._losses = deque(((int(n), float(x)) for n, x in state["losses"]), maxlen=self.window)
        self._norms = {name: deque(some, maxlen=self.window) for name, some in state["norms"].items()}
        self._first, self._warned, self._seen = state["first"], dict(state["warned"]), state["seen"]

    # -- what is wrong -------------------------------------------------------------------------------------------------

    def _of_loss(self, loss: float) -> Iterable[tuple[str, str]]:
        losses = [x for _, x in self._losses]
        if not math.isfinite(loss):
            yield "loss", f"the loss is {loss}: lower the learning rate, or look for bad values in these batches."
        elif len(losses) >= 8:
            median = statistics.median(losses)
            deviation = statistics.median(abs(x - median) for x in losses)
            if loss - median > max(_SPIKE * deviation, 0.1 * abs(median)):
                yield (
                    "spike",
                    f"the loss rose to {loss:.4g}, from {median:.4g} in the median of the last {len(losses)}: if it "
                    "does not fall back by itself, clip gradients by their global norm or lower the learning rate.",
                )
            if self._oscillates([*losses[1:], loss]):
                yield (
                    "oscillation",
                    f"the loss swings around {median:.4g} without settling: lower the learning rate, or take larger "
                    "batches.",
                )

    def _oscillates(self, losses: list[float]) -> bool:
        changes = [b - a for a, b in itertools.pairwise(losses)]
        turns = sum(a * b < 0 for a, b in itertools.pairwise(changes))
        size = statistics.median(map(abs, changes))
        is_full = len(losses) >= self.window
        return is_full and turns >= 0.9 * (len(changes) - 1) and size > 0.2 * abs(statistics.median(losses))

    def _of_gradients(self, norms: Mapping[str, float]) -> Iterable[tuple[str, str]]:
        bad = next((name for name, x in norms.items() if not math.isfinite(x)), None)
        if bad is not None:
            yield (
                "gradient",
                f"the gradient of {bad} is not finite, the first of the model's layers: look at what it is given, and "
                "at divisions, roots and logarithms behind it.",
            )
        for name, norm in norms.items():
            past = self._norms.get(name, ())
            usual = statistics.median(past) if len(past) >= 8 else math.inf
            if math.isfinite(norm) and 0 < usual < norm / _EXPLODES:
                yield (
                    "explosion",
                    f"the gradient of {name} has norm {norm:.3g}, {norm / usual:.0f} times its usual one: clip "
                    "gradients by their global norm, or lower the learning rate.",
                )
                break
        largest = max((x for x in norms.values() if math.isfinite(x)), default=0.0)
        faint = [name for name, x in norms.items() if x < _VANISHES * largest]
        if faint:
            yield (
                "vanishing",
                f"almost no gradient reaches {faint[0]}{_and_others(faint)}: look at saturated activations and dead "
                "units behind it, at the initialisation, and whether it is used at all.",
            )

    def _trend(self) -> float:
        steps, losses = [n for n, _ in self._losses], [x for _, x in self._losses]
        return statistics.linear_regression(steps, losses).slope if len(set(steps)) > 1 else 0.0


def _and_others(names: list[str]) -> str:
    return "" if len(names) == 1 else f" and {len(names) - 1} others"
