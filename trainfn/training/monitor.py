"""Watching a run: what its loss and gradients do, and warnings that say what is wrong, where, and what helps.

    monitor = Monitor()
    for warning in monitor.observe(step, loss, {"0.weight": 0.3, "0.bias": 0.1}):
        print(warning)

It sees numbers that are logged anyway, so it costs the device nothing.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_FEW = 20  # below so many losses nothing is usual yet
_AGAIN = 8  # norms in a row that are faint
_LONGEST = 8  # windows that a plateau is looked for in
_LAGS = 6  # an oscillation comes back within twice as many observations

Found = Iterable[tuple[str, str]]


class Monitor:
    """Takes the loss and the norms of leaves' gradients now and then, and answers with warnings.

    window: how many of the last observations are looked at.  Of each kind of warning there is at most one in a window.

    - spike: a loss above the window's median by more than 10 median absolute deviations, a tenth of the median and a
      hundredth of the first loss; the ratio is what counts where all losses are positive.
    - oscillation: the window's losses, less their line, are 0.6 anticorrelated with those up to 6 observations before,
      and their standard deviation is above 0.15 of the median; independent noise in 50 losses hardly gets there.
    - plateau: the mean of 1, 2, 4 or 8 windows is less than a 500th below that of as many before, even if it is wrong
      by two standard errors, which are below a hundredth: of a loss that is mostly noise nothing is said.  Once,
      until it is a hundredth better.
    - explosion: a layer's gradient norm is 100 times the median of its own last ones, and above its first.
    - vanishing: for 8 observations a layer's norm is below a millionth of the largest layer's; or all are below 1e-12
      while the loss is above a thousandth of the first.
    - what is not finite, at once.

    A layer is the leaves whose names differ in their last part only, `0.weight` and `0.bias`, so that a bias whose
    gradient is 0 by rights, before a normalisation, is no alarm.  Layers and leaves are named in the order given.
    """

    def __init__(self, window: int = 50) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < 20:
            raise ValueError(f"Monitor: window = {window!r} must be a whole number of observations, at least 20.")
        self.window = window
        self._losses: deque[tuple[int, float]] = deque(maxlen=window)
        self._norms: dict[str, deque[float]] = {}
        self._first: float | None = None
        self._first_norms: dict[str, float] = {}
        self._blocks: deque[tuple[int, float, float]] = deque(maxlen=2 * _LONGEST)  # first step, mean, variance
        self._plateau: float | None = None
        self._warned: dict[str, int] = {}
        self._seen = 0

    def observe(self, step: int, loss: float, norms: Mapping[str, float] | None = None) -> list[str]:
        """Warnings about the losses and gradient norms so far, the last of which these are."""
        self._seen += 1
        layers = _by_layer(norms or {})
        found = [*self._not_finite(loss, norms or {}), *self._spike(loss), *self._explosion(layers)]
        self._remember(step, loss, layers)
        found += [*self._oscillation(), *self._no_progress(), *self._vanishing(layers)]
        due = [kind for kind, _ in found if self._seen - self._warned.get(kind, -self.window) >= self.window]
        self._warned |= dict.fromkeys(due, self._seen)
        return [text for kind, text in found if kind in due]

    def summary(self) -> dict[str, float]:
        """mean and std of the window's losses, their trend (the slope of a line, per batch), and how much less than the
        first the mean is, as a share of the first."""
        if not self._losses:
            return {}
        steps, losses = self._window()
        mean = float(losses.mean())
        improvement = (self._first - mean) / abs(self._first) if self._first else 0.0
        return {"mean": mean, "std": float(losses.std()), "trend": _slope(steps, losses), "improvement": improvement}

    def state(self) -> dict[str, Any]:
        """All that it remembers, for JSON."""
        return {
            "losses": [list(pair) for pair in self._losses],
            "norms": {name: list(some) for name, some in self._norms.items()},
            "first": self._first,
            "first_norms": dict(self._first_norms),
            "blocks": [list(block) for block in self._blocks],
            "plateau": self._plateau,
            "warned": dict(self._warned),
            "seen": self._seen,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what another one remembered."""
        self._losses = deque(((int(n), float(x)) for n, x in state["losses"]), maxlen=self.window)
        self._norms = {name: deque(some, maxlen=self.window) for name, some in state["norms"].items()}
        self._first, self._first_norms = state["first"], dict(state["first_norms"])
        self._blocks = deque(((int(n), mean, variance) for n, mean, variance in state["blocks"]), 2 * _LONGEST)
        self._plateau = state["plateau"]
        self._warned, self._seen = dict(state["warned"]), state["seen"]

    # -- what is wrong -------------------------------------------------------------------------------------------------

    def _not_finite(self, loss: float, norms: Mapping[str, float]) -> Found:
        if not math.isfinite(loss):
            yield "loss", f"the loss is {loss}: lower the learning rate, or look for bad values in these batches."
        bad = next((name for name, x in norms.items() if not math.isfinite(x)), None)
        if bad is not None:
            yield (
                "gradient",
                f"the gradient of {bad} is not finite, the first of the model's leaves: look at what it is given, and "
                "at divisions, roots and logarithms behind it.",
            )

    def _spike(self, loss: float) -> Found:
        if len(self._losses) < _FEW or not math.isfinite(loss) or self._first is None:
            return
        _, losses = self._window()
        usual = float(np.median(losses))
        if loss - usual <= abs(self._first) / 100:
            return
        if losses.min() > 0:
            x, past, least = math.log(loss), np.log(losses), math.log(1.1)
        else:
            x, past, least = loss, losses, abs(usual) / 10
        median = float(np.median(past))
        if x - median > max(10 * float(np.median(np.abs(past - median))), least):
            yield (
                "spike",
                f"the loss rose to {loss:.4g}, from {usual:.4g} in the median of the last {len(losses)}: if it does "
                "not fall back by itself, clip gradients by their global norm or lower the learning rate; if it comes "
                "again with the same samples, look at these.",
            )

    def _oscillation(self) -> Found:
        if len(self._losses) < self.window:
            return
        steps, losses = self._window()
        usual = abs(float(np.median(losses)))
        rest = losses - losses.mean() - _slope(steps, losses) * (steps - steps.mean())
        if rest.std() > 0.15 * usual and min(_correlation(rest, lag) for lag in range(1, _LAGS + 1)) < -0.6:
            yield (
                "oscillation",
                f"the loss swings around {np.median(losses):.4g}, by {rest.std():.2g}: lower the learning rate or the "
                "momentum, take larger batches, and shuffle data that come in an order of their own.",
            )

    def _no_progress(self) -> Found:
        if self._seen % self.window or len(self._losses) < self.window:
            return
        steps, losses = self._window()
        self._blocks.append((int(steps[0]), float(losses.mean()), float(losses.var())))
        for k in (1, 2, 4, _LONGEST):
            if len(self._blocks) < 2 * k:
                return
            first, means, variances = (np.array(column) for column in zip(*list(self._blocks)[-2 * k :], strict=True))
            before, now = float(means[:k].mean()), float(means[k:].mean())
            error = math.sqrt(variances.sum() / self.window) / k  # of their difference
            if self._plateau is not None and now < self._plateau - abs(self._plateau) / 100:
                self._plateau = None
            if self._plateau is None and before - now + 2 * error < abs(now) / 500 and 2 * error < abs(now) / 100:
                self._plateau = now
                yield (
                    "plateau",
                    f"the loss does not fall: its mean is {now:.4g} since batch {first[k]}, and was {before:.4g} since "
                    f"batch {first[0]}. The run has converged, or its learning rate is too high (lower it) or too low "
                    "(raise it) for more.",
                )

    def _explosion(self, layers: Mapping[str, float]) -> Found:
        for name, norm in layers.items():
            past = self._norms.get(name, ())
            usual = float(np.median(past)) if len(past) >= _AGAIN else 0.0
            if math.isfinite(norm) and usual > 0 and norm > max(100 * usual, self._first_norms[name]):
                yield (
                    "explosion",
                    f"the gradient of {name} has norm {norm:.3g}, {norm / usual:.0f} times its usual one: clip "
                    "gradients by their global norm, or lower the learning rate.",
                )
                return  # layers before and behind it explode with it

    def _vanishing(self, layers: Mapping[str, float]) -> Found:
        last = {name: max(itertools.islice(reversed(self._norms[name]), _AGAIN)) for name in self._full(layers)}
        if not last or not self._losses or self._first is None:
            return
        largest = max(last.values())
        faint = [name for name, x in last.items() if x < largest / 1e6]
        if largest < 1e-12:
            if self._losses[-1][1] > abs(self._first) / 1000:
                yield (
                    "vanishing",
                    f"no gradient is above {largest:.2g}: look whether the loss depends on the parameters at all, "
                    "whether its inputs are saturated, and in float16 at the loss scale.",
                )
        elif faint:
            yield (
                "vanishing",
                f"almost no gradient reaches {faint[0]}{_and_others(faint)}: look at saturated activations and dead "
                "units behind it, at the initialisation, and whether it is used at all.",
            )

    # -- what it remembers ---------------------------------------------------------------------------------------------

    def _remember(self, step: int, loss: float, layers: Mapping[str, float]) -> None:
        if math.isfinite(loss):
            self._first = float(loss) if self._first is None else self._first
            self._losses.append((int(step), float(loss)))
        for name, norm in layers.items():
            if math.isfinite(norm):
                self._first_norms.setdefault(name, norm)
                self._norms.setdefault(name, deque(maxlen=self.window)).append(norm)

    def _window(self) -> tuple[Any, Any]:
        steps, losses = zip(*self._losses, strict=True)
        return np.array(steps, np.float64), np.array(losses)

    def _full(self, layers: Mapping[str, float]) -> list[str]:
        """The layers of which there are enough norms."""
        return [name for name in layers if len(self._norms.get(name, ())) >= _AGAIN]


def _by_layer(norms: Mapping[str, float]) -> dict[str, float]:
    """The norm of each layer's gradient: that of the leaves whose names have all but the last part in common."""
    layers: dict[str, float] = {}
    for name, x in norms.items():
        layer = re.sub(r"[./][^./]*$", "", name)
        layers[layer] = math.hypot(layers.get(layer, 0.0), x)
    return layers


def _slope(steps: Any, losses: Any) -> float:
    """Of the line that fits best."""
    away = steps - steps.mean()
    return float(away @ (losses - losses.mean()) / (away @ away)) if away.any() else 0.0


def _correlation(x: Any, lag: int) -> float:
    """Of what has mean 0 with itself, so many places before."""
    return float(x[lag:] @ x[:-lag] / (x @ x))


def _and_others(names: list[str]) -> str:
    return "" if len(names) == 1 else f" and {len(names) - 1} others"
