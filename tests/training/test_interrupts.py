"""Being asked to end, by real signals to a real process, and what is in place again afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainfn.training.interrupts import Interrupts

# Says how it comes out of a loop that ends when it is asked to; "stubborn" does not end, only says that it was asked.
PROGRAM = """
import signal, sys, time
from trainfn.training.interrupts import Interrupts

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with Interrupts() as interrupts:
        print("ready", flush=True)
        while not interrupts.requested:
            time.sleep(0.001)
        print("asked", flush=True)
        time.sleep(20 if "stubborn" in sys.argv else 0)
except KeyboardInterrupt:
    print("broken off", flush=True)
print("ended", flush=True)
"""


class Process:
    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, which: signal.Signals) -> None:
        self._process.send_signal(which)

    def rest(self) -> list[str]:
        lines = self._process.communicate(timeout=30)[0].split("\n")
        assert self._process.returncode == 0
        return lines[:-1]


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_loop_end(which: signal.Signals) -> None:
    process = Process()
    process.ask(which)
    assert process.rest() == ["asked", "ended"]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_after_a_signal_breaks_off(first: signal.Signals) -> None:
    process = Process("stubborn")
    process.ask(first)
    assert process.line() == "asked"
    process.ask(signal.SIGTERM)  # asks once more for what is under way
    process.ask(signal.SIGINT)
    assert process.rest() == ["broken off", "ended"]


SIGNALS = (signal.SIGTERM, signal.SIGINT)
HANDLERS = (signal.SIG_DFL, signal.default_int_handler)


@pytest.fixture
def _signals_of_a_program() -> Iterator[None]:
    """Whatever runs the tests may ignore them."""
    before = [signal.signal(which, handler) for which, handler in zip(SIGNALS, HANDLERS, strict=True)]
    yield
    for which, handler in zip(SIGNALS, before, strict=True):
        signal.signal(which, handler)


@pytest.mark.usefixtures("_signals_of_a_program")
def test_handlers_are_put_back() -> None:
    with Interrupts() as outer:
        with Interrupts() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner.requested
            assert not outer.requested
        signal.raise_signal(signal.SIGINT)
        assert outer.requested
    assert [signal.getsignal(which) for which in SIGNALS] == list(HANDLERS)
    with pytest.raises(KeyboardInterrupt), Interrupts():
        _ = signal.raise_signal(signal.SIGTERM), signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(which) for which in SIGNALS] == list(HANDLERS)


@pytest.mark.usefixtures("_signals_of_a_program")
def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert not interrupts.requested
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.requested
    assert [signal.getsignal(which) for which in SIGNALS] == [signal.SIG_DFL, signal.SIG_IGN]


@pytest.mark.usefixtures("_signals_of_a_program")
def test_other_threads_change_nothing() -> None:
    seen = []

    def run() -> None:
        with Interrupts() as interrupts:
            seen.append([signal.getsignal(which) for which in SIGNALS])
            assert not interrupts.requested

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [[signal.getsignal(which) for which in SIGNALS]] == [list(HANDLERS)]
