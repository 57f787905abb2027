"""What is seen in a terminal, and where the output is none."""

from __future__ import annotations

import re
import sys

import pytest

from trainfn.training.metrics import Record
from trainfn.training.sinks import console as module
from trainfn.training.sinks.console import Console

Captured = pytest.CaptureFixture[str]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Clock:
    """A terminal as rich sees one."""
    pytest.importorskip("rich")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return clock


def numbers(n: int, **more: float) -> Record:
    named = {f"train/{name}": x for name, x in more.items()}
    return Record(n, {"train/loss": 10.0 / n, "train/lr": 1e-3, "train/updates": float(n), **named})


def test_plain_lines_come_now_and_then_and_at_the_end(clock: Clock, capsys: Captured) -> None:
    console = Console(seconds=5.0)
    assert not console.live
    console.open({"updates": 100})
    for n in range(1, 101):
        clock.now += 0.125
        console.write(numbers(n, grad_norm=0.5))
    console.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "1/100 updates  loss 10  lr 0.001  gradient norm 0.5",
        "41/100 updates, 0:07 left  loss 0.2439  lr 0.001  gradient norm 0.5",
        "81/100 updates, 0:02 left  loss 0.1235  lr 0.001  gradient norm 0.5",
        "100/100 updates  loss 0.1  lr 0.001  gradient norm 0.5",
    ]


def test_events_and_evaluations_are_never_held_back(clock: Clock, capsys: Captured) -> None:
    console = Console()
    console.open({})
    console.write(numbers(1))
    console.write(Record(2, event="the loss rose"))
    console.write(Record(3, numbers(3, skipped=2.0).values | {"time/samples_per_second": 12345.6}))
    console.write(Record(3, {"eval/accuracy": 0.5}))
    assert capsys.readouterr().out.splitlines() == [
        "1 updates  loss 10  lr 0.001",
        "batch 2: the loss rose",
        "3 updates  loss 3.333  lr 0.001  2 skipped  12,346 samples/s  eval/accuracy 0.5",
    ]


def test_the_time_that_is_left_leaves_out_the_first_record_s_and_those_long_ago(clock: Clock) -> None:
    console = Console(live=False)
    console.open({"updates": 20_000})
    for n in range(1, 101):
        clock.now += 3600.0 if n == 1 else 0.1 if n < 50 else 1.0
        console.write(numbers(n))
    assert console._left() == pytest.approx(19_900.0)
    assert module._duration(19_900.0) == "5:31:40"


def drawings(text: str) -> int:
    """How often the bar was drawn."""
    return len(re.findall(r"\d+/\d+ updates", text))


def test_the_bar_is_drawn_at_most_ten_times_a_second(terminal: Clock, capsys: Captured) -> None:
    console = Console(live=True)
    console.open({"updates": 4000})
    for n in range(1, 4001):
        terminal.now += 1 / 1024
        console.write(numbers(n))
        console.write(Record(n, event=f"event {n}."))
    console.close()
    out = capsys.readouterr().out
    assert 20 <= drawings(out) <= 10 * 4 + 4
    assert all(f"event {n}." in out for n in range(1, 4001)), "no event is lost"
    assert "4000/4000 updates" in out, "the last numbers are drawn"


def test_an_event_is_seen_at_once_beside_the_numbers_of_its_batch(terminal: Clock, capsys: Captured) -> None:
    console = Console(live=True)
    console.open({"updates": 100})
    terminal.now += 60.0
    console.write(numbers(10))
    terminal.now += 0.001
    console.write(Record(10, event="[red] is no markup"))
    out = capsys.readouterr().out
    assert "batch 10: [red] is no markup" in out
    console.close()


def test_what_is_printed_meanwhile_stands_above_the_bar(terminal: Clock, capsys: Captured) -> None:
    console = Console(live=True)
    console.open({"updates": 100})
    console.write(numbers(10))
    print("printed by the model")
    console.close()
    print("afterwards")
    out = capsys.readouterr().out
    before, _, after = out.partition("printed by the model")
    assert drawings(before) >= 1
    assert drawings(after) >= 1
    assert out.endswith("afterwards\n")


def test_a_run_of_unknown_length_has_no_bar(terminal: Clock, capsys: Captured) -> None:
    console = Console(live=True)
    console.open({})
    console.write(numbers(10))
    console.close()
    assert "10 updates" in capsys.readouterr().out


def test_without_rich_there_are_lines(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ModuleNotFoundError, match=r"rich is needed .* Console\(live=False\).*trainfn\[train\]"):
        Console(live=True)
    console = Console()
    console.open({})
    console.write(numbers(10))
    assert capsys.readouterr().out == "10 updates  loss 1  lr 0.001\n"
