"""Being asked to end: SIGTERM, or Ctrl-C, lets a run come to the end of its update and save."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupts:
    """Whether the process was asked to end, while this context lasts.

        with Interrupts() as interrupts:
            while not interrupts.requested: ...

    A Ctrl-C after that is a KeyboardInterrupt at once.  A signal that the process ignores stays ignored, such as Ctrl-C
    in what a script has put in the background.  Outside of the main thread Python has no signals, and nothing changes.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            heeded = [which for which in _SIGNALS if signal.getsignal(which) != signal.SIG_IGN]
            self._before = {which: signal.signal(which, self._note) for which in heeded}
        return self

    def __exit__(self, *_: Any) -> None:
        for which, handler in self._before.items():
            signal.signal(which, signal.SIG_DFL if handler is None else handler)

    def _note(self, which: int, frame: FrameType | None) -> None:
        if self.requested and which == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
