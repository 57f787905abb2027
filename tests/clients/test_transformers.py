"""Hugging Face's Trainer with the optimizers and schedulers of trainfn_torch, and transformers' schedules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState

import trainfn_torch
from tests.bits import assert_same_bits
from tests.catalogue.schedules import HUGGINGFACE
from tests.clients.runs import NAMESAKES, RULE, assert_close, namesakes, optimizer_of
from tests.torch.optimizer_runs import snapshot

STEPS = 6
CONFIG = transformers.GPT2Config(
    vocab_size=17,
    n_positions=8,
    n_embd=8,
    n_layer=1,
    n_head=2,
    bos_token_id=0,
    eos_token_id=0,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
)


@pytest.fixture(autouse=True)
def _one_accelerator_at_a_time() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def language_model() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(CONFIG)


def samples() -> list[dict[str, torch.Tensor]]:
    tokens = torch.randint(17, (4 * STEPS, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": x, "labels": x} for x in tokens]


def train(directory: Path, model: Any, optimizers: Any, resume: str | None = None, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        str(directory),
        use_cpu=True,
        max_steps=STEPS,
        per_device_train_batch_size=4,
        max_grad_norm=0.5,
        save_strategy=options.pop("save_strategy", "no"),
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        seed=3,
        **options,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=samples(), optimizers=optimizers)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def scheduled(model: Any) -> tuple[Any, Any]:
    optimizer = optimizer_of(model)
    return optimizer, trainfn_torch.lr_scheduler.RuleLR(optimizer)


def cosine(model: Any) -> tuple[Any, Any]:
    optimizer = trainfn_torch.optim.AdamW(model.parameters(), lr=0.01)
    return optimizer, trainfn_torch.lr_scheduler.get_scheduler("cosine", optimizer, 2, STEPS)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_trainer_is_a_loop_by_hand(tmp_path: Path, bf16: bool) -> None:
    """Its batches are noted where the model gets them."""
    model, twin = language_model(), language_model()
    seen: list[dict[str, torch.Tensor]] = []
    model.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    optimizer, scheduler = scheduled(model)
    trainer = train(tmp_path, model, (optimizer, scheduler), bf16=bf16)
    expected = optimizer_of(twin)
    for given in seen:
        expected.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = twin(**given).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        expected.step()
    assert len(seen) == STEPS
    assert_same_bits(snapshot(expected), snapshot(optimizer))
    logged = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert logged == [RULE.hyper["lr"](n) for n in range(STEPS)]  # those of the updates


def test_the_trainer_makes_no_scheduler_for_a_schedule(tmp_path: Path) -> None:
    model = language_model()
    with pytest.raises(RuntimeError, match="lr has two owners"):
        train(tmp_path, model, (optimizer_of(model), None))


@pytest.mark.parametrize("name", NAMESAKES)
def test_namesakes_in_the_trainer(tmp_path: Path, name: str) -> None:
    models = []
    for ours in (False, True):
        model = language_model().double()
        train(tmp_path, model, namesakes(name, model.parameters(), ours), gradient_accumulation_steps=2)
        models.append(model)
    assert_close(*models)


@pytest.mark.parametrize("make", [scheduled, cosine])
def test_the_trainer_resumes_from_its_checkpoint(tmp_path: Path, make: Any) -> None:
    model = language_model()
    optimizers = make(model)
    train(tmp_path, model, optimizers, save_strategy="steps", save_steps=3)
    straight = snapshot(optimizers[0])
    model = language_model()
    optimizers = make(model)
    train(tmp_path, model, optimizers, resume=str(tmp_path / "checkpoint-3"))
    assert_same_bits(straight, snapshot(optimizers[0]))


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_schedulers_of_transformers(name: str) -> None:
    """Up to the last step, after which upstream's cosines climb again."""
    rates: list[list[float]] = []
    for get_scheduler in (transformers.get_scheduler, trainfn_torch.lr_scheduler.get_scheduler):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        scheduler: Any = get_scheduler(name, optimizer, 7, 60, HUGGINGFACE[name][0])
        rates.append([])
        for _ in range(60):
            rates[-1].append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
    assert rates[1] == pytest.approx(rates[0], rel=1e-12, abs=1e-15)


def test_every_scheduler_of_transformers_is_here() -> None:
    without_a_curve = {"reduce_lr_on_plateau", "greedy"}
    assert {name.value for name in transformers.SchedulerType} == HUGGINGFACE.keys() | without_a_curve


def test_the_greedy_scheduler_of_transformers() -> None:
    metrics = [3.0, 2.0, 2.5, 2.6, 2.7, 1.0, 0.9, 0.8, 0.7, 0.9, 0.9, 0.9, 0.9, 0.9, 0.5] * 3
    rates: list[list[float]] = []
    for get_scheduler in (transformers.get_scheduler, trainfn_torch.lr_scheduler.get_scheduler):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
        specific = {"factor": 0.9, "patience": 1, "smooth": True, "window_size": 2}
        scheduler: Any = get_scheduler("greedy", optimizer, scheduler_specific_kwargs=specific)
        rates.append([])
        for metric in metrics:
            scheduler.step(metric)
            rates[-1].append(optimizer.param_groups[0]["lr"])
    assert len(set(rates[0])) > 5
    assert rates[1] == pytest.approx(rates[0], rel=1e-12)
