"""Weights & Biases, on its server or offline, and what has the same functions, such as trackio."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainfn.extras import load
from trainfn.training.metrics import Record, Sink, histogram


class WandB(Sink):
    """A run of `module.init(project=..., config=..., **options)`.

        WandB("digits", mode="offline", dir="runs")     # nothing is sent; later: wandb sync
        WandB("digits", id="a1", resume="allow")        # a run that goes on is the same there
        WandB("digits", module="trackio")

    Values are drawn over `batches`, one of them, because W&B drops what comes with a lower step than the last, as it
    does when a run goes on from a checkpoint.  Events are values of that name.  Keep a JSONL file beside it: it fills
    this sink again where W&B lost something.

    module: "wandb", or one with its functions.  trackio's were read, and this class was not run with it, because it
    asks for other versions of packages than tensorboard does.
    """

    def __init__(self, project: str, *, module: str = "wandb", **options: Any) -> None:
        self.project, self._options = project, options
        self._module = load(module, module.partition(".")[0], "for this sink")
        self._run: Any = None

    def open(self, run: Mapping[str, Any]) -> None:
        self._run = self._module.init(project=self.project, config=dict(run), **self._options)
        if hasattr(self._run, "define_metric"):
            self._run.define_metric("batches", hidden=True)
            self._run.define_metric("*", step_metric="batches")

    def write(self, record: Record) -> None:
        values = {name: float(x) for name, x in record.values.items()}
        self._log(record.step, {**values, **({"event": record.event} if record.event else {})})

    def histograms(self, step: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        counted = {name: histogram(array) for name, array in arrays.items()}
        make = self._module.Histogram
        self._log(step, {name: make(np_histogram=some) for name, some in counted.items() if some is not None})

    def save_file(self, path: str | os.PathLike[str]) -> None:
        """Keep a file with the run, such as a model's, as it is now."""
        self._opened()
        if not hasattr(self._run, "save"):  # trackio has a function only, which copies
            self._module.save(os.fspath(path))
            return
        # wandb makes a link, which leads nowhere when a checkpoint is gone before it was sent
        copy = Path(self._run.dir) / Path(path).name
        shutil.copyfile(path, copy)
        self._run.save(str(copy), base_path=self._run.dir, policy="now")

    def close(self) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            run.finish()

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        self._opened()
        if values:
            self._run.log({"batches": int(step), **values})

    def _opened(self) -> None:
        if self._run is None:
            self.open({})
