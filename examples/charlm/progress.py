"""What is seen in the terminal: live with `rich`, where it is installed and there is one; else plain lines."""

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

from .results import Check
from .run import OnUpdate

try:
    import rich.console
    import rich.progress
    from rich.markup import escape
except ImportError:
    rich = None  # type: ignore[assignment]

PLAIN_LINES = 8  # how often a plain log mentions a run


class PlainTerminal:
    def heading(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def line(self, text: str) -> None:
        print(f"  {text}", flush=True)

    def check(self, check: Check) -> None:
        self.line(f"{'equal' if check.passed else 'NOT EQUAL'}  {check.name}: {check.detail}")

    def sample(self, name: str, text: str) -> None:
        self.line(name)
        print(textwrap.indent(text, "    | ", lambda line: True), flush=True)

    def failure(self, text: str) -> None:
        bar = "!" * 100
        print(f"\n{bar}\n{text}\n{bar}", file=sys.stderr, flush=True)

    @contextmanager
    def training(self, name: str, total: int) -> Iterator[OnUpdate]:
        every = max(1, total // PLAIN_LINES)

        def on_update(step: int, loss: float) -> None:
            if (step + 1) % every == 0 or step == 0:
                self.line(f"{name:8} update {step + 1:4d}/{total}   loss {loss:.4f}")

        yield on_update


class RichTerminal(PlainTerminal):
    def __init__(self, console: "rich.console.Console") -> None:
        self.console = console

    def heading(self, text: str) -> None:
        self.console.print(f"\n[bold]{escape(text)}[/]")

    def line(self, text: str) -> None:
        self.console.print(f"  {text}", highlight=False, markup=False)

    def check(self, check: Check) -> None:
        mark = "[bold green]equal[/]" if check.passed else "[bold white on red] NOT EQUAL [/]"
        self.console.print(f"  {mark}  {escape(check.name)}: {escape(check.detail)}", highlight=False)

    @contextmanager
    def training(self, name: str, total: int) -> Iterator[OnUpdate]:
        columns = [
            rich.progress.TextColumn(f"  {name:8}"),
            rich.progress.BarColumn(bar_width=30),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[loss]} [cyan]{task.fields[curve]}"),
            rich.progress.TimeElapsedColumn(),
        ]
        losses: list[float] = []
        with rich.progress.Progress(*columns, console=self.console, refresh_per_second=5) as progress:
            task = progress.add_task(name, total=total, loss="starting", curve="")

            def on_update(step: int, loss: float) -> None:
                losses.append(loss)
                progress.update(task, completed=step + 1, loss=f"loss {loss:.4f}", curve=sparkline(losses))

            yield on_update


def sparkline(values: list[float], width: int = 24) -> str:
    """The whole history in one line of text, the newest value at the right."""
    marks = "▁▂▃▄▅▆▇█"
    step = max(1, -(-len(values) // width))
    means = [sum(values[i : i + step]) / len(values[i : i + step]) for i in range(0, len(values), step)]
    low, high = min(means), max(means)
    scale = (len(marks) - 1) / (high - low) if high > low else 0.0
    return "".join(marks[round((mean - low) * scale)] for mean in means)


def terminal() -> PlainTerminal:
    if rich is not None:
        console = rich.console.Console()
        if console.is_terminal:
            return RichTerminal(console)
    return PlainTerminal()
