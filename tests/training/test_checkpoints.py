"""Checkpoints: the same bits back, damage found, rotation, and what is left when a process is killed or a disk full."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from trainfn.convert import BFLOAT16
from trainfn.training import checkpoints as module
from trainfn.training.checkpoints import Checkpoint, Checkpoints

ROOT = Path(__file__).parents[2]
TEN = np.arange(10, dtype=np.float32)


def checkpoint(step: int, **numbers: Any) -> Checkpoint:
    return Checkpoint(step, {"params": {"w": TEN + step}}, numbers)


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(checkpoint(step))
    checkpoints.wait()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# -- the same bits -----------------------------------------------------------------------------------------------------

_BITS = np.random.default_rng(0).integers(0, 256, 240, np.uint8)  # NaNs of all kinds among the floats
ARRAYS = {
    **{str(np.dtype(t)): _BITS.view(t) for t in (np.float64, np.float32, np.float16, np.complex64)},
    **{f"{kind}{bits}": _BITS.view(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "bfloat16": _BITS.view(BFLOAT16).reshape(10, 12),
    "bool": _BITS % 2 == 0,
    "0-d": np.array(math.pi),
    "0-d bfloat16": np.array(_BITS.view(BFLOAT16)[3]),
    "empty": np.empty((3, 0, 2), np.float16),
    "strided": _BITS.view(np.float32).reshape(6, 10)[::2, ::-3],
    "transposed": _BITS.view(BFLOAT16).reshape(10, 12).T,
    "big-endian": TEN.astype(">f4"),
    "big-endian bfloat16": TEN.astype(">u2").view(BFLOAT16.newbyteorder(">")),
    "blocks/0/attention.w": TEN,
    "../../up": TEN + 1,
    "": TEN + 2,
    "μ\n\"'": TEN + 3,
}


def test_arrays_come_back_to_the_bit(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint(7, {"params": ARRAYS, "fields.m": {"w": TEN}, "none": {}}, {}))
        checkpoints.wait()
        loaded = checkpoints.load()
    assert (loaded.step, set(loaded.arrays)) == (7, {"params", "fields.m", "none"})
    assert set(loaded.arrays["params"]) == set(ARRAYS)
    assert loaded.arrays["none"] == {}
    for name, x in ARRAYS.items():
        got = loaded.arrays["params"][name]
        assert (got.dtype, got.shape) == (x.dtype.newbyteorder("="), x.shape), name
        assert got.tobytes() == x.astype(got.dtype).tobytes(), name
        assert got.flags.writeable


def test_numbers_come_back(tmp_path: Path) -> None:
    numbers = {"nan": math.nan, "inf": [math.inf, -math.inf], "x": {"0.1": 0.1, "é": None}, "n": 2**80, "tiny": 5e-324}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint(0, {}, numbers))
        checkpoints.wait()
        loaded = checkpoints.load(0).numbers
    assert math.isnan(loaded["nan"])
    assert {**loaded, "nan": 0} == {**numbers, "nan": 0}


def test_files_are_those_of_safetensors(tmp_path: Path) -> None:
    arrays = {name: x for name, x in ARRAYS.items() if x.dtype.names is None}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint(12, {"params": arrays}, {}))
    read = safetensors.numpy.load_file(tmp_path / "000000012" / "params.safetensors")
    assert set(read) == set(arrays)
    for name, x in arrays.items():
        assert read[name].tobytes() == x.astype(x.dtype.newbyteorder("=")).tobytes(), name


def test_numbers_are_those_at_the_time_of_saving(tmp_path: Path) -> None:
    numbers = {"seen": [1]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint(1, {}, numbers))
        numbers["seen"].append(2)
        checkpoints.wait()
        assert checkpoints.load().numbers == {"seen": [1]}


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (Checkpoint(-1, {}, {}), "not -1"),
        (Checkpoint(1, {"a/b": {}}, {}), "'a/b'"),
        (Checkpoint(1, {"": {}}, {}), "''"),
        (Checkpoint(1, {"p": {"w": np.zeros(2, np.complex128)}}, {}), "'w' of 'p'.*complex128"),
        (Checkpoint(1, {"p": {"w": np.array([None])}}, {}), "'w' of 'p'.*object"),
        (Checkpoint(1, {"p": {"__metadata__": TEN}}, {}), "reserves"),
        (Checkpoint(1, {}, {"x": TEN}), "JSON serializable"),
    ],
)
def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path, bad: Checkpoint, says: str) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises((ValueError, TypeError), match=says):
            checkpoints.save(bad)
        checkpoints.wait()
        assert names(tmp_path) == [".lock"]


@pytest.mark.parametrize("options", [{"keep_last": 0}, {"keep_best": -1}, {"mode": "least"}])
def test_options_are_checked(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Checkpoints(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


# -- damage ------------------------------------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _replace(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILES = ("params.safetensors", "training.json", "manifest.json")
DAMAGE = {
    "truncated": _truncate,
    "flipped": _flip,
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_bytes(b"\xff[1]"),
    "list": lambda path: path.write_bytes(b"[1]"),
    "null": lambda path: path.write_bytes(b"null"),
    "deep": lambda path: path.write_bytes(b"[" * 100_000),
    "a directory": _replace,
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str, file: str) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 2)
        DAMAGE[damage](tmp_path / "000000002" / file)
        with pytest.warns(UserWarning, match=f"000000002: {file} ") as caught:
            loaded = checkpoints.load()
        assert len(caught) == 1
        assert loaded.step == 1
        assert np.array_equal(loaded.arrays["params"]["w"], TEN + 1)
        with pytest.raises(ValueError, match=f"000000002: {file} "):
            checkpoints.load(2)
        save(checkpoints, 2)
        assert checkpoints.load().step == 2


def test_every_damage_is_told_when_nothing_is_left(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="there is none"):
            checkpoints.load()
        save(checkpoints, 1, 2, 3)
        _flip(tmp_path / "000000001" / "params.safetensors")
        _truncate(tmp_path / "000000002" / "training.json")
        (tmp_path / "000000003" / "manifest.json").unlink()
        says = "3: manifest.json is missing; .*2: training.json has 1 bytes where 2 .*1: params.safetensors is not what"
        with warnings.catch_warnings(record=True, action="always") as caught, pytest.raises(ValueError, match=says):
            checkpoints.load()
        assert len(caught) == 3
        with pytest.raises(ValueError, match=r"no checkpoint of step 9, but of \[1, 2, 3\]"):
            checkpoints.load(9)


@pytest.mark.parametrize("file", FILES)
def test_no_flipped_bit_is_loaded(tmp_path: Path, file: str) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoint(5, loss=0.25), metric=0.5)
        checkpoints.wait()
        path = tmp_path / "000000005" / file
        whole = path.read_bytes()
        for i in range(len(whole)):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
            # Between the words of a manifest some bits say nothing.
            with contextlib.suppress(ValueError):
                loaded = checkpoints.best()
                assert file == "manifest.json"
                assert whole[i : i + 1].isspace()
                assert (loaded.step, loaded.numbers) == (5, {"loss": 0.25})


def _rewrite(place: Path, **changes: Any) -> None:
    """A manifest that is another's, with its hash right."""
    manifest = {**json.loads((place / "manifest.json").read_bytes()), **changes}
    del manifest["sha256"]
    manifest["sha256"] = module._hash_manifest(manifest)
    (place / "manifest.json").write_text(json.dumps(manifest))


def test_other_versions_and_moved_directories_are_told(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, 2)
        _rewrite(tmp_path / "000000002", version=2)
        shutil.copytree(tmp_path / "000000001", tmp_path / "000000003")
        with pytest.raises(ValueError, match="has version 2 of the format, and this trainfn reads 1"):
            checkpoints.load(2)
        with pytest.raises(ValueError, match=r"000000003: manifest\.json is that of step 1"):
            checkpoints.load(3)
        file = tmp_path / "000000001" / "params.safetensors"
        file.write_bytes(b"no tensors")
        files = {file.name: {"bytes": 10, "sha256": module._hash(file)}}
        _rewrite(tmp_path / "000000001", files=files)
        with pytest.raises(ValueError, match=r"params\.safetensors cannot be read"):
            checkpoints.load(1)


def test_what_is_no_checkpoint_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "²").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "000000009").write_text("a file")
    before = names(tmp_path)
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        save(checkpoints, 1, 10)
        assert checkpoints.steps() == [10]
    assert names(tmp_path) == sorted([*before, ".lock", "000000010"])


# -- rotation ----------------------------------------------------------------------------------------------------------

METRICS = st.sampled_from([None, math.nan, 0.0, 1.0, 2.0, math.inf, -math.inf])


@given(
    saves=st.lists(st.tuples(st.integers(0, 12), METRICS), min_size=1, max_size=9),
    ordered=st.booleans(),
    keep_last=st.integers(1, 3),
    keep_best=st.integers(0, 3),
    mode=st.sampled_from(["min", "max"]),
)
def test_rotation(
    saves: list[tuple[int, float | None]], ordered: bool, keep_last: int, keep_best: int, mode: str, tmp_path: Path
) -> None:
    saves = sorted(saves, key=lambda entry: entry[0]) if ordered else saves
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    kept: dict[int, float | None] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        with Checkpoints(tmp_path / "run", keep_last=keep_last, keep_best=keep_best, mode=mode) as checkpoints:
            for step, metric in saves:
                checkpoints.save(checkpoint(step), metric)
                checkpoints.wait()
                kept[step] = metric
                best = _best(kept, mode)
                last = sorted(s for s in kept if s <= step)[-keep_last:]
                kept = {s: x for s, x in kept.items() if s > step or s in last or s in best[:keep_best]}
                assert checkpoints.steps() == sorted(kept)
                assert names(checkpoints.directory) == [".lock", *(f"{s:09d}" for s in sorted(kept))]
                if best := _best(kept, mode):
                    assert checkpoints.best().step == best[0]
                else:
                    with pytest.raises(ValueError, match="no checkpoint with a metric"):
                        checkpoints.best()


def _best(kept: dict[int, float | None], mode: str) -> list[int]:
    """Taken out one after another, which sorts nothing by sign."""
    left, best = {s: x for s, x in kept.items() if x is not None and x == x}, []
    while left:
        extreme = (min if mode == "min" else max)(left.values())
        best.append(min(s for s, x in left.items() if x == extreme))
        del left[best[-1]]
    return best


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for n in range(3):
            checkpoints.save(Checkpoint(4, {f"group{n}": {"w": TEN}}, {"n": n}), metric=n)
        checkpoints.wait()
        loaded = checkpoints.load()
        assert (set(loaded.arrays), loaded.numbers) == ({"group2"}, {"n": 2})
    assert names(tmp_path) == [".lock", "000000004"]


def test_damaged_ones_do_not_push_out_whole_ones(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep_last=1) as checkpoints:
        save(checkpoints, 100)
        shutil.copytree(tmp_path / "000000100", tmp_path / "000000120")
        save(checkpoints, 110)
        with pytest.warns(UserWarning, match="000000120"):
            assert checkpoints.load().step == 110
        save(checkpoints, 130)
        assert checkpoints.steps() == [130]


def test_steps_beyond_nine_digits_are_in_order(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep_last=2) as checkpoints:
        save(checkpoints, 999_999_998, 999_999_999, 1_000_000_000)
        assert checkpoints.steps() == [999_999_999, 1_000_000_000]
        assert checkpoints.load().step == 1_000_000_000


# -- processes ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def child(code: str, *arguments: object, before: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """A Python process with this module's names."""
    command = [*before, sys.executable, "-c", f"from {__name__} import *; import sys; {code}"]
    process = subprocess.Popen(
        [*command, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def run(code: str, *arguments: object, before: tuple[str, ...] = ()) -> str:
    with child(code, *arguments, before=before) as process:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    return output


def hold(directory: str) -> None:
    checkpoints = Checkpoints(directory)
    save(checkpoints, 1)
    print("held", flush=True)
    time.sleep(60)


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with child("hold(sys.argv[1])", tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RuntimeError, match=f"{tmp_path} is being written by another run"):
            Checkpoints(tmp_path)
        process.kill()
        process.wait()
        with Checkpoints(tmp_path) as checkpoints:
            assert checkpoints.steps() == [1]


def test_closing_releases_the_directory_once(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path)
    first.close()
    with Checkpoints(tmp_path):
        first.close()  # would close the second's lock, which has the number of the first's
        with pytest.raises(RuntimeError, match="another run"):
            Checkpoints(tmp_path)
        with pytest.raises(ValueError, match="closed"):
            first.save(checkpoint(1))


LARGE = np.random.default_rng(1).standard_normal((2, 200_000))


def numbered(serial: int) -> Checkpoint:
    """Every step is saved twice."""
    return Checkpoint(serial // 2, {"params": {"w": LARGE + serial}, "m": {"w": LARGE - serial}}, {"serial": serial})


def be_killed(directory: Path, seed: int) -> None:
    """Saves in a loop and is killed, thirty times over; forked, for the imports take longer."""
    draw = random.Random(seed)
    reached = 0
    for _ in range(30):
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            _save_in_a_loop(directory, reached, send)
        os.close(send)
        time.sleep(draw.uniform(0.0, 0.12))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with open(receive) as reports:
            reported = [int(line) for line in reports.read().splitlines()]
        reached = _check_what_is_left(directory, max([reached, *reported]))
    print(reached)


def _save_in_a_loop(directory: Path, after: int, send: int) -> None:
    try:
        checkpoints = Checkpoints(directory, keep_last=2)
        for serial in range(after + 1, 100_000):
            checkpoints.save(numbered(serial))
            checkpoints.wait()
            os.write(send, b"%d\n" % serial)
    finally:
        os._exit(1)


def _check_what_is_left(directory: Path, reported: int) -> int:
    with Checkpoints(directory, keep_last=2) as checkpoints:
        assert all(name == ".lock" or name.isdecimal() for name in names(directory)), names(directory)
        if not checkpoints.steps() and not reported:
            return 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = checkpoints.load()
    serial = int(loaded.numbers["serial"])
    due = numbered(serial)
    assert serial >= reported
    assert loaded.step == due.step
    for group in due.arrays:
        assert np.array_equal(loaded.arrays[group]["w"], due.arrays[group]["w"])
    return serial


def test_a_kill_at_any_moment_leaves_all_that_was_committed(tmp_path: Path) -> None:
    assert int(run("be_killed(Path(sys.argv[1]), 0)", tmp_path)) > 10


@pytest.mark.parametrize("again", [False, True])
def test_a_kill_before_any_call_leaves_all_that_was_committed(tmp_path: Path, again: bool) -> None:
    """What random moments seldom meet: an end before the first, second, ... of the calls that change the directory."""
    due = Checkpoint(1 if again else 2, {"params": {"w": TEN}}, {"new": True})
    copied = tmp_path / "killed"
    news = []
    for n in range(100):
        with Checkpoints(tmp_path / str(n), keep_last=1) as checkpoints:
            save(checkpoints, 1)
            with pytest.MonkeyPatch.context() as patch:
                _copy_before(patch, n, checkpoints.directory, copied)
                checkpoints.save(due)
                checkpoints.wait()
        if not copied.exists():
            break
        with Checkpoints(copied, keep_last=1) as checkpoints:
            assert all(name == ".lock" or name.isdecimal() for name in names(copied)), names(copied)
            loaded = [checkpoints.load(step) for step in checkpoints.steps()][-1]
        assert np.array_equal(loaded.arrays["params"]["w"], TEN if loaded.numbers else TEN + 1)
        news.append(bool(loaded.numbers))
        shutil.rmtree(copied)
    assert news == sorted(news)
    assert len(set(news)) == 2


def _copy_before(patch: pytest.MonkeyPatch, n: int, directory: Path, copied: Path) -> None:
    """Copy the directory before the nth call: what a process leaves that ends there."""
    calls = 0

    def counted(call: Any) -> Any:
        def before(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == n + 1:
                shutil.copytree(directory, copied)
            return call(*arguments, **options)

        return before

    for name in ("mkdir", "fsync", "rename", "unlink", "rmdir"):
        patch.setattr(os, name, counted(getattr(os, name)))


# -- errors ------------------------------------------------------------------------------------------------------------


def limit_files(directory: str) -> None:
    """A checkpoint that cannot be written, for its file may have no more than a megabyte, between two that can."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Checkpoints(directory) as checkpoints:
        save(checkpoints, 1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        _fail_to_save(checkpoints, within=1 << 30)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        _save_after_all(checkpoints)


def fill_disk(directory: str) -> None:
    with Checkpoints(directory, keep_last=2) as checkpoints:
        save(checkpoints, 1)
        filler = Path(directory) / "filler"
        filler.write_bytes(b"0" * (5 << 20))
        _fail_to_save(checkpoints, within=0)
        filler.unlink()
        _save_after_all(checkpoints)


def _fail_to_save(checkpoints: Checkpoints, within: int) -> None:
    """within: bytes that others on the disk may have taken or left meanwhile."""
    checkpoints.save(numbered(4))
    with pytest.raises(OSError, match="step 2 was not saved") as raised:
        checkpoints.wait()
    free = shutil.disk_usage(checkpoints.directory).free
    assert f"has {4 * LARGE.nbytes // 2:,} bytes" in str(raised.value)
    assert str(checkpoints.directory) in str(raised.value)
    told = int(str(raised.value).split(" are free")[0].split()[-1].replace(",", ""))
    assert abs(told - free) <= within
    assert [name for name in names(checkpoints.directory) if name != "filler"] == [".lock", "000000001"]
    assert checkpoints.load().step == 1


def _save_after_all(checkpoints: Checkpoints) -> None:
    checkpoints.save(numbered(4))
    checkpoints.wait()
    assert checkpoints.load().step == 2
    assert checkpoints.load(1).step == 1


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    run("limit_files(sys.argv[1])", tmp_path)


UNSHARED = ("unshare", "--user", "--map-root-user", "--mount")


def test_a_full_disk(tmp_path: Path) -> None:
    mount = ("sh", "-c", f'mount -t tmpfs -o size=10m none "{tmp_path}" && exec "$@"', "sh")
    if shutil.which("unshare") is None or subprocess.run([*UNSHARED, *mount, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no one mount a small disk")
    run("fill_disk(sys.argv[1])", tmp_path, before=(*UNSHARED, *mount))


def _failing(patch: pytest.MonkeyPatch) -> None:
    def no_space(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(os, "fsync", no_space)


def test_errors_surface_at_the_next_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        with monkeypatch.context() as patch:
            _failing(patch)
            checkpoints.save(checkpoint(1))
            checkpoints._worker.submit(int).result()  # until it has failed
        with pytest.raises(OSError, match="step 1 was not saved: No space left") as raised:
            checkpoints.save(checkpoint(2))
        assert raised.value.errno == errno.ENOSPC
        save(checkpoints, 3)
        assert checkpoints.steps() == [3]


def test_errors_surface_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _failing(monkeypatch)
    with pytest.raises(OSError, match="step 1 was not saved"), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoint(1))
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path) as checkpoints:
        _ = checkpoints.save(checkpoint(1)), 1 / 0
    Checkpoints(tmp_path).close()


def test_a_step_is_not_lost_where_its_successor_cannot_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        rename = os.rename

        def refusing(source: Path, target: Path) -> None:
            if source.name.count(".") == 3 and target == tmp_path / "000000001" and ".old." not in source.name:
                raise PermissionError(errno.EACCES, "refused")
            rename(source, target)

        monkeypatch.setattr(os, "rename", refusing)
        with pytest.raises(OSError, match="step 1 was not saved: refused"):
            save(checkpoints, 1)
        assert checkpoints.load().step == 1
        assert names(tmp_path) == [".lock", "000000001"]


def test_saving_does_not_wait_and_closing_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def slow(file: int) -> None:
        time.sleep(0.02)
        sync(file)

    monkeypatch.setattr(os, "fsync", slow)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(checkpoint(1))
    checkpoints.save(checkpoint(2))
    assert checkpoints.steps() == []
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]
