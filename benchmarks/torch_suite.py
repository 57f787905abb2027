"""torch on the CPU: fused steps against torch.optim and Inductor."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_optimizer
import torch

import trainfn as tf
import trainfn_torch
from benchmarks.models import SMALL, TRANSFORMER, Shapes, count
from benchmarks.pairs import compare, measure
from benchmarks.rows import ratio_row, row
from trainfn.lowering import lower

Step = Callable[[], object]


def parameters(shapes: Shapes) -> list[torch.Tensor]:
    """Of these shapes, with gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(s, generator=generator).mul_(0.02).requires_grad_() for s in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator).mul_(1e-3)
    return params


def _ours(rule: tf.Rule, shapes: Shapes = TRANSFORMER) -> Step:
    return trainfn_torch.Optimizer(parameters(shapes), rule, execution="fused").step


def _theirs(make: Callable[..., torch.optim.Optimizer], shapes: Shapes = TRANSFORMER, **hyper: Any) -> Step:
    return make(parameters(shapes), **hyper).step


def adamw_fused() -> dict[str, str]:
    ratio = compare(_ours(tf.adamw()), _theirs(torch.optim.AdamW, fused=True))
    return ratio_row("AdamW, fused", "torch AdamW(fused=True)", ratio, 1.0)


def many_small_tensors() -> dict[str, str]:
    ratio = compare(_ours(tf.adamw(), SMALL), _theirs(torch.optim.AdamW, SMALL, fused=True), pairs=100)
    return ratio_row("AdamW, 1,000 tensors of 64", "torch AdamW(fused=True)", ratio, 0.5)


def looking_at_small_tensors() -> dict[str, str]:
    """What of the step over small tensors is spent by the kernels: the rest is looking at 5,000 tensors in Python."""
    step = _ours(tf.adamw(), SMALL)
    step()  # makes the plan
    (plan,) = [batch.kept for _, batch in step.__self__._plan._batches]  # type: ignore[attr-defined]

    def kernels() -> None:
        plan.run(None)

    ratio = compare(kernels, step, pairs=100)
    return row("of that, kernels and version counters", "the whole step", str(ratio), "no target", "-")


def unscale_clip_adamw() -> dict[str, str]:
    """The whole of a mixed-precision update.  A loss scale of 1 leaves torch's gradients what they are."""
    optimizer = trainfn_torch.Optimizer(
        parameters(TRANSFORMER),
        tf.skip_if_not_finite(tf.chain(tf.clip_by_global_norm(1e6), tf.adamw())),
        execution="fused",
    )

    def ours() -> None:
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(0.0)  # type: ignore[attr-defined]
        optimizer.step()

    params = parameters(TRANSFORMER)
    upstream = torch.optim.AdamW(params, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=10**9)
    scaler.scale(torch.zeros(()))

    def theirs() -> None:
        scaler.unscale_(upstream)
        torch.nn.utils.clip_grad_norm_(params, 1e6)
        scaler.step(upstream)
        scaler.update()

    return ratio_row(
        "unscale + finite check + clip + AdamW, reproducible",
        "unscale_, clip_grad_norm_, fused AdamW",
        compare(ours, theirs),
        0.65,
    )


FUSED_UPSTREAM: Sequence[tuple[str, tf.Rule, Any, dict[str, Any]]] = (
    ("SGD with momentum, fused", tf.sgd(momentum=0.9), torch.optim.SGD, {"momentum": 0.9}),
    ("Adam, fused", tf.adam(), torch.optim.Adam, {}),
    ("Adagrad, fused", tf.adagrad(), torch.optim.Adagrad, {}),
)


def _fused(name: str, rule: tf.Rule, make: Any, hyper: dict[str, Any]) -> Callable[[], dict[str, str]]:
    """The others that torch has fused on the CPU."""

    def measured() -> dict[str, str]:
        ratio = compare(_ours(rule), _theirs(make, fused=True, **hyper), pairs=20, seconds=15)
        return row(name, f"torch {make.__name__}(fused=True)", str(ratio), "no target", "-")

    measured.__name__ = name.partition(",")[0].replace(" ", "_").lower() + "_fused"
    return measured


def _slower(execution: str, foreach: bool) -> Callable[[], dict[str, str]]:
    """What runs where there is no compiler, on accelerators for now, and for tensors that the kernels do not take."""

    def measured() -> dict[str, str]:
        ours = trainfn_torch.Optimizer(parameters(TRANSFORMER), tf.adamw(), execution=execution).step
        ratio = compare(ours, _theirs(torch.optim.AdamW, foreach=foreach), pairs=12, warmup=2)
        return row(f"AdamW, execution = {execution}", f"torch AdamW(foreach={foreach})", str(ratio), "no target", "-")

    measured.__name__ = execution
    return measured


# What a foreach implementation moves for each parameter, in words: one pass for each _foreach_ call.
ELEMENTWISE: Sequence[tuple[str, tf.Rule, Any, dict[str, Any], int]] = (
    ("SGD with momentum", tf.sgd(momentum=0.9), torch.optim.SGD, {"momentum": 0.9}, 3 + 3 + 2),
    ("Adam", tf.adam(), torch.optim.Adam, {}, 3 + 2 + 3 + 2 + 2 + 2 + 4),
    ("AdamW", tf.adamw(), torch.optim.AdamW, {}, 2 + 3 + 2 + 3 + 2 + 2 + 2 + 4),
    ("Lion", tf.lion(weight_decay=0.0), pytorch_optimizer.Lion, {}, 3 + 2 + 3 + 3),
    ("RAdam", tf.radam(), torch.optim.RAdam, {}, 3 + 2 + 3 + 2 + 2 + 2 + 2 + 2 + 4),
    ("RMSprop", tf.rmsprop(), torch.optim.RMSprop, {}, 2 + 3 + 2 + 2 + 4),
    ("Adagrad", tf.adagrad(), torch.optim.Adagrad, {}, 3 + 2 + 2 + 2 + 4),
)


def _elementwise(
    name: str, rule: tf.Rule, make: Any, hyper: dict[str, Any], their_words: int
) -> Callable[[], dict[str, str]]:
    library = make.__module__.partition(".")[0]

    def measured() -> dict[str, str]:
        program = lower(rule.program().keep(n for n in rule.program().output if n != "update"))
        target = 1.15 * program.words / their_words
        ratio = compare(_ours(rule), _theirs(make, foreach=True, **hyper), pairs=20, seconds=15)
        return ratio_row(f"{name} ({program.words} words)", f"{library} foreach ({their_words} words)", ratio, target)

    measured.__name__ = name.replace(" ", "_").lower()
    return measured


def inductor() -> dict[str, str]:
    """torch.compile of torch's own step: compile time beside ours, and the steps after."""
    compiled = torch.compile(torch.optim.AdamW(parameters(TRANSFORMER), foreach=True).step)
    with tempfile.TemporaryDirectory() as cache:  # Inductor's own cache must be as cold as ours
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        their_first = measure(compiled)
    our_first = _cold_first_step()
    ratio = compare(_ours(tf.adamw()), compiled, pairs=20)
    return row(
        "first step of a new rule, cold cache",
        "torch.compile of AdamW's step",
        f"{our_first:.2f} s, {our_first / their_first:.3f}x; steps after that {ratio}",
        "0.02x and under 0.5 s",
        "met" if our_first < 0.5 and our_first <= 0.02 * their_first else "missed",
    )


def _cold_first_step() -> float:
    """Seconds of the first step with an empty kernel cache, in a fresh process, the median of five."""
    code = (
        "import time, torch, trainfn as tf; from benchmarks.torch_suite import _ours; step = _ours(tf.adamw());"
        "begin = time.perf_counter(); step(); print(time.perf_counter() - begin)"
    )
    times = []
    for _ in range(5):
        with tempfile.TemporaryDirectory() as cache:
            run = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "XDG_CACHE_HOME": cache},
                capture_output=True,
                text=True,
                check=True,
            )
        times.append(float(run.stdout))
    return sorted(times)[2]


def bandwidth() -> dict[str, str]:
    """Bytes a second against a triad a = b + 3 c of torch's over arrays as large."""
    b, c = (torch.randn(count(TRANSFORMER)) for _ in range(2))
    a = torch.empty_like(b)
    ours, triad = _ours(tf.adamw()), lambda: torch.add(b, c, alpha=3.0, out=a)
    ratio = compare(ours, triad)
    share = (28 / 12) / ratio.median
    low, high = (28 / 12) / ratio.high, (28 / 12) / ratio.low
    return row(
        "bytes a second, AdamW fused (28 bytes a parameter)",
        "triad (12 bytes)",
        f"{share:.2f}x [{low:.2f}, {high:.2f}]",
        "at least 0.85x",
        "met" if low >= 0.85 else ("met at the median" if share >= 0.85 else "missed"),
    )


def extra_memory() -> dict[str, str]:
    """How far the process's peak rises above what it holds, over a step."""
    step = _ours(tf.chain(tf.clip_by_global_norm(), tf.adamw()))
    step()
    with open("/proc/self/clear_refs", "w") as file:  # the peak begins anew
        file.write("5")
    before = _status("VmRSS")
    step()
    extra = max(0, _status("VmHWM") - before)
    parameters = 4 * count(TRANSFORMER)
    return row(
        "extra memory at the peak of a fused step",
        "the parameters' bytes",
        f"{extra / 2**20:.2f} MiB, {extra / parameters:.4f}x",
        "0 parameter-sized buffers",
        "met" if extra < 0.02 * parameters else "missed",
    )


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(key))
    return int(line.split()[1]) * 1024


ROWS: tuple[Callable[[], dict[str, str]], ...] = (
    adamw_fused,
    unscale_clip_adamw,
    *(_fused(*case) for case in FUSED_UPSTREAM),
    *(_elementwise(*case) for case in ELEMENTWISE),
    _slower("foreach", foreach=True),
    _slower("single", foreach=False),
    many_small_tensors,
    looking_at_small_tensors,
    bandwidth,
    extra_memory,
    inductor,
)
