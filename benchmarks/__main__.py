"""`make bench`: measures everything and writes RESULTS.md.

Each library runs in a process of its own, so that neither's threads disturb the other.  `python -m benchmarks torch`
or `jax` runs one and prints its rows; names after that select rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.machine import THREADS, machine

RESULTS = Path(__file__).with_name("RESULTS.md")
NOTES = Path(__file__).with_name("NOTES.md")  # what is to be said of targets that were missed
SUITES = ("torch", "jax")


def _run_suite(name: str) -> list[dict[str, str]]:
    """Run one suite in a fresh process, its progress on our stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": THREADS, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "benchmarks", name]
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    rows: list[dict[str, str]] = json.loads(run.stdout.splitlines()[-1])
    return rows


def _write(rows: list[dict[str, str]]) -> None:
    table = ["| what | against | measured | target | |", "| --- | --- | --- | --- | --- |"]
    table += [f"| {r['what']} | {r['against']} | {r['measured']} | {r['target']} | {r['verdict']} |" for r in rows]
    text = f"""# Results

`make bench` wrote this file. Machine: {machine()}; {THREADS} threads.

Each ratio is ours over theirs: the median over interleaved pairs in one run, with its 95 % interval.
148 tensors of 25 M float32 parameters in all unless said.

{os.linesep.join(table)}

{NOTES.read_text() if NOTES.exists() else ""}"""
    temporary = RESULTS.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(RESULTS)
    print(text)


def main(arguments: list[str]) -> None:
    if not arguments:
        _write([row for name in SUITES for row in _run_suite(name)])
        return
    suite, *wanted = arguments
    if suite not in SUITES:
        raise SystemExit(f"python -m benchmarks [{'|'.join(SUITES)}] [row ...]: there is no suite {suite!r}.")
    rows = []
    for make in import_module(f"benchmarks.{suite}_suite").ROWS:
        if not wanted or make.__name__ in wanted:
            row = make()
            print(f"{row['what']} against {row['against']}: {row['measured']}", file=sys.stderr, flush=True)
            rows.append(row)
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
