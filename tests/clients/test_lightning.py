"""Lightning: Fabric and Trainer with the optimizers and schedulers of trainfn_torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins import MixedPrecision as FabricMixedPrecision
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from tests.clients.runs import (
    NAMESAKES,
    assert_close,
    batch,
    grouped,
    loss_of,
    namesakes,
    network,
    optimizer_of,
    weights,
)
from tests.torch.optimizer_runs import snapshot

pytestmark = [
    # Lightning would have a worker load what lies in memory.
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    # It uses what torch 2.13 deprecates.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
]

STEPS = 6


def by_hand(
    optimizer: Any,
    model: torch.nn.Module,
    *,
    steps: range = range(STEPS),
    clip: float | None = None,
    dtype: torch.dtype | None = None,
    scaler: Any = None,
    factor: Callable[[int], float] = lambda n: 1.0,
) -> None:
    """The loop that a client is to be."""
    for n in steps:
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = loss_of(model, batch(n)) * factor(n)
        (loss if scaler is None else scaler.scale(loss)).backward()
        if scaler is not None and clip is not None:
            scaler.unscale_(optimizer)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(grouped(optimizer), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()


def overflow(n: int) -> float:
    return torch.inf if n in (1, 4) else 1.0


def scaler() -> Any:
    return torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=2)


# -- Fabric ------------------------------------------------------------------------------------------------------------


def with_fabric(
    fabric: Any,
    model: Any,
    optimizer: Any,
    steps: range = range(STEPS),
    clip: float | None = None,
    factor: Callable[[int], float] = lambda n: 1.0,
) -> None:
    for n in steps:
        optimizer.zero_grad()
        fabric.backward(loss_of(model, batch(n)) * factor(n))
        if clip is not None:
            fabric.clip_gradients(model, optimizer, max_norm=clip, error_if_nonfinite=False)
        optimizer.step()


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", None), ("bf16-mixed", torch.bfloat16)])
def test_fabric_is_a_loop_by_hand(precision: Any, dtype: torch.dtype | None) -> None:
    model, twin = network(), network()
    expected, own = optimizer_of(twin), optimizer_of(model)
    by_hand(expected, twin, clip=0.05, dtype=dtype)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    wrapped, optimizer = fabric.setup(model, own)
    with_fabric(fabric, wrapped, optimizer, clip=0.05)
    assert_same_bits(snapshot(expected), snapshot(own))
    assert isinstance(optimizer, trainfn_torch.Optimizer)
    averages = {name: x.numpy() for name, x in expected.eval_params().items()}
    assert_same_bits(averages, {name: x.numpy() for name, x in optimizer.eval_params().items()})


@pytest.mark.parametrize("clip", [None, 0.05])
def test_fabric_with_a_gradient_scaler(clip: float | None) -> None:
    """Two of six updates overflow, and are left out; who clips in between says `unscales=False`."""
    model, twin = network(), network()
    expected, own = optimizer_of(twin), optimizer_of(model, unscales=clip is None)
    by_hand(expected, twin, clip=clip, dtype=torch.float16, scaler=scaler(), factor=overflow)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=FabricMixedPrecision("16-mixed", "cpu", scaler()))
    wrapped, optimizer = fabric.setup(model, own)
    with_fabric(fabric, wrapped, optimizer, clip=clip, factor=overflow)
    assert_same_bits(snapshot(expected), snapshot(own))
    assert float(own.param_groups[0]["updates"]) == STEPS - 2


def test_fabric_clips_no_gradients_that_the_optimizer_unscales() -> None:
    """As with torch's fused optimizers."""
    model = network()
    fabric = Fabric(accelerator="cpu", devices=1, plugins=FabricMixedPrecision("16-mixed", "cpu", scaler()))
    wrapped, optimizer = fabric.setup(model, optimizer_of(model))
    with pytest.raises(NotImplementedError, match="optimizers handling the unscaling"):
        with_fabric(fabric, wrapped, optimizer, clip=0.05)


@pytest.mark.parametrize("name", NAMESAKES)
def test_namesakes_in_fabric(name: str) -> None:
    models = []
    for ours in (False, True):
        model = network().double()
        optimizer, scheduler = namesakes(name, model.parameters(), ours)
        fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
        wrapped, optimizer = fabric.setup(model, optimizer)
        for n in range(STEPS):
            optimizer.zero_grad()
            fabric.backward(wrapped(batch(n, torch.float64)).square().mean())
            fabric.clip_gradients(wrapped, optimizer, max_norm=0.05)
            optimizer.step()
            scheduler.step()
        models.append(model)
    assert_close(*models)


def test_fabric_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    model, other = network(), network(1)
    straight, resumed = optimizer_of(model), optimizer_of(other)
    wrapped, optimizer = fabric.setup(model, straight)
    with_fabric(fabric, wrapped, optimizer, range(3))
    fabric.save(tmp_path / "run.ckpt", {"model": wrapped, "optimizer": optimizer})
    with_fabric(fabric, wrapped, optimizer, range(3, STEPS))
    wrapped, optimizer = fabric.setup(other, resumed)
    fabric.load(tmp_path / "run.ckpt", {"model": wrapped, "optimizer": optimizer})
    with_fabric(fabric, wrapped, optimizer, range(3, STEPS))
    assert_same_bits(snapshot(straight), snapshot(resumed))


def test_fabric_passes_a_closure_on() -> None:
    """To a rule that asks for the loss."""
    models = [network(), network()]
    plain, own = (optimizer_of(m, tf.polyak_sgd(lr=0.1)) for m in models)
    wrapped, stepped = Fabric(accelerator="cpu", devices=1).setup(models[1], own)
    for optimizer, model in ((plain, models[0]), (stepped, wrapped)):

        def closure(optimizer: Any = optimizer, model: Any = model) -> torch.Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch(0))
            loss.backward()
            return loss

        optimizer.step(closure)
    assert_same_bits(snapshot(plain), snapshot(own))


# -- Trainer -----------------------------------------------------------------------------------------------------------


class Module(LightningModule):
    """The network with an optimizer, and a scheduler for each step if there is one."""

    def __init__(
        self,
        configure: Callable[[torch.nn.Module], Any],
        dtype: torch.dtype = torch.float32,
        factor: Callable[[int], float] = lambda n: 1.0,
    ) -> None:
        super().__init__()
        self.network = network().to(dtype)
        self.configure, self.factor = configure, factor

    def training_step(self, x: torch.Tensor, n: int) -> torch.Tensor:
        return loss_of(self.network, x) * self.factor(n)

    def configure_optimizers(self) -> Any:
        made = self.configure(self.network)
        if not isinstance(made, tuple):
            return made
        optimizer, scheduler = made
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def fit(
    module: Module,
    steps: int = STEPS,
    epoch: int = STEPS,
    dtype: torch.dtype = torch.float32,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    """Steps on an epoch's batches, which come again."""
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    batches: Any = [batch(n, dtype) for n in range(epoch)]
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", None), ("bf16-mixed", torch.bfloat16)])
def test_the_trainer_is_a_loop_by_hand(precision: Any, dtype: torch.dtype | None) -> None:
    twin = network()
    expected = optimizer_of(twin)
    by_hand(expected, twin, clip=0.05, dtype=dtype)
    module = Module(lambda model: optimizer_of(model, unscales=dtype is None))
    trainer = fit(module, precision=precision, gradient_clip_val=0.05)
    assert_same_bits(snapshot(expected), snapshot(trainer.optimizers[0]))


@pytest.mark.parametrize("clip", [None, 0.05])
def test_the_trainer_with_a_gradient_scaler(clip: float | None) -> None:
    twin = network()
    expected = optimizer_of(twin)
    by_hand(expected, twin, clip=clip, dtype=torch.float16, scaler=scaler(), factor=overflow)
    module = Module(lambda model: optimizer_of(model, unscales=clip is None), factor=overflow)
    plugin = MixedPrecision("16-mixed", "cpu", scaler())
    trainer = fit(module, plugins=plugin, gradient_clip_val=clip)
    assert_same_bits(snapshot(expected), snapshot(trainer.optimizers[0]))
    assert float(trainer.optimizers[0].param_groups[0]["updates"]) == STEPS - 2


@pytest.mark.parametrize(
    "options", [{"precision": "bf16-mixed"}, {"plugins": MixedPrecision("16-mixed", "cpu", scaler())}]
)
def test_the_trainer_clips_no_gradients_that_the_optimizer_may_unscale(options: Any) -> None:
    """As with torch's fused optimizers: the remedy is `unscales=False`, or a clip in the rule."""
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        fit(Module(optimizer_of), gradient_clip_val=0.05, **options)


@pytest.mark.parametrize("name", NAMESAKES)
def test_namesakes_in_the_trainer(name: str) -> None:
    models = []
    for ours in (False, True):
        module = Module(lambda model, ours=ours: namesakes(name, model.parameters(), ours), torch.float64)
        fit(module, dtype=torch.float64, precision="64-true", gradient_clip_val=0.05, accumulate_grad_batches=2)
        models.append(module.network)
    assert_close(*models)


def test_the_trainer_gives_the_loss_to_a_rule_that_asks_for_it() -> None:
    """By its closure."""
    rule, twin = tf.polyak_sgd(lr=0.1), network()
    expected = optimizer_of(twin, rule)
    for n in range(STEPS):
        expected.zero_grad()
        loss = loss_of(twin, batch(n))
        loss.backward()
        expected.step(value=loss)
    module = Module(lambda model: optimizer_of(model, rule))
    fit(module)
    assert_same_bits(weights(twin), weights(module.network))


class Seeking(Module):
    """Its batch is a function of the step: where Lightning begins in the loader again is not what is tested."""

    def training_step(self, x: torch.Tensor, n: int) -> torch.Tensor:
        return loss_of(self.network, batch(self.global_step))


@pytest.mark.parametrize("configure", [optimizer_of, lambda model: namesakes("adamw", model.parameters())])
def test_the_trainer_resumes_from_its_checkpoint(tmp_path: Path, configure: Any) -> None:
    trainer = fit(Seeking(configure), 3, epoch=3)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    straight = fit(Seeking(configure), epoch=3)
    resumed = fit(Seeking(configure), epoch=3, ckpt_path=tmp_path / "run.ckpt")
    assert resumed.global_step == STEPS
    assert_same_bits(snapshot(straight.optimizers[0]), snapshot(resumed.optimizers[0]))
