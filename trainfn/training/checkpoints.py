"""Checkpoints on disk: whole or not there, checked when read, and never the only one while another is written.

    with Checkpoints("run/checkpoints") as checkpoints:
        checkpoints.save(Checkpoint(step, {"params": arrays}, {"counters": ...}), metric=loss)
        ...
        last = checkpoints.load()

A checkpoint is a directory, `000000120/`: a safetensors file for each of its groups of arrays, `training.json`, and
`manifest.json`, which is written last and has the size and the SHA-256 of each, and of itself.  All of it is made
beside, under a name that begins with a dot, and brought to the disk before the directory gets its name.  Nothing is
pickled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainfn.convert import BFLOAT16

Arrays = Mapping[str, np.ndarray[Any, Any]]

_VERSION = 1
_MANIFEST, _NUMBERS, _ARRAYS, _LOCK = "manifest.json", "training.json", ".safetensors", ".lock"


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    step: batches taken when it was made.  arrays: by file and name; bfloat16 ones have the dtype `convert.BFLOAT16`.
    numbers: whatever JSON holds, and NaN and infinities.
    """

    step: int
    arrays: Mapping[str, Arrays]
    numbers: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run, which one process at a time writes, and others read.

    keep_last: how many are kept of the one just saved and those before; keep_best: how many of those with the best
        metric besides.  Those of later steps, which a run left that goes on from an earlier one, stay until it comes
        past them: one of them that is damaged takes the place of none that is whole.
    mode: whether the best metric is the smallest, "min", or the largest, "max".  NaN is no metric; of equal ones the
        earlier is better.
    only_reads: whether this is one of the others.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_last: int = 3,
        keep_best: int = 1,
        mode: str = "min",
        only_reads: bool = False,
    ) -> None:
        if keep_last < 1 or keep_best < 0:
            raise ValueError(f"keep_last = {keep_last} must be at least 1 and keep_best = {keep_best} at least 0.")
        if mode not in ("min", "max"):
            raise ValueError(f"mode = {mode!r} must be 'min' or 'max'.")
        _need_safetensors()
        self.directory = Path(directory)
        self._keep_last, self._keep_best, self._sign = keep_last, keep_best, -1.0 if mode == "max" else 1.0
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock: int | None = None if only_reads else _locked(self.directory)
        if not only_reads:
            _clear(self.directory)
        self._worker = ThreadPoolExecutor(1, "trainfn-checkpoints")
        self._writing: list[Future[None]] = []

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self.wait()
        except OSError:
            if kind is None:
                raise
        finally:
            self.close()

    def close(self) -> None:
        """Wait for what is being written, and let another process have the directory."""
        self._worker.shutdown(wait=True)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    # -- writing -------------------------------------------------------------------------------------------------------

    def save(self, checkpoint: Checkpoint, metric: float | None = None) -> None:
        """Begin to write a checkpoint, in the order of calls; its arrays are the writer's from now on.

        Raises what went wrong with an earlier one, and then does not begin.
        """
        if self._lock is None:
            raise ValueError(f"the checkpoints in {self.directory} are closed, or only read here.")
        if checkpoint.step < 0:
            raise ValueError(f"a checkpoint's step is a count, not {checkpoint.step}.")
        _check_arrays(checkpoint.arrays)
        numbers = json.dumps(checkpoint.numbers, indent=1)
        self._raise_what_failed(only_done=True)
        measured = None if metric is None else float(metric)
        self._writing.append(self._worker.submit(self._write, checkpoint, numbers, measured))

    def wait(self) -> None:
        """Until all is on the disk; raises what went wrong."""
        self._raise_what_failed(only_done=False)

    def _raise_what_failed(self, only_done: bool) -> None:
        ended = [f for f in self._writing if f.done() or not only_done]
        self._writing = [f for f in self._writing if f not in ended]
        for error in [f.exception() for f in ended]:
            if error is not None:
                raise error

    def _write(self, checkpoint: Checkpoint, numbers: str, metric: float | None) -> None:
        try:
            _write_whole(self._place(checkpoint.step), checkpoint, numbers, metric)
        except OSError as error:
            free, due = shutil.disk_usage(self.directory).free, _bytes(checkpoint)
            raise OSError(
                error.errno,
                f"the checkpoint of step {checkpoint.step} was not saved: {error.strerror}; it has {due:,} bytes and "
                f"{free:,} are free. Checkpoints saved before are whole",
                str(self.directory),
            ) from error
        self._rotate(checkpoint.step)

    def _rotate(self, saved: int) -> None:
        """Remove what came before the one just saved and is neither among the last nor the best."""
        known = self._known()
        past = [step for step, _ in known if step <= saved]
        kept = {*past[-self._keep_last :], *(step for step, _ in self._by_metric(known))}
        for step in past:
            if step not in kept:
                _remove(self._place(step))

    def _place(self, step: int) -> Path:
        return self.directory / _named(step)

    # -- reading -------------------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Of those that are there, in order; `load` checks that they are whole."""
        return [step for step, _ in self._known()]

    def load(self, step: int | None = None) -> Checkpoint:
        """The newest that is whole, or that of a step.

        One that is damaged is passed over, with a warning that says what is wrong; a ValueError says so of each if none
        is left.
        """
        known = self.steps()
        if step is not None and step not in known:
            raise ValueError(f"{self.directory} has no checkpoint of step {step}, but of {known or 'none'}.")
        problems = []
        for n in [step] if step is not None else reversed(known):
            try:
                return _read(self._place(n))
            except (OSError, ValueError) as error:
                problems.append(f"{_named(n)}: {error}")
                if step is None:
                    warnings.warn(f"a checkpoint in {self.directory} is passed over, {problems[-1]}", stacklevel=2)
        spelt = "; ".join(problems) or "there is none"
        raise ValueError(f"{self.directory} has no checkpoint to go on from: {spelt}.")

    def best(self) -> Checkpoint:
        """That with the best metric."""
        ranked = self._by_metric(self._known(), 1)
        if not ranked:
            raise ValueError(f"{self.directory} has no checkpoint with a metric.")
        return self.load(ranked[0][0])

    def _by_metric(self, known: list[tuple[int, float | None]], n: int | None = None) -> list[tuple[int, float]]:
        measured = [(step, x) for step, x in known if x is not None and not math.isnan(x)]
        ranked = sorted(measured, key=lambda entry: (self._sign * entry[1], entry[0]))
        return ranked[: self._keep_best if n is None else n]

    def _known(self) -> list[tuple[int, float | None]]:
        """The steps of the checkpoints, in order, with their metrics."""
        known = []
        for place in self.directory.iterdir():
            if place.name.isdecimal() and place.name == _named(int(place.name)) and place.is_dir():
                try:
                    metric = _read_manifest(place)["metric"]
                except (OSError, ValueError):
                    metric = None  # `load` says what is wrong with it
                known.append((int(place.name), metric))
        return sorted(known, key=lambda entry: entry[0])


# -- files -------------------------------------------------------------------------------------------------------------


def _named(step: int) -> str:
    return f"{step:09d}"


def _write_whole(place: Path, checkpoint: Checkpoint, numbers: str, metric: float | None) -> None:
    made = place.with_name(f".{place.name}.{os.getpid()}.partial")
    try:
        made.mkdir()
        _write_files(made, checkpoint, numbers, metric)
        _exchange(made, place)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write_files(place: Path, checkpoint: Checkpoint, numbers: str, metric: float | None) -> None:
    for name, arrays in checkpoint.arrays.items():
        _durably(place / f"{name}{_ARRAYS}", partial(_write_arrays, arrays))
    _durably(place / _NUMBERS, lambda path: path.write_text(numbers))
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _hash(path)} for path in sorted(place.iterdir())}
    says = {"version": _VERSION, "step": checkpoint.step, "metric": metric, "files": files}
    manifest = {**says, "sha256": _hash_manifest(says)}
    _durably(place / _MANIFEST, lambda path: path.write_text(json.dumps(manifest, indent=1)))


def _durably(path: Path, write: Callable[[Path], Any]) -> None:
    write(path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _exchange(made: Path, place: Path) -> None:
    """Give a directory its name; one that had it is moved away first, whole, and removed afterwards."""
    _sync(made)
    old = place.with_name(f".{place.name}.{os.getpid()}.old.partial")
    if place.exists():
        os.rename(place, old)
    try:
        os.rename(made, place)
    except OSError:
        if old.exists():
            os.rename(old, place)
        raise
    _sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def _clear(directory: Path) -> None:
    """Put away what a process left that was killed; this one has the lock, so nobody is at it."""
    for left in directory.glob(".*.partial"):
        name = left.name.split(".")[1]
        if left.name.endswith(".old.partial") and not (directory / name).exists():
            os.rename(left, directory / name)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _remove(place: Path) -> None:
    """Remove a checkpoint; what is left of it if that is interrupted is none."""
    away = place.with_name(f".{place.name}.{os.getpid()}.removed.partial")
    os.rename(place, away)
    shutil.rmtree(away, ignore_errors=True)


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _read(place: Path) -> Checkpoint:
    """A checkpoint; OSError or ValueError name the file that is not what was written, and say why."""
    manifest = _read_manifest(place)
    for name, due in manifest["files"].items():
        path = place / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != due["bytes"]:
            raise ValueError(f"{name} has {path.stat().st_size:,} bytes where {due['bytes']:,} were written")
        if _hash(path) != due["sha256"]:
            raise ValueError(f"{name} is not what was written: its hash is another")
    files = [place / name for name in manifest["files"] if name.endswith(_ARRAYS)]
    arrays = {path.name.removesuffix(_ARRAYS): _read_arrays(path) for path in files}
    return Checkpoint(manifest["step"], arrays, json.loads((place / _NUMBERS).read_bytes()))


def _read_manifest(place: Path) -> dict[str, Any]:
    """What a checkpoint's manifest says, if it is one, and this checkpoint's."""
    path = place / _MANIFEST
    if not path.is_file():
        raise ValueError(f"{_MANIFEST} is missing")
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_MANIFEST} is no JSON: {error}") from None
    if not isinstance(manifest, dict) or "version" not in manifest:
        raise ValueError(f"{_MANIFEST} is none of a checkpoint's")
    if manifest["version"] != _VERSION:
        raise ValueError(
            f"{_MANIFEST} has version {manifest['version']} of the format, and this trainfn reads {_VERSION}"
        )
    if manifest.pop("sha256", None) != _hash_manifest(manifest):
        raise ValueError(f"{_MANIFEST} is not what was written: its hash is another")
    if place.name != _named(manifest["step"]):
        raise ValueError(f"{_MANIFEST} is that of step {manifest['step']}")
    return manifest


def _hash_manifest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes(checkpoint: Checkpoint) -> int:
    return sum(x.nbytes for arrays in checkpoint.arrays.values() for x in arrays.values())


def _locked(directory: Path) -> int:
    """A lock on the directory, which the end of this process releases, however it ends."""
    file = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise RuntimeError(
            f"{directory} is being written by another run: wait until it has ended, or take another directory."
        ) from None
    return file


# -- arrays ------------------------------------------------------------------------------------------------------------

# What safetensors calls dtypes where it reads; where it writes they have numpy's names.
_DTYPES: Mapping[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": BFLOAT16,
    "C64": np.complex64,
    "BOOL": np.bool_,
    **{
        f"{k}{bits}": np.dtype(f"{kind}{bits}") for k, kind in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
    },
}


def _check_arrays(groups: Mapping[str, Arrays]) -> None:
    for group, arrays in groups.items():
        if not group or "/" in group or "\0" in group:
            raise ValueError(
                f"arrays of {group!r} cannot be saved: their file has that name, which has to be a file's."
            )
        for name, x in arrays.items():
            if x.dtype.newbyteorder("=") not in _DTYPES.values():
                raise ValueError(f"{name!r} of {group!r} cannot be saved: safetensors has no dtype {x.dtype}.")
            if name == "__metadata__":
                raise ValueError(f"{name!r} of {group!r} cannot be saved: safetensors reserves the name.")


def _need_safetensors() -> Any:
    try:
        import safetensors
    except ImportError:
        raise ImportError(
            "checkpoints are written by safetensors, which is not installed: pip install 'trainfn[train]'."
        ) from None
    return safetensors


def _write_arrays(arrays: Arrays, path: Path) -> None:
    safetensors = _need_safetensors()
    # Little-endian, whatever this machine or the array is.
    whole = {name: np.ascontiguousarray(x, x.dtype.newbyteorder("<")).reshape(x.shape) for name, x in arrays.items()}
    specs = {
        name: safetensors.TensorSpec(
            dtype="bfloat16" if x.dtype.names else x.dtype.name,
            shape=list(x.shape),
            data_ptr=x.ctypes.data,
            data_len=x.nbytes,
        )
        for name, x in whole.items()
    }
    try:
        safetensors.serialize_file(specs, str(path))
    except safetensors.SafetensorError as error:  # such as a full disk
        raise OSError(None, str(error)) from error


def _read_arrays(path: Path) -> Arrays:
    """Arrays in memory of their own."""
    safetensors: Any = _need_safetensors()
    try:
        data = safetensors.deserialize(path.read_bytes())
        return {name: np.frombuffer(x["data"], _DTYPES[x["dtype"]]).reshape(x["shape"]) for name, x in data}
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from None
