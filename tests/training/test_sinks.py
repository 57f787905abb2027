"""What sinks write, and what is there after a failure, a crash, and when the run goes on."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import time
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainfn.convert import BFLOAT16
from trainfn.training.metrics import Record, Sink, Sinks, histogram
from trainfn.training.sinks.csv import CSV
from trainfn.training.sinks.jsonl import JSONL, read, replay
from trainfn.training.sinks.tensorboard import TensorBoard
from trainfn.training.sinks.wandb import WandB

RUN = {"updates": 40, "rule": "adamw(lr=0.001)", "batches": 0}
RECORDS = (
    Record(10, {"train/loss": 2.5, "train/lr": 1e-3}),
    Record(10, event='the loss rose, "far"\nand fell'),
    Record(20, {"train/loss": math.nan, "train/lr": 0.1 + 0.2}),
    Record(20, {"eval/loss": math.inf}),
    Record(30, {"train/loss": -math.inf, "train/lr": 5e-324}),
)


class Noting(Sink):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def open(self, run: Mapping[str, Any]) -> None:
        self.told.append(("open", dict(run)))

    def write(self, record: Record) -> None:
        self.told.append(record)

    def histograms(self, step: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self.told.append((step, *arrays))

    def close(self) -> None:
        self.told.append("close")


class Failing(Noting):
    """Fails where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def __getattribute__(self, name: str) -> Any:
        def fail(*_: Any) -> None:
            raise OSError("no space left on device")

        return fail if name == object.__getattribute__(self, "where") else object.__getattribute__(self, name)


def told(sink: Sink, records: tuple[Record, ...] = RECORDS, run: Mapping[str, Any] = RUN) -> None:
    sink.open(run)
    for record in records:
        sink.write(record)
    sink.close()


def same(a: Record, b: Record) -> bool:
    return repr(a) == repr(b)  # NaN is NaN


# -- several ----------------------------------------------------------------------------------------------------------


def test_all_sinks_are_told_all() -> None:
    one, other = Noting(), Noting()
    sinks = Sinks([one, other])
    sinks.open(RUN)
    sinks.write(RECORDS[0])
    sinks.histograms(10, {"weight": np.ones(3)})
    sinks.close()
    assert one.told == other.told == [("open", RUN), RECORDS[0], (10, "weight"), "close"]


@pytest.mark.parametrize("where", ["open", "write", "histograms", "close"])
def test_a_sink_that_fails_warns_once_and_the_others_go_on(where: str) -> None:
    bad, good = Failing(where), Noting()
    sinks = Sinks([bad, good])

    def tell_all() -> None:
        sinks.histograms(0, {"weight": np.ones(3)})
        told(sinks)
        told(sinks)

    with pytest.warns(UserWarning, match=r"Failing failed with OSError: no space left on device.*replay") as warned:
        tell_all()
    assert len(warned) == 1
    assert len(good.told) == 2 * len(RECORDS) + 5
    if where in ("open", "write"):
        before = [(0, "weight"), ("open", RUN)][: 1 + (where == "write")]
        assert bad.told == [*before, "close"], "it is closed, and told no more"


def test_where_warnings_are_errors_the_others_have_the_record() -> None:
    good = Noting()
    sinks = Sinks([Failing("write"), good])
    with pytest.raises(UserWarning, match="Failing failed"):
        sinks.write(RECORDS[0])
    assert good.told == [RECORDS[0]]


def test_an_interrupt_is_no_failure() -> None:
    class Interrupted(Sink):
        def write(self, record: Record) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Sinks([Interrupted()]).write(RECORDS[0])


@pytest.mark.parametrize("name", ["step", "event", "run"])
def test_names_that_files_have_for_something_else(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is no name for a value.*train/{name}"):
        Record(1, {name: 2.0})


def test_histograms_leave_out_what_is_not_finite() -> None:
    counts, edges = histogram(np.array([[0.0, 1.0], [np.nan, np.inf]], np.float32), bins=2) or ((), ())
    assert list(counts) == [1, 1]
    assert list(edges) == [0.0, 0.5, 1.0]
    assert histogram(np.array([np.nan])) is None
    assert histogram(np.array([], np.float32)) is None
    one_and_two = np.array([0x3F80, 0x4000], np.uint16).view(BFLOAT16)
    assert [edges[0], edges[-1]] == [0.0, 1.0]
    counts, edges = histogram(one_and_two) or ((), ())
    assert [edges[0], edges[-1]] == [1.0, 2.0]
    assert sum(counts) == 2


# -- JSON lines -------------------------------------------------------------------------------------------------------


def test_json_lines_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    told(JSONL(path))
    run = read(path)
    assert run.run == RUN
    assert [same(a, b) for a, b in zip(run.records, RECORDS, strict=True)] == [True] * len(RECORDS)
    assert run.series("train/lr") == ([10, 20, 30], [1e-3, 0.1 + 0.2, 5e-324])
    assert run.names() == ["train/loss", "train/lr", "eval/loss"]
    assert "NaN" in path.read_text()


def test_numbers_of_other_kinds_are_written_as_floats(tmp_path: Path) -> None:
    values: Any = {"a": np.float32(0.1), "b": np.float64(0.1), "c": 3, "d": np.array(2.0), "e": True}
    sink = JSONL(tmp_path / "m")
    sink.open({"path": tmp_path, "rate": 1})
    sink.write(Record(np.int64(4), values))  # type: ignore[arg-type]
    sink.close()
    (record,) = read(tmp_path / "m").records
    assert record == Record(4, {"a": float(np.float32(0.1)), "b": 0.1, "c": 3.0, "d": 2.0, "e": 1.0})


@pytest.mark.parametrize("told_by", ["argument", "open"])
def test_a_run_that_goes_on_drops_what_came_after_its_checkpoint(tmp_path: Path, told_by: str) -> None:
    path = tmp_path / "m"
    told(JSONL(path))
    sink = JSONL(path, resume_at=20) if told_by == "argument" else JSONL(path)
    told(sink, (Record(30, {"train/loss": 1.0}),), {**RUN, "batches": 20})
    records = read(path).records
    assert [r.step for r in records] == [10, 10, 20, 20, 30]
    assert records[-1].values == {"train/loss": 1.0}
    assert read(path).run["batches"] == 20


def test_each_cut_of_a_file_is_read_without_its_last_line(tmp_path: Path) -> None:
    """As a crash of the machine may leave it."""
    path = tmp_path / "m"
    told(JSONL(path))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        lines = whole[:size].count(b"\n")
        assert len(read(path).records) == max(lines - 1, 0)
        if size % 37 == 0:
            JSONL(path).close()
            assert path.read_bytes() == whole[: whole[:size].rfind(b"\n") + 1]


def test_zeros_that_a_crash_left_are_a_line_that_was_not_written(tmp_path: Path) -> None:
    path = tmp_path / "m"
    told(JSONL(path))
    path.write_bytes(path.read_bytes() + bytes(300))
    assert len(read(path).records) == len(RECORDS)


@pytest.mark.parametrize("line", ["no json\n", "[1, 2]\n", '{"stop": 3}\n', '{"step": "3"}\n'])
def test_what_jsonl_did_not_write_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "m"
    told(JSONL(path))
    before = path.read_text() + line + '{"step": 40}\n'
    path.write_text(before)
    with pytest.raises(ValueError, match=r"line 7 of .*m is not one that JSONL wrote"):
        read(path)
    with pytest.raises(ValueError, match="line 7"):
        JSONL(path, resume_at=10)
    assert path.read_text() == before


def test_lines_survive_a_process_that_is_killed(tmp_path: Path) -> None:
    program = """
import os, signal, sys
from trainfn.training.metrics import Record
from trainfn.training.sinks.jsonl import JSONL
sink = JSONL(sys.argv[1])
sink.open({"updates": 2})
sink.write(Record(1, {"train/loss": 2.0}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path / "m")], check=False)
    assert run.returncode < 0
    assert read(tmp_path / "m").records == (Record(1, {"train/loss": 2.0}),)


def test_a_replay_says_what_the_run_said(tmp_path: Path) -> None:
    told(JSONL(tmp_path / "m"))
    sink = Noting()
    replay(tmp_path / "m", sink)
    assert sink.told[0] == ("open", RUN)
    assert sink.told[-1] == "close"
    assert all(same(a, b) for a, b in zip(sink.told[1:-1], RECORDS, strict=True))


def test_a_replay_of_a_resumed_run_begins_at_its_beginning(tmp_path: Path) -> None:
    told(JSONL(tmp_path / "m"), RECORDS[:2])
    told(JSONL(tmp_path / "m"), RECORDS[2:], {**RUN, "batches": 10})
    for _ in range(2):
        replay(tmp_path / "m", CSV(tmp_path / "table.csv"))
        assert len(rows(tmp_path / "table.csv")) == len(RECORDS)


# -- tables -----------------------------------------------------------------------------------------------------------


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_has_a_row_for_each_record_and_gets_columns(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    told(CSV(path))
    found = rows(path)
    assert list(found[0]) == ["step", "event", "train/loss", "train/lr", "eval/loss"]
    assert [row["step"] for row in found] == ["10", "10", "20", "20", "30"]
    assert [row["train/loss"] for row in found] == ["2.5", "", "nan", "", "-inf"]
    assert [float(row["train/lr"]) for row in found if row["train/lr"]] == [1e-3, 0.1 + 0.2, 5e-324]
    assert [row["eval/loss"] for row in found] == ["", "", "", "inf", ""]
    assert found[1]["event"] == 'the loss rose, "far" and fell'


def test_a_table_that_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    told(CSV(path))
    path.write_bytes(path.read_bytes() + b"40,,1.")  # not written to its end
    told(CSV(path), (Record(30, {"train/loss": 1.0}),), {"batches": 20})
    assert [(row["step"], row["train/loss"]) for row in rows(path)][-3:] == [("20", "nan"), ("20", ""), ("30", "1.0")]
    told(CSV(path), (Record(31, {"new": 1.0}),), {})
    assert [row["step"] for row in rows(path)] == ["10", "10", "20", "20", "30", "31"]
    told(CSV(path), (), RUN)
    assert rows(path) == [], "a run that begins anew has no rows of the one before"


def test_a_table_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("name,age\nA,3\n")
    with pytest.raises(ValueError, match="no table that CSV wrote: its first columns are name, age"):
        CSV(path).open(RUN)
    assert path.read_text() == "name,age\nA,3\n"


# -- TensorBoard ------------------------------------------------------------------------------------------------------


def board(directory: Path) -> Any:
    """As TensorBoard reads it."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.plugin_event_accumulator")
    accumulator = accumulators.EventAccumulator(str(directory))
    accumulator.Reload()
    return accumulator


def scalars(accumulator: Any, tag: str) -> list[tuple[int, float]]:
    return [(event.step, float(event.tensor_proto.float_val[0])) for event in accumulator.Tensors(tag)]


def test_tensorboard_reads_scalars_texts_and_histograms(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    sink = TensorBoard(tmp_path)
    sink.open({**RUN, "table": "one | two"})
    for record in RECORDS:
        sink.write(record)
    sink.histograms(30, {"weight": np.array([0.0, 1.0, 1.0, np.nan]), "nothing": np.array([np.nan])})
    sink.close()
    accumulator = board(tmp_path)
    (first, second, third) = scalars(accumulator, "train/loss")
    assert first == (10, 2.5)
    assert second[0] == 20
    assert math.isnan(second[1])
    assert third == (30, -math.inf)
    assert scalars(accumulator, "train/lr")[1] == (20, float(np.float32(0.1 + 0.2)))
    (event,) = accumulator.Tensors("event")
    assert (event.step, event.tensor_proto.string_val[0].decode()) == (10, RECORDS[1].event)
    (run,) = accumulator.Tensors("run")
    rows_of_run = run.tensor_proto.string_val[0].decode().splitlines()
    assert {"| rule | adamw(lr=0.001) |", r"| table | one \| two |"} <= set(rows_of_run)
    (found,) = accumulator.Tensors("weight")
    arrays = pytest.importorskip("tensorboard.util.tensor_util")
    left, right, count = arrays.make_ndarray(found.tensor_proto).T
    assert (left[0], right[0], right[-1], count.sum()) == (0.0, 1 / 32, 1.0, 3.0)
    assert (count[0], count[-1]) == (1.0, 2.0)
    assert "nothing" not in accumulator.Tags()["tensors"]


def test_tensorboard_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    told(TensorBoard(tmp_path), tuple(Record(n, {"a": float(n)}) for n in range(10)))
    for file in tmp_path.iterdir():  # names have seconds in them, and order the files
        file.rename(file.with_name("events.out.tfevents.0000000001.x"))
    told(TensorBoard(tmp_path), (Record(7, {"a": 70.0}),), {"batches": 5})
    assert scalars(board(tmp_path), "a") == [*((n, float(n)) for n in range(6)), (7, 70.0)]


# -- Weights & Biases -------------------------------------------------------------------------------------------------


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module with wandb's functions, that keeps what they were given."""
    calls: list[Any] = []

    class Run:
        def log(self, values: dict[str, Any]) -> None:
            calls.append(values)

        def finish(self) -> None:
            calls.append("finish")

    def init(**options: Any) -> Run:
        calls.append(options)
        return Run()

    module = types.ModuleType("stand_in")
    module.__dict__.update(init=init, calls=calls, save=calls.append, Histogram=lambda np_histogram: np_histogram)
    monkeypatch.setitem(sys.modules, "stand_in", module)
    return module


def test_what_wandb_is_given(stand_in: Any, tmp_path: Path) -> None:
    sink = WandB("digits", module="stand_in", mode="offline")
    sink.open(RUN)
    sink.write(RECORDS[0])
    sink.write(RECORDS[1])
    sink.histograms(10, {"weight": np.ones(2), "nothing": np.array([np.inf])})
    sink.save_file(tmp_path / "model")
    sink.close()
    sink.close()
    begun, values, event, counted, saved, finished = stand_in.calls
    assert begun == {"project": "digits", "config": RUN, "mode": "offline"}
    assert values == {"batches": 10, "train/loss": 2.5, "train/lr": 1e-3}
    assert event == {"batches": 10, "event": RECORDS[1].event}
    assert (list(counted), counted["weight"][0].sum()) == (["batches", "weight"], 2)
    assert (saved, finished) == (str(tmp_path / "model"), "finish")


def wandb_records(file: Path) -> Iterator[Any]:
    """What is in a file that wandb would send: records in blocks of 32 KiB, as LevelDB's, of which one is read."""
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    data, at = file.read_bytes(), 7
    while at + 7 <= min(len(data), 32768):
        size = int.from_bytes(data[at + 4 : at + 6], "little")
        yield proto.Record.FromString(data[at + 7 : at + 7 + size])
        at += 7 + size


def wandb_history(file: Path) -> list[dict[str, Any]]:
    """The values that were logged.  wandb's own process may still be writing the file when `finish` has returned."""
    for _ in range(100):
        records = list(wandb_records(file))
        if any(record.HasField("exit") for record in records):
            break
        time.sleep(0.1)
    rows = [record.history.item for record in records if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    settings = {"x_disable_stats": True, "x_disable_meta": True, "disable_git": True, "console": "off"}
    sink = WandB("digits", mode="offline", dir=str(tmp_path), settings=settings)
    sink.open(RUN)
    for record in (*RECORDS[:2], Record(5, {"train/loss": 2.0})):  # a step back, as after a crash
        sink.write(record)
    sink.save_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    sink.close()
    (kept,) = tmp_path.glob("wandb/offline-run-*/files/model.safetensors")
    assert kept.read_bytes() == b"weights"
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    written = [{k: v for k, v in row.items() if not k.startswith("_")} for row in wandb_history(file)]
    assert written == [
        {"batches": 10, "train/loss": 2.5, "train/lr": 1e-3},
        {"batches": 10, "event": RECORDS[1].event},
        {"batches": 5, "train/loss": 2.0},
    ]


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio", reason="trackio asks for other versions of packages than tensorboard")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    told(WandB("digits", module="trackio", name="one"), RECORDS[:2])
    assert [*tmp_path.rglob("*.db")]


# -- packages that are missing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("tensorboard", lambda: TensorBoard("run")),
        ("wandb", lambda: WandB("digits")),
        ("trackio", lambda: WandB("digits", module="trackio")),
    ],
)
def test_a_missing_package_is_named_when_the_sink_is_made(
    package: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)

    class Missing:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match=rf"^{package} is needed .*: pip install 'trainfn\[{package}\]'\.$"):
        make()


def test_sinks_load_nothing_before_they_are_made() -> None:
    names = ("console", "csv", "jsonl", "tensorboard", "wandb")
    program = f"import sys, {', '.join(f'trainfn.training.sinks.{n}' for n in names)}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert not {"rich", "tensorboard", "wandb", "matplotlib"} & set(run.stdout.split())
