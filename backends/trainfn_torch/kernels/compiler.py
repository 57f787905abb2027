"""Building CPU kernels with the system's C compiler, and keeping them.

Kernels are kept in a directory only this user can enter, under a name made of everything that decides what the
compiler would make (source, compiler, flags, processor, our version) and of the content of the file.  A file is
loaded only if its content has the digest its name says, so one that is truncated, was replaced or is a link is built
anew.  Files appear by renaming, whole or not at all, so that any number of processes may build at once.  Where nothing
can be kept (read-only home, full disk), a kernel lives in a private temporary directory until the process ends.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import json
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# Products and sums are never contracted, and nothing that changes a value is allowed.  Without math-errno a square root
# is one instruction; without trapping-math a selection may compute both sides.  Eliminating partial redundancies makes
# branches of selections that share a condition, which keeps their loop from being vectorised.
FLAGS = (
    "-std=gnu11",
    "-O3",
    "-ffp-contract=off",
    "-fno-fast-math",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-tree-pre",
    "-fopenmp-simd",  # only `#pragma omp simd`: no threads, no runtime library
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-w",
)


class CannotBuild(RuntimeError):
    """No kernel could be made; another execution has to take over."""


class TookTooLong(CannotBuild):
    """The compiler did not come back."""


class NoCompiler(CannotBuild):
    """There is no C compiler."""

    def __init__(self) -> None:
        super().__init__(
            "no C compiler was found (cc, gcc, clang). Install one for the fused kernels: `apt install gcc`, "
            "`dnf install gcc`, `conda install -c conda-forge gcc` or, on macOS, `xcode-select --install`."
        )


@dataclass(frozen=True)
class Compiler:
    """A C compiler: how to call it, and what it says it is."""

    command: tuple[str, ...]
    version: str


def find_compiler() -> Compiler:
    """$CC if it is set, else the first of cc, gcc, clang on the PATH."""
    found = _find_compiler(os.environ.get("CC", ""), os.environ.get("PATH", os.defpath))
    if isinstance(found, CannotBuild):
        raise found
    return found


@lru_cache(maxsize=16)
def _find_compiler(cc: str, path: str) -> Compiler | CannotBuild:
    candidates = [shlex.split(cc)] if cc.strip() else [["cc"], ["gcc"], ["clang"]]
    for name, *arguments in candidates:
        program = shutil.which(name, path=path)
        if program is None:
            continue
        try:
            asked = _run([program, *arguments, "--version"])
        except TookTooLong as error:
            return error
        if asked.returncode == 0:
            return Compiler((program, *arguments), asked.stdout.decode(errors="replace"))
    if cc.strip():
        return CannotBuild(f"$CC = {cc!r} is no C compiler that can be run; unset it, or let it name one.")
    return NoCompiler()


_PATIENCE = 120.0  # seconds


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=text.encode(), capture_output=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise TookTooLong(f"{command[0]} was still at work after {_PATIENCE:.0f} seconds") from None
    except (OSError, subprocess.SubprocessError) as error:
        return subprocess.CompletedProcess(command, 1, b"", str(error).encode())


# -- what a kernel depends on ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def cpu_features() -> str:
    """What the processor can do: kernels use all of it, and a home directory may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    interesting = ("model name", "flags", "Features", "CPU part")
    first = dict(reversed([line.split(":", 1) for line in lines if line.startswith(interesting)]))
    return json.dumps([platform.machine(), platform.processor(), sorted(first.items())])


@lru_cache(maxsize=1)
def _own_version() -> str:
    try:
        return version("trainfn")
    except PackageNotFoundError:
        return "unknown"


def key(source: str, compiler: Compiler, flags: tuple[str, ...]) -> str:
    """A digest of everything that decides what the compiler makes."""
    parts = [source, compiler.command, compiler.version, flags, cpu_features(), _own_version()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


# -- where kernels are kept ------------------------------------------------------------------------------------------


def cache_directory() -> Path | None:
    """This user's private directory of kernels; None where there cannot be one."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
        directory = root / "trainfn" / "kernels"
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory if _is_private(directory) else None
    except (OSError, RuntimeError):
        return None


def _is_private(directory: Path) -> bool:
    """Whether nobody else can have put anything there; a directory of ours is closed if it was open to read."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or not _is_ours(found) or found.st_mode & 0o022:
        return False
    if found.st_mode & 0o077:
        directory.chmod(0o700)
    return os.access(directory, os.W_OK | os.X_OK)


def _is_ours(found: os.stat_result) -> bool:
    return not hasattr(os, "getuid") or found.st_uid == os.getuid()


@lru_cache(maxsize=1)
def _temporary_directory() -> Path:
    """A directory that is removed when the process that made it ends; its forks leave it alone."""
    directory = Path(tempfile.mkdtemp(prefix="trainfn-"))
    atexit.register(_remove, directory, os.getpid())
    return directory


def _remove(directory: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(directory, ignore_errors=True)


def find(directory: Path, name: str) -> Path | None:
    """The kept kernel of this name, if its content is what it was; what is not is removed."""
    for path in sorted(directory.glob(f"{name}-*.so")):
        content = _read(path)
        if content is not None and path.name == _file_name(name, content):
            return path
        path.unlink(missing_ok=True)
    return None


def _file_name(name: str, content: bytes) -> str:
    return f"{name}-{hashlib.sha256(content).hexdigest()}.so"


def _read(path: Path) -> bytes | None:
    """The content of a regular file of ours that nobody else can write; links are not followed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or not _is_ours(found) or found.st_mode & 0o022:
            return None
        return file.read()


# -- building --------------------------------------------------------------------------------------------------------

_loaded: dict[str, ctypes.CDLL] = {}
_failed: dict[tuple[str, Compiler], CannotBuild] = {}  # a model has hundreds of leaves: none asks again
_hanging: dict[Compiler, TookTooLong] = {}
_lock = threading.Lock()


def load(source: str) -> ctypes.CDLL:
    """The shared library made of a C translation unit; raises CannotBuild."""
    with _lock:
        if source not in _loaded:
            compiler = find_compiler()
            failure = _hanging.get(compiler) or _failed.get((source, compiler))
            if failure is not None:
                raise failure
            try:
                _loaded[source] = _load(source)
            except TookTooLong as error:
                _hanging[compiler] = error
                raise
            except CannotBuild as error:
                _failed[source, compiler] = error
                raise
        return _loaded[source]


def _load(source: str) -> ctypes.CDLL:
    path = build(source)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CannotBuild(f"the kernel {path} was built but cannot be loaded: {error}") from error


def build(source: str) -> Path:
    """The file of the library, from the cache or new."""
    compiler = find_compiler()
    problems: list[str] = []
    for flags in ((*FLAGS, _native()), FLAGS):
        name = key(source, compiler, flags)
        for directory in _directories():
            try:
                return find(directory, name) or _compile(source, compiler, flags, directory, name)
            except OSError as error:  # it cannot be written there
                problems.append(f"{directory}: {error}")
            except TookTooLong:
                raise
            except CannotBuild as error:  # it cannot be compiled so
                problems.append(str(error))
                break
    raise CannotBuild("no kernel could be built: " + "; ".join(problems))


def _directories() -> Iterator[Path]:
    """Where a kernel may be kept, the best place first; a temporary one is made only if it is needed."""
    kept = cache_directory()
    if kept is not None:
        yield kept
    try:
        temporary = _temporary_directory()
    except OSError:
        return
    yield temporary


def _native() -> str:
    is_x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    return "-march=native" if is_x86 else "-mcpu=native"


def _compile(source: str, compiler: Compiler, flags: tuple[str, ...], directory: Path, name: str) -> Path:
    with tempfile.TemporaryDirectory(dir=directory, prefix="building-", ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / "kernel.so"
        done = _run([*compiler.command, *flags, "-o", str(made), "-x", "c", "-", "-lm"], source)
        if done.returncode != 0 or not made.exists():
            if shutil.disk_usage(directory).free < 1 << 20:
                raise OSError("no space left")
            raise CannotBuild(f"{compiler.command[0]} failed: {done.stderr.decode(errors='replace')[:2000]}")
        made.chmod(0o700)
        path = directory / _file_name(name, made.read_bytes())
        made.replace(path)
        return path
