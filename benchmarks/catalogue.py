"""Each row of the catalogue beside its namesakes: the words they move, and their time, for `docs/catalogue.md`.

    python -m benchmarks.catalogue words [row ...]    counted: the same on every machine, some minutes in all
    python -m benchmarks.catalogue times [row ...]    measured: some five seconds a row; wants a quiet machine

Rows that have their numbers are left out unless they are named.  `catalogue.json` is written after each row, so that
what is interrupted goes on where it was, and `python -m tests.catalogue.table` makes the page of it.  Each library runs
in a process of its own, so that neither's threads disturb the other; one that fails, or is ended, costs its row only.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.machine import THREADS, machine
from benchmarks.models import TRANSFORMER, Shapes
from tests.catalogue import BY_NAME, ROWS, Row

DATA = Path(__file__).with_name("catalogue.json")
LAYER = ((512, 768), (768,))  # in which words are counted
LAYERS = LAYER * 10  # 20 tensors, 4 M parameters
LIBRARIES = ("torch", "jax")
COMMANDS = ("words", "times")


def read() -> dict[str, Any]:
    """`machine`, that of the times, and `rows`: by row, command and library what the functions of that name return."""
    return json.loads(DATA.read_text(encoding="utf-8")) if DATA.exists() else {"machine": "", "rows": {}}


def _write(data: dict[str, Any]) -> None:
    rows = [f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(data["rows"].items())]
    text = f'{{\n  "machine": {json.dumps(data["machine"])},\n  "rows": {{\n{f",{os.linesep}".join(rows)}\n  }}\n}}\n'
    temporary = DATA.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(DATA)


def namesake(row: Row, library: str) -> str | None:
    """Which of the row's namesakes it is compared with in this library: torch's, else its peer, or optax's."""
    return next(
        (kind for kind in (("torch", "peer") if library == "torch" else ("optax",)) if getattr(row, kind)), None
    )


def timed(row: Row) -> Shapes:
    """What is timed: a transformer, or 20 tensors where a step takes sums along axes and products of matrices."""
    return TRANSFORMER if row.is_elementwise else LAYERS


def _due(data: dict[str, Any], command: str, library: str, wanted: Sequence[str]) -> list[str]:
    compared = [row.name for row in ROWS if namesake(row, library)]
    if wanted:
        return [name for name in compared if name in wanted]
    return [name for name in compared if library not in data["rows"].get(name, {}).get(command, {})]


def _results(library: str, command: str, rows: list[str]) -> Iterator[tuple[str, Any]]:
    """From fresh processes, as they come in: the rest goes to another one where one ends early."""
    environment = {**os.environ, "OMP_NUM_THREADS": THREADS, "JAX_PLATFORMS": "cpu"}
    while rows:
        arguments = [sys.executable, "-m", "benchmarks.catalogue", f"--of={library}", command, *rows]
        with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                yield rows.pop(0), json.loads(line)
        if rows:
            yield rows.pop(0), None  # the one it was at


def _measure(library: str, command: str, rows: Sequence[str]) -> None:
    """In a process of its own: a line for each row."""
    function = getattr(import_module(f"benchmarks.catalogue_{library}"), command)
    for name in rows:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                result = function(BY_NAME[name])
        except Exception:
            traceback.print_exc()
            result = None
        print(json.dumps(result), flush=True)


def main(arguments: Sequence[str]) -> None:
    if arguments and arguments[0].startswith("--of="):
        _measure(arguments[0].removeprefix("--of="), arguments[1], arguments[2:])
        return
    command, *wanted = arguments or [""]
    unknown = [name for name in wanted if name not in BY_NAME]
    if command not in COMMANDS or unknown:
        what = f"there is no row {', '.join(unknown)}" if unknown else f"there is no command {command!r}"
        raise SystemExit(f"python -m benchmarks.catalogue [{'|'.join(COMMANDS)}] [row ...]: {what}.")
    data, failed = read(), []
    for library in LIBRARIES:
        rows = _due(data, command, library, wanted)
        for n, (name, result) in enumerate(_results(library, command, list(rows)), start=1):
            print(f"{library} {n}/{len(rows)} {name}: {result or 'failed'}", flush=True)
            if result is None:
                failed.append(f"{name} ({library})")
                continue
            data["rows"].setdefault(name, {}).setdefault(command, {})[library] = result
            if command == "times":
                data["machine"] = f"{machine()}; {THREADS} threads"
            _write(data)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
