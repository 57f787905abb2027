"""The cache of kernels: private, atomic, content-checked, and never a reason for a step to fail."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainfn_torch.kernels import compiler

SOURCE = '__attribute__((visibility("default"))) int answer(void) { return %d; }\n'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CC", raising=False)
    yield tmp_path / "home"
    for path in tmp_path.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)


def answer(path: Path) -> int:
    return int(ctypes.CDLL(str(path)).answer())


def test_a_kernel_is_built_once() -> None:
    first = compiler.build(SOURCE % 1)
    before = first.stat().st_ino
    assert compiler.build(SOURCE % 1) == first
    assert first.stat().st_ino == before
    assert compiler.build(SOURCE % 2) != first
    assert answer(first) == 1
    assert answer(compiler.build(SOURCE % 2)) == 2


def test_directory_is_private(home: Path) -> None:
    path = compiler.build(SOURCE % 3)
    assert path.parent == home / "trainfn" / "kernels"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # nothing is left over


def test_an_open_directory_is_closed(home: Path) -> None:
    directory = home / "trainfn" / "kernels"
    directory.mkdir(parents=True, mode=0o755)
    assert compiler.build(SOURCE % 4).parent == directory
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_directory_others_can_write_is_not_used(home: Path) -> None:
    directory = home / "trainfn" / "kernels"
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    path = compiler.build(SOURCE % 5)
    assert path.parent != directory
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert answer(path) == 5


def test_a_directory_of_somebody_else_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = compiler.build(SOURCE % 6).parent
    monkeypatch.setattr(os, "getuid", lambda: directory.stat().st_uid + 1)
    assert compiler.cache_directory() is None


def test_a_linked_directory_is_not_used(home: Path, tmp_path: Path) -> None:
    (home / "trainfn").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (home / "trainfn" / "kernels").symlink_to(tmp_path / "elsewhere")
    assert compiler.cache_directory() is None


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"not a library"])
def test_a_changed_file_is_built_anew(content: bytes) -> None:
    path = compiler.build(SOURCE % 7)
    good = path.read_bytes()
    path.chmod(0o700)
    path.write_bytes(content or good[: len(good) // 2])  # truncated, or something else
    again = compiler.build(SOURCE % 7)
    assert again.read_bytes() == good
    assert answer(again) == 7


def test_a_foreign_library_under_our_name_is_not_loaded() -> None:
    """Content decides: another kernel copied over ours is another kernel."""
    ours, other = compiler.build(SOURCE % 8), compiler.build(SOURCE % 9)
    ours.write_bytes(other.read_bytes())
    assert answer(compiler.build(SOURCE % 8)) == 8


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = compiler.build(SOURCE % 10)
    kept = tmp_path / "kept.so"
    path.rename(kept)
    path.symlink_to(kept)  # even to the very same content
    again = compiler.build(SOURCE % 10)
    assert not again.is_symlink()
    assert answer(again) == 10


def test_a_file_others_can_write_is_built_anew() -> None:
    path = compiler.build(SOURCE % 11)
    before = path.stat().st_ino
    kept = path.open("rb")  # so that its inode stays taken
    path.chmod(0o722)
    again = compiler.build(SOURCE % 11)
    assert again.stat().st_ino != before
    kept.close()


def test_a_pipe_does_not_hang() -> None:
    path = compiler.build(SOURCE % 12)
    path.unlink()
    os.mkfifo(path)
    assert answer(compiler.build(SOURCE % 12)) == 12


def test_threads_and_processes_build_at_once() -> None:
    program = (
        "import sys, ctypes; from trainfn_torch.kernels import compiler;"
        "print(ctypes.CDLL(str(compiler.build(sys.argv[1]))).answer())"
    )
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(answer(compiler.build(SOURCE % 13)))) for _ in range(4)]
    children = [
        subprocess.Popen([sys.executable, "-c", program, SOURCE % 13], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for child in children:
        output, _ = child.communicate(timeout=120)
        found.append(int(output))
    assert found == [13] * 6


def test_a_home_that_cannot_be_written(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.parent.mkdir(exist_ok=True)
    home.write_text("a file where a directory should be")
    assert compiler.cache_directory() is None
    path = compiler.build(SOURCE % 14)
    assert tmp_path not in path.parents
    assert answer(path) == 14


def test_a_temporary_directory_is_removed_without_a_warning(home: Path) -> None:
    home.write_text("a file where a directory should be")
    program = "import sys; from trainfn_torch.kernels import compiler; print(compiler.build(sys.argv[1]).parent)"
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", program, SOURCE % 20]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "Warning" not in done.stderr
    assert not Path(done.stdout.strip()).exists()


def test_a_full_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing into the cache fails; the kernel is built in a temporary directory."""
    directory = compiler.cache_directory()
    real = compiler._compile

    def full(source: str, cc: compiler.Compiler, flags: tuple[str, ...], where: Path, name: str) -> Path:
        if where == directory:
            raise OSError(28, "No space left on device")
        return real(source, cc, flags, where, name)

    monkeypatch.setattr(compiler, "_compile", full)
    path = compiler.build(SOURCE % 15)
    assert path.parent != directory
    assert answer(path) == 15


def test_nowhere_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_directories", lambda: [Path("/proc/nowhere")])
    with pytest.raises(compiler.CannotBuild, match="nowhere"):
        compiler.build(SOURCE % 16)


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(compiler.NoCompiler, match="apt install gcc"):
        compiler.build(SOURCE % 17)


def test_a_cc_that_cannot_be_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the user's choice, and nothing else is taken in its place."""
    for cc in ("/bin/false", "nosuchcc -O1"):
        monkeypatch.setenv("CC", cc)
        with pytest.raises(compiler.CannotBuild, match=f"\\$CC = '{cc}' is no C compiler"):
            compiler.build(SOURCE % 19)


def test_cc_is_asked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    actual = compiler.find_compiler().command[0]
    script = tmp_path / "mycc"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec {actual} "$@"\n')
    script.chmod(0o700)
    monkeypatch.setenv("CC", f"{script} -DX=1")
    path = compiler.build(SOURCE % 18)
    calls = (tmp_path / "calls").read_text()
    assert "-DX=1" in calls
    assert "-ffp-contract=off" in calls
    assert answer(path) == 18


def test_a_broken_compiler_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(compiler.CannotBuild, match="error"):
        compiler.build("this is not C")


@pytest.mark.parametrize(("does", "asked"), [("exit 1", 2), ("exec sleep 60", 1)], ids=["fails", "hangs"])
def test_a_compiler_that_failed_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: str, asked: int
) -> None:
    """A model has hundreds of parameters; one that hangs is asked about no other kernel either."""
    script = tmp_path / "mycc"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\necho called >> {tmp_path}/calls\n{does}\n')
    script.chmod(0o700)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setattr(compiler, "_PATIENCE", 0.5)
    for n in (18, 18, 19):
        with pytest.raises(compiler.CannotBuild):
            compiler.load(SOURCE % n)
        expected = asked if n == 18 or does != "exit 1" else 2 * asked
        assert len((tmp_path / "calls").read_text().split()) == expected


def test_flags_the_compiler_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without -march=native a kernel is slower, not absent."""
    monkeypatch.setattr(compiler, "_native", lambda: "-march=unheard-of")
    assert answer(compiler.build(SOURCE % 19)) == 19


def test_key_holds_all_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    cc = compiler.find_compiler()
    base = compiler.key("a", cc, ("-O3",))
    others = [
        compiler.key("b", cc, ("-O3",)),
        compiler.key("a", cc, ("-O2",)),
        compiler.key("a", compiler.Compiler((*cc.command, "-m64"), cc.version), ("-O3",)),
        compiler.key("a", compiler.Compiler(cc.command, cc.version + "1"), ("-O3",)),
    ]
    monkeypatch.setattr(compiler, "cpu_features", lambda: "another processor")
    others.append(compiler.key("a", cc, ("-O3",)))
    monkeypatch.undo()
    monkeypatch.setattr(compiler, "_own_version", lambda: "another version")
    others.append(compiler.key("a", cc, ("-O3",)))
    assert len({base, *others}) == 7
