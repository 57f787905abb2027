"""What a run has done so far, as counts that go into its checkpoints."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class Counters:
    """attempts: batches taken, whether their update was applied or skipped; micro_batches: backward passes; samples: in
    all of these.  How many updates were applied and skipped the optimizer's state knows, which may be on a device."""

    attempts: int = 0
    micro_batches: int = 0
    samples: int = 0

    def count(self, parts: int, samples: int) -> None:
        """Another batch of so many parts and samples."""
        self.attempts += 1
        self.micro_batches += parts
        self.samples += samples

    def saved(self) -> dict[str, int]:
        return asdict(self)

    def load(self, saved: dict[str, Any]) -> None:
        for f in fields(self):
            setattr(self, f.name, int(saved[f.name]))
