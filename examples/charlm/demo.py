"""Trains the model in both frameworks, compares everything that can be compared and writes a report.

    python -m examples.charlm.demo [--updates N] [--seed N] [--out FOLDER]

The exit status is 0 only if everything that is promised to be equal was equal, to the bit.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import optax
import torch

import trainfn_jax
import trainfn_torch

from . import report, train_flax, train_torch
from .baselines import TorchBaseline, optax_baseline
from .bits import Snapshot, compare, differing_words
from .config import Config
from .data import Corpus, load_corpus
from .progress import PlainTerminal, terminal
from .recipe import learning_rate, recipe
from .replay import MakeTorchOptimizer, replay_flax, replay_numpy, replay_torch
from .results import LearningRates, Replay, Results, loss_differences
from .run import Run
from .sample import sample
from .timing import compare_steps
from .weights import Named

PROMPT = "The "


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.charlm.demo", description=__doc__.split("\n")[0])
    parser.add_argument("--updates", type=int, default=Config.updates, help="updates to train each model for")
    parser.add_argument("--seed", type=int, default=Config.seed)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the report (default: out)")
    arguments = parser.parse_args()
    config = replace(
        Config(),
        updates=arguments.updates,
        seed=arguments.seed,
        warmup=min(Config.warmup, arguments.updates // 10),
        recorded=min(Config.recorded, arguments.updates),
    )
    torch.set_num_threads(usable_cores())

    show = terminal()
    results = run(config, show)

    show.heading("Report")
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "charlm.html"
    path.write_text(report.render(results), encoding="utf-8")
    show.line(f"{path.resolve()}   ({results.seconds:.0f} s, imports not counted)")
    failed = [check for check in results.checks if not check.passed]
    if failed:
        show.failure("NOT EQUAL\n" + "\n".join(f"{check.name}: {check.detail}" for check in failed))
    return 1 if failed else 0


def run(config: Config, show: PlainTerminal) -> Results:
    """The whole experiment; tells the terminal what it finds as it finds it."""
    start = time.perf_counter()
    corpus = load_corpus()
    initial = train_torch.numpy_of(train_torch.build(config, corpus).named_parameters())
    parameter_count = sum(array.size for array in initial.values())

    show.heading(
        f"A character transformer of {parameter_count:,} parameters, trained twice for {config.updates} "
        f"updates on {len(corpus.train):,} characters of Python's own documentation"
    )
    with show.training("PyTorch", config.updates) as on_update:
        torch_run = train_torch.train(config, corpus, initial, on_update)
    with show.training("flax", config.updates) as on_update:
        flax_run = train_flax.train(config, corpus, initial, on_update)

    show.heading("What is promised to be the same, bit by bit")
    rates = compare_learning_rates(config, torch_run, flax_run)
    show.check(rates.check)
    replay = replay_everywhere(config.replayed, corpus, initial, torch_run.gradients)
    for check in replay.checks:
        show.check(check)
    show.line(
        f"for contrast, torch.optim against optax, the same gradients: {replay.baseline.total_differing:,} of "
        f"{replay.baseline.total_words:,} words differ"
    )

    show.heading("What can't be: the two models' matrix products round differently")
    differences = loss_differences(torch_run, flax_run)
    show.line(
        f"loss difference: {differences[0]:.1e} at the first update, at most {differences.max():.1e} "
        f"at update {int(differences.argmax()) + 1}"
    )
    for r in (torch_run, flax_run):
        show.line(
            f"{r.framework:8} loss {r.loss[0]:.3f} -> {np.mean(r.loss[-20:]):.3f} (mean of the last 20), "
            f"on held-out text {r.held_out_loss:.3f}, {1e3 * r.seconds_per_update:.0f} ms an update"
        )

    show.heading(f"Time of an optimizer step, {config.timed_pairs} interleaved pairs")
    timings = compare_steps(config, corpus, initial, torch_run.gradients[-1])
    for t in timings:
        low, high = t.interval
        show.line(f"{t.what}: {t.ratio:.2f}x the time of {t.against}   (95 %: {low:.2f} to {high:.2f})")

    show.heading("What the models write")
    write = partial(sample, corpus=corpus, config=config, prompt=PROMPT)
    torch_sample = write(train_torch.predictor(config, corpus, torch_run.weights))
    flax_sample = write(train_flax.predictor(config, corpus, flax_run.weights))
    show.sample("PyTorch", torch_sample)
    show.sample("flax", flax_sample)

    return Results(
        config=config,
        environment=environment(),
        parameter_count=parameter_count,
        vocabulary_size=len(corpus.vocabulary),
        torch=torch_run,
        flax=flax_run,
        learning_rates=rates,
        replay=replay,
        timings=timings,
        prompt=PROMPT,
        torch_sample=torch_sample,
        flax_sample=flax_sample,
        seconds=time.perf_counter() - start,
    )


def compare_learning_rates(config: Config, torch_run: Run, flax_run: Run) -> LearningRates:
    reference = np.asarray(learning_rate(config)(np.arange(config.updates)), np.float64)
    return LearningRates(
        reference,
        differing_words(reference, np.array(torch_run.lr, np.float64)),
        differing_words(reference.astype(np.float32), np.array(flax_run.lr, np.float32)),
    )


def replay_everywhere(config: Config, corpus: Corpus, initial: Named, gradients: list[Named]) -> Replay:
    def in_torch(make: MakeTorchOptimizer) -> Iterator[Snapshot]:
        return replay_torch(config, corpus, initial, gradients, make)

    def in_flax(transform: optax.GradientTransformation) -> Iterator[Snapshot]:
        return replay_flax(config, initial, gradients, transform)

    rule = recipe(config)
    torch_flax, flax_numpy = compare(
        in_torch(lambda named: trainfn_torch.Optimizer(named, rule)),
        in_flax(trainfn_jax.transform(rule)),
        replay_numpy(initial, gradients, rule),
    )
    (baseline,) = compare(in_torch(lambda named: TorchBaseline(named, config)), in_flax(optax_baseline(config)))
    return Replay(torch_flax, flax_numpy, baseline)


def usable_cores() -> int:
    """What this process may use, which in a container is less than what the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment() -> dict[str, str]:
    packages = ("trainfn", "torch", "jax", "flax", "optax", "numpy")
    return {
        "Python": platform.python_version(),
        **{package: version(package) for package in packages},
        "machine": f"{platform.system()} {platform.machine()}, {usable_cores()} cores",
    }


if __name__ == "__main__":
    sys.exit(main())
