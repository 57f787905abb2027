"""Hugging Face's Accelerate with the optimizers and schedulers of trainfn_torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from accelerate.state import AcceleratorState, GradientState

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from tests.clients.runs import NAMESAKES, RULE, assert_close, batch, grouped, loss_of, namesakes, network, optimizer_of
from tests.torch.optimizer_runs import snapshot

STEPS = 6


@pytest.fixture(autouse=True)
def _one_accelerator_at_a_time() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def train(accelerator: Any, model: Any, optimizer: Any, scheduler: Any, batches: Any, clip: float = 0.05) -> None:
    for x in batches:
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, x))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(grouped(optimizer), clip)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()


@pytest.mark.parametrize(("precision", "dtype"), [("no", None), ("bf16", torch.bfloat16)])
def test_accelerate_is_a_loop_by_hand(precision: str, dtype: torch.dtype | None) -> None:
    """Seven batches, two to an update: the last update, of one, gets half of its gradient."""
    model, twin = network(), network()
    expected, own = optimizer_of(twin), optimizer_of(model)
    for n in range(7):
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            output = twin(batch(n))
        (output.float().square().mean() / 2).backward()
        if n % 2 or n == 6:
            torch.nn.utils.clip_grad_norm_(grouped(expected), 0.05)
            expected.step()
            expected.zero_grad()
    accelerator = Accelerator(cpu=True, mixed_precision=precision, gradient_accumulation_steps=2)
    numbers: Any = [batch(n) for n in range(7)]
    batches = torch.utils.data.DataLoader(numbers, batch_size=None)
    scheduler = trainfn_torch.lr_scheduler.RuleLR(own)
    train(accelerator, *accelerator.prepare(model, own, scheduler, batches))
    assert_same_bits(snapshot(expected), snapshot(own))
    assert scheduler.get_last_lr() == [RULE.hyper["lr"](4)] * 2


def test_accelerate_keeps_schedulers_from_a_schedule() -> None:
    """It loads the optimizer's state into the optimizer, which still sees that the learning rate has two owners."""
    model = network()
    optimizer = optimizer_of(model)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    prepared = Accelerator(cpu=True).prepare(optimizer, scheduler)
    with pytest.raises(RuntimeError, match="lr has two owners"):
        prepared[0].step()


@pytest.mark.parametrize("name", NAMESAKES)
def test_namesakes_in_accelerate(name: str) -> None:
    models = []
    for ours in (False, True):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = network().double()
        optimizer, scheduler = namesakes(name, model.parameters(), ours)
        numbers: Any = [batch(n, torch.float64) for n in range(STEPS)]
        batches = torch.utils.data.DataLoader(numbers, batch_size=None)
        train(accelerator, *accelerator.prepare(model, optimizer, scheduler, batches))
        models.append(model)
    assert_close(*models)


def test_accelerate_passes_a_closure_on() -> None:
    """To a rule that asks for the loss."""
    models = [network(), network()]
    plain, own = (optimizer_of(m, tf.polyak_sgd(lr=0.1)) for m in models)
    stepped = Accelerator(cpu=True).prepare(own)
    for optimizer, model in ((plain, models[0]), (stepped, models[1])):

        def closure(optimizer: Any = optimizer, model: Any = model) -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch(0))
            loss.backward()
            return loss

        optimizer.step(closure)
    assert_same_bits(snapshot(plain), snapshot(own))


@pytest.mark.parametrize(
    "make", [lambda model: (optimizer_of(model), None), lambda model: namesakes("adamw", model.parameters())]
)
def test_accelerate_resumes_from_its_checkpoint(tmp_path: Path, make: Any) -> None:
    accelerator = Accelerator(cpu=True)
    model = network()
    optimizer, scheduler = make(model)
    scheduler = scheduler or trainfn_torch.lr_scheduler.RuleLR(optimizer)
    prepared = accelerator.prepare(model, optimizer, scheduler)
    train(accelerator, *prepared, [batch(n) for n in range(3)])
    accelerator.save_state(str(tmp_path / "run"))
    train(accelerator, *prepared, [batch(n) for n in range(3, STEPS)])
    straight = snapshot(optimizer)

    accelerator = Accelerator(cpu=True)
    model = network(1)
    optimizer, scheduler = make(model)
    scheduler = scheduler or trainfn_torch.lr_scheduler.RuleLR(optimizer)
    prepared = accelerator.prepare(model, optimizer, scheduler)
    accelerator.load_state(str(tmp_path / "run"))
    train(accelerator, *prepared, [batch(n) for n in range(3, STEPS)])
    assert_same_bits(straight, snapshot(optimizer))


@pytest.mark.parametrize("unscales", [False, True])
def test_accelerate_with_a_gradient_scaler(unscales: bool) -> None:
    """Overflows are left out.  Accelerate sees it, and lets its schedulers wait, where the scaler unscales."""

    def made() -> Any:
        model = network()
        optimizer = optimizer_of(model, tf.adamw(lr=0.05), unscales=unscales)
        scheduler = trainfn_torch.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return model, optimizer, scheduler, torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)

    def backward(model: Any, scaler: Any, n: int) -> None:
        with torch.autocast("cpu", torch.float16):
            loss = loss_of(model, batch(n)) * (torch.inf if n in (1, 4) else 1.0)
        scaler.scale(loss).backward()

    model, expected, scheduler, scaler = made()
    for n in range(STEPS):
        expected.zero_grad()
        backward(model, scaler, n)
        scaler.step(expected)
        scaler.update()
        if unscales or n not in (1, 4):
            scheduler.step()

    Accelerator(cpu=True)  # which has no scaler on a CPU
    model, own, scheduler, scaler = made()
    optimizer = AcceleratedOptimizer(own, scaler=scaler)
    scheduler = AcceleratedScheduler(scheduler, optimizer)
    for n in range(STEPS):
        optimizer.zero_grad()
        backward(model, scaler, n)
        optimizer.step()
        scheduler.step()
        assert optimizer.step_was_skipped == (not unscales and n in (1, 4))
    assert_same_bits(snapshot(expected), snapshot(own))
    assert float(own.param_groups[0]["updates"]) == STEPS - 2
