"""The loop: batch after batch through an engine, with what stands around it: log, evaluation, checkpoints, stopping.

It is thin, and the same for every framework: an engine, torch's or JAX's, makes updates and says what it measured.
Everything in between (metrics, monitor, checkpoints, stopping) can be used without it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trainfn.machine import Machine
from trainfn.training.checkpoints import Checkpoint, Checkpoints
from trainfn.training.counters import Counters
from trainfn.training.interrupts import Interrupts
from trainfn.training.metrics import Record, Sink, Sinks
from trainfn.training.monitor import Monitor
from trainfn.training.recipe import Recipe, changed
from trainfn.training.sinks.jsonl import JSONL
from trainfn.training.sources import Source

Numbers = Mapping[str, float]


class Engine(Protocol):
    """What a framework does for the loop.

    update: one update from the parts of batch n; is_logged says whether `read` follows.
    read: begin to fetch the numbers of the batches since it was last called, and the norms of each leaf's gradient, in
        the model's order, of the last batch; what it returns is called to wait for them.
    applied: updates so far; learning_rate: the largest of a leaf, after so many.
    evaluate: numbers of the model as it is to be evaluated.
    save, load: everything that an update depends on or changes, as arrays by file and name, and as JSON.
    rank, ranks: which of the processes that train together this is; rank 0 writes.  agree: whether a flag is true on
        any of them.
    """

    rank: int
    ranks: int
    learning_rate: Callable[[int], float | None]

    def update(self, n: int, parts: Sequence[Any], is_logged: bool) -> None: ...
    def read(self) -> Callable[[], tuple[Numbers, Numbers]]: ...
    def applied(self) -> int: ...
    def evaluate(self) -> Numbers: ...
    def save(self) -> tuple[dict[str, Any], dict[str, Any]]: ...
    def load(self, arrays: Mapping[str, Any], numbers: Mapping[str, Any]) -> None: ...
    def agree(self, flag: bool) -> bool: ...


@dataclass(frozen=True)
class Every:
    """How often things happen, in batches; None is never.

    log: numbers are fetched from the device and written.  evaluate, save: also at the end.
    """

    log: int = 10
    evaluate: int | None = None
    save: int | None = None

    def __post_init__(self) -> None:
        for name in ("log", "evaluate", "save"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"Every: {name} = {value!r} must be a whole number of batches, at least 1, or None.")


@dataclass(frozen=True)
class Stopping:
    """When a run ends before its updates are made.

    metric: of the evaluation, such as "eval/loss"; rule: an `early_stopping` machine that is given it.
    restore_best: whether the model is at the end, however it came, the one whose metric was best.
    skips: so many batches in a row whose update was skipped are an error.
    """

    metric: str = "eval/loss"
    rule: Machine | None = None
    restore_best: bool = False
    skips: int = 50


@dataclass
class Result:
    """reason: why the run ended, "updates", "stopped" or "interrupted"; numbers: the last of each metric; best: that of
    the metric which stopping looks at, and the batch after which it was measured."""

    reason: str
    updates: int
    counters: Counters
    numbers: dict[str, float] = field(default_factory=dict)
    best: tuple[float, int] | None = None


class Loop:
    """A run of an engine on a source of batches."""

    def __init__(
        self,
        engine: Engine,
        source: Source,
        recipe: Recipe,
        *,
        directory: Path | None,
        sinks: Sequence[Sink],
        every: Every,
        stopping: Stopping,
        keep_last: int = 3,
        keep_best: int = 1,
    ) -> None:
        if stopping.rule is not None and every.evaluate is None:
            raise ValueError("stopping looks at the evaluation, and there is none: say Every(evaluate=...) how often.")
        self.engine, self.source, self.recipe = engine, source, recipe
        self.every, self.stopping = every, stopping
        self.directory, self._given, self._keep = directory, sinks, (keep_last, keep_best)
        self.counters, self.monitor = Counters(), Monitor()
        self.numbers: dict[str, float] = {}
        self.best: tuple[float, int] | None = None
        self._best_arrays: Any = None
        self._state = None if stopping.rule is None else stopping.rule.init()
        self._pending: Callable[[], None] | None = None
        self._clock, self._seen_skips = (0.0, 0), 0.0
        self._has_stopped = False
        self._saved: int | None = None  # the batch after which the last checkpoint was begun
        self._evaluated: int | None = None

    def run(self) -> Result:
        """Go on from the directory's last checkpoint, if there is one, until the end."""
        with ExitStack() as stack:
            interrupts = stack.enter_context(Interrupts())
            self.checkpoints = None if self.directory is None else stack.enter_context(self._open_checkpoints())
            self.engine.agree(False)  # until rank 0 has come here all it wrote before may not be on the disk
            self._resume()
            self.engine.agree(False)  # nor does it remove anything before all have read
            self.sinks = Sinks(self._own_sinks() if self.engine.rank == 0 else [])
            stack.callback(self.sinks.close)
            self.sinks.open({**self.recipe.description(), "batches": self.counters.attempts})
            reason = self._train(interrupts)
            self._flush()
            if reason != "interrupted":
                self._evaluate()
            self._save_at_the_end()
            if self.stopping.restore_best:
                self._restore_best()
            return Result(reason, self.engine.applied(), self.counters, self.numbers, self.best)

    # -- batches -------------------------------------------------------------------------------------------------------

    def _train(self, interrupts: Interrupts) -> str:
        goal, self._clock = 0, (time.perf_counter(), self.counters.samples)
        while not self._has_stopped:
            n = self.counters.attempts
            if n >= goal:  # the host learns only here how many of the batches' updates were applied
                goal = n + self.recipe.updates - self.engine.applied()
                if n >= goal:
                    return "updates"
            is_logged = n == 0 or _is_due(self.every.log, n + 1)
            batch = self.source.batch(n)
            self.engine.update(n, batch.parts, is_logged)
            self.counters.count(len(batch.parts), batch.samples)
            if is_logged:
                self._log()
            if _is_due(self.every.evaluate, n + 1):
                self._evaluate()
            if _is_due(self.every.save, n + 1) and self._saved != n + 1:
                self._save()
            if (self.engine.ranks == 1 or is_logged) and self.engine.agree(interrupts.requested):
                return "interrupted"
        return "stopped"

    # -- numbers -------------------------------------------------------------------------------------------------------

    def _log(self) -> None:
        """Ask for the numbers of now, and write those that were asked for before, which are there by now."""
        step, fetch = self.counters.attempts, self.engine.read()
        now, samples = time.perf_counter(), self.counters.samples
        seconds, taken = now - self._clock[0], samples - self._clock[1]
        self._clock = now, samples
        speed = {"time/samples_per_second": taken / seconds if seconds else math.nan}
        self._flush()
        self._pending = lambda: self._write(step, *fetch(), speed)
        if step == 1:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending()

    def _write(self, step: int, numbers: Numbers, layers: Numbers, speed: Numbers) -> None:
        lr = self.engine.learning_rate(int(numbers["train/updates"]))
        values = {**numbers, **({} if lr is None else {"train/lr": lr}), **speed}
        self.numbers |= values
        self.sinks.write(Record(step, {**values, **{f"grad_norm/{leaf}": norm for leaf, norm in layers.items()}}))
        loss = values["train/loss"]
        if step == 1 and not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss of the first batch is {loss}: look at the data (NaN, infinite, labels out of range), at the "
                "model's initial parameters, and at loss_fn (a logarithm or a division by 0); nothing was updated."
            )
        skipped = values["train/skipped"] - self._seen_skips
        self._seen_skips = values["train/skipped"]
        warnings = self.monitor.observe(step, loss, layers)
        if skipped:
            warnings = [self._skips(int(skipped), values), *warnings]
        for warning in warnings:
            self.sinks.write(Record(step, {}, warning))
        if values["train/skipped_in_a_row"] >= self.stopping.skips:
            self._save_at_the_end()
            raise FloatingPointError(
                f"the updates of the last {values['train/skipped_in_a_row']:.0f} batches were skipped, because their "
                f"gradients were not finite or their weight was 0; the loss is {loss}. Lower the learning rate, clip, "
                "or look at the data of these batches. The state before them is kept."
            )

    def _skips(self, skipped: int, values: Numbers) -> str:
        scale = f"; the loss scale is {values['train/loss_scale']:g}" if "train/loss_scale" in values else ""
        rate = values["train/skipped"] / self.counters.attempts
        return (
            f"{skipped} updates were skipped since the last log, {values['train/skipped']:.0f} in all ({rate:.1%} of "
            f"batches): their gradients were not finite, or their weight was 0{scale}."
        )

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        """Evaluate, and find out whether it is time to stop; not twice after the same batch."""
        if self.every.evaluate is None or self._evaluated == self.counters.attempts:
            return
        self._evaluated = self.counters.attempts
        self._flush()
        step = self.counters.attempts
        numbers = self.engine.evaluate()
        self.numbers |= numbers
        self.sinks.write(Record(step, dict(numbers)))
        name, rule = self.stopping.metric, self.stopping.rule
        if name not in numbers:
            known = ", ".join(numbers) or "nothing"
            raise KeyError(f"stopping looks at {name!r}, and the evaluation gave {known}: Stopping(metric=...).")
        is_better = self._is_better(numbers[name])
        if is_better:
            self.best = numbers[name], step
            if self.stopping.restore_best and self.checkpoints is None:
                self._best_arrays = self.engine.save()
        if rule is not None:
            self._state, value = rule(self._state, numbers[name])
            self._has_stopped = bool(value)
        if is_better or self._has_stopped:
            self._save(numbers[name])

    def _is_better(self, metric: float) -> bool:
        if math.isnan(metric):
            return False
        sign = -1 if self._mode == "max" else 1
        return self.best is None or sign * metric < sign * self.best[0]

    @property
    def _mode(self) -> str:
        return "min" if self.stopping.rule is None else str(self.stopping.rule.parameters["mode"])

    def _restore_best(self) -> None:
        self.engine.agree(False)  # when rank 0 has written it
        if self.best is None:
            return
        if self.checkpoints is not None:
            best = self.checkpoints.best()
            self.engine.load(best.arrays, best.numbers["engine"])
        else:
            self.engine.load(*self._best_arrays)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _open_checkpoints(self) -> Checkpoints:
        assert self.directory is not None
        last, best = self._keep
        place, only_reads = self.directory / "checkpoints", self.engine.rank > 0
        return Checkpoints(place, keep_last=last, keep_best=best, mode=self._mode, only_reads=only_reads)

    def _own_sinks(self) -> list[Sink]:
        """Those that were given, behind the record of truth."""
        if self.directory is None:
            return [*self._given]
        return [JSONL(self.directory / "metrics.jsonl", resume_at=self.counters.attempts), *self._given]

    def _save_at_the_end(self) -> None:
        if self._saved != self.counters.attempts:
            self._save()
        if self.checkpoints is not None:
            self.checkpoints.wait()

    def _save(self, metric: float | None = None) -> None:
        if self.checkpoints is None:
            return
        self._flush()
        arrays, engine = self.engine.save()  # of all ranks together, which must all come here
        self._saved = self.counters.attempts
        if self.engine.rank > 0:
            return
        numbers = {
            "recipe": self.recipe.description(),
            "engine": engine,
            "counters": self.counters.saved(),
            "monitor": self.monitor.state(),
            "stopping": None if self._state is None else [float(x) for x in self._state],
            "stopped": repr(self.stopping.rule) if self._has_stopped else None,
            "evaluated": self._evaluated,
            "best": self.best,
            "skipped": self._seen_skips,
        }
        made = Checkpoint(self.counters.attempts, arrays, numbers)
        try:
            self.checkpoints.save(made, metric)
        except OSError as error:  # with an earlier one; there may be room again
            self.sinks.write(Record(self.counters.attempts, {}, f"{error}. The training goes on."))
            self.checkpoints.save(made, metric)

    def _resume(self) -> None:
        if self.checkpoints is None or not self.checkpoints.steps():
            return
        saved = self.checkpoints.load()
        differences = changed(saved.numbers["recipe"], self.recipe.description())
        if differences:
            raise ValueError(
                f"{self.directory} holds a run of another recipe: {'; '.join(differences)}. Take another directory, or "
                "the recipe of that run."
            )
        self.engine.load(saved.arrays, saved.numbers["engine"])
        self.counters.load(saved.numbers["counters"])
        self.monitor.load(saved.numbers["monitor"])
        if self.stopping.rule is not None and saved.numbers["stopping"] is not None:
            self._state = self.stopping.rule.state(*saved.numbers["stopping"])
        self._has_stopped = saved.numbers["stopped"] == repr(self.stopping.rule)  # with other numbers it goes on
        self._evaluated = saved.numbers["evaluated"]
        self.best = None if saved.numbers["best"] is None else tuple(saved.numbers["best"])
        self._seen_skips, self._saved = saved.numbers["skipped"], saved.step


def _is_due(every: int | None, n: int) -> bool:
    return every is not None and n % every == 0
