"""One line of the results table."""

from __future__ import annotations

from benchmarks.pairs import Ratio


def ratio_row(what: str, against: str, ratio: Ratio, target: float, note: str = "") -> dict[str, str]:
    """A ratio that has to stay at or below its target with the upper end of its interval."""
    verdict = "met" if ratio.high <= target else ("met at the median" if ratio.median <= target else "missed")
    return row(what, against, f"{ratio}{note}", f"{target:.2f}x", verdict)


def row(what: str, against: str, measured: str, target: str, verdict: str) -> dict[str, str]:
    return {"what": what, "against": against, "measured": measured, "target": target, "verdict": verdict}
