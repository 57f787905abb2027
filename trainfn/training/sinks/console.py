"""What is seen in the terminal while a run goes on: a bar with the numbers of now, and events above it."""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from trainfn.extras import load
from trainfn.training.metrics import Record, Sink

_REDRAW = 0.2  # seconds, at least, between two drawings of new numbers, and between two of new events
_SHOWN = {
    "train/loss": "loss {:.4g}",
    "train/lr": "lr {:.3g}",
    "train/grad_norm": "gradient norm {:.3g}",
    "train/loss_scale": "loss scale {:g}",
}


class Console(Sink):
    """Draws a bar that lives (needs rich), or where the output is no terminal prints plain lines.

    live: None is as the output is.  The bar is drawn when records come, ten times a second at most, and by no thread.
    seconds: a plain line comes at most so often; events, evaluations and the last numbers always do.
    """

    def __init__(self, *, live: bool | None = None, seconds: float = 5.0) -> None:
        is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.live = is_terminal if live is None else live
        if self.live:
            load("rich", "train", "for a live bar, and Console(live=False) prints lines without it")
        self._between = _REDRAW if self.live else seconds
        self._drawn = self._said = -math.inf
        self._total: int | None = None
        self._values: dict[str, float] = {}
        self._step = 0
        self._times: deque[tuple[float, float]] = deque(maxlen=20)
        self._events: list[str] = []
        self._is_due = False
        self._screen: Any = None

    def open(self, run: Mapping[str, Any]) -> None:
        self._total = run.get("updates")
        if self.live:
            console = load("rich.console", "train", "for a live bar").Console(highlight=False)
            self._screen = load("rich.live", "train", "for a live bar").Live(
                self._bar(), console=console, auto_refresh=False
            )
            self._screen.start()

    def write(self, record: Record) -> None:
        self._step = record.step
        self._values |= record.values
        if record.event:
            self._events.append(f"batch {record.step}: {record.event}")
        if record.values:
            self._is_due = True
            self._times.append((time.monotonic(), self._done()))
        now = time.monotonic()
        is_rare = not self.live and any(name.startswith("eval/") for name in record.values)
        if self._is_due and (is_rare or now - self._drawn >= self._between):
            self._draw()
        elif not self.live or now - self._said >= _REDRAW:
            self._say()

    def close(self) -> None:
        if self._is_due or self._events:
            self._draw()
        if self._screen is not None:
            self._screen.stop()
            self._screen = None

    # -- drawing -------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        if self._screen is not None:
            self._screen.update(self._bar())
            if not self._say():
                self._screen.refresh()
        else:
            self._say()
            if self._is_due:
                print("  ".join([self._progress(), *self._numbers()]), flush=True)
        self._is_due = False
        self._drawn = time.monotonic()

    def _say(self) -> bool:
        """Print the events that wait, above the bar, which is drawn with them; whether there were any."""
        events, self._events = self._events, []
        if not events:
            return False
        self._said = time.monotonic()
        text = "\n".join(events)
        if self._screen is not None:
            self._screen.console.print(load("rich.text", "train", "for a live bar").Text(text, style="yellow"))
        else:
            print(text, flush=True)
        return True

    def _bar(self) -> Any:
        table = load("rich.table", "train", "for a live bar").Table.grid(padding=(0, 1), expand=True)
        cells: list[Any] = [self._progress()]
        if self._total:
            table.add_column(no_wrap=True)
            table.add_column(ratio=1)
            bar = load("rich.progress_bar", "train", "for a live bar")
            cells.append(bar.ProgressBar(total=self._total, completed=self._done()))
        table.add_row(*cells)
        numbers = load("rich.text", "train", "for a live bar").Text("  ".join(self._numbers()), style="cyan")
        return load("rich.console", "train", "for a live bar").Group(table, numbers)

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _done(self) -> float:
        return self._values.get("train/updates", self._step)

    def _progress(self) -> str:
        if not self._total:
            return f"{self._done():.0f} updates"
        left = self._left()
        return f"{self._done():.0f}/{self._total} updates" + ("" if left is None else f", {_duration(left)} left")

    def _left(self) -> float | None:
        """Seconds until the end, at the speed of the last records; None where that is not known, or at the end."""
        if self._total is None or len(self._times) < 2:
            return None
        (then, before), (now, done) = self._times[0], self._times[-1]
        return (self._total - done) * (now - then) / (done - before) if self._total > done > before else None

    def _numbers(self) -> Iterator[str]:
        for name, form in _SHOWN.items():
            if name in self._values:
                yield form.format(self._values[name])
        if self._values.get("train/skipped"):
            yield f"{self._values['train/skipped']:.0f} skipped"
        if "time/samples_per_second" in self._values:
            speed = self._values["time/samples_per_second"]
            yield f"{speed:,.0f} samples/s" if speed >= 10 else f"{speed:.2g} samples/s"
        for name, x in self._values.items():
            if name.startswith("eval/"):
                yield f"{name} {x:.4g}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
