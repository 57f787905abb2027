"""Files that are replaced as a whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` to write to: what stands there in the end takes its place.

    After a crash or on a full disk the old file is as it was; an error leaves nothing beside it.  Who may read the old
    file may read the new one; what stands behind a link is replaced, and not the link.
    """
    path = Path(os.path.realpath(path))
    beside = path.with_name(f".{_cut(path.name)}.{os.getpid()}.{get_ident()}")
    try:
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())  # the name must not come to the disk before what it names
        if path.exists():
            shutil.copymode(path, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _cut(name: str) -> str:
    """As much of a name as leaves room for more, of the 255 bytes that file systems allow."""
    return os.fsencode(name)[:200].decode(errors="ignore")
