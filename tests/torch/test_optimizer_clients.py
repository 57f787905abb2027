"""The optimizer under torch's own machinery: scaler, schedulers, clipping, distributed checkpoints, FSDP2, ZeRO."""

from __future__ import annotations

import copy
import math
import socket
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.optim import lr_scheduler

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from tests.torch.optimizer_runs import EXECUTIONS, Reference, give_gradients, parameters, snapshot
from tests.torch.test_optimizer import BY_SHAPE, DECAY, keeps_numbers, optimizer_of, polyak


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def backward(model: torch.nn.Module, seed: int = 1, scale: Any = None) -> None:
    torch.manual_seed(seed)
    loss = model(torch.randn(16, 4)).square().mean()
    (loss if scale is None else scale(loss)).backward()


# -- GradScaler --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("clips", [False, True])
def test_a_gradient_scaler_unscales_and_skips(execution: str, clips: bool) -> None:
    """Powers of two scale exactly, so the run equals one without a scaler, and a skip holds everything."""
    model, twin = network(), network()
    made = tf.chain(tf.clip_by_global_norm(0.1), tf.adamw(lr=DECAY))
    optimizer = trainfn_torch.Optimizer(model.named_parameters(), made, execution=execution)
    plain = trainfn_torch.Optimizer(twin.named_parameters(), made, execution=execution)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for n in range(6):
        optimizer.zero_grad()
        backward(model, n, scaler.scale)
        overflows = n in (1, 3)
        if overflows:
            model[0].weight.grad[0, 0] = torch.inf
        if clips:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        before = snapshot(optimizer)
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        assert not hasattr(optimizer, "found_inf")
        if overflows:
            assert_same_bits(before, snapshot(optimizer), f"skip at {n}")
            assert scaler.get_scale() == scale / 2
            continue
        plain.zero_grad()
        backward(twin, n)
        if clips:
            torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.05)
        plain.step()
        assert_same_bits(snapshot(plain), snapshot(optimizer), f"step {n}")
    assert float(optimizer.param_groups[0]["updates"]) == 4
    assert optimizer.param_groups[0]["lr"] == DECAY(4)


def test_the_scaler_may_do_it_all_itself() -> None:
    params = parameters()
    optimizer = optimizer_of(params, tf.adamw(), unscales=False)
    assert optimizer._step_supports_amp_scaling is False
    assert trainfn_torch.Optimizer._step_supports_amp_scaling is True
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    expected = Reference(tf.adamw(), params)
    for n in range(3):
        give_gradients(params, n)
        if n != 1:
            expected.step(params)
        scale = scaler.scale(torch.ones(())).item()
        for p in params.values():
            p.grad *= torch.nan if n == 1 else scale
        scaler.step(optimizer)
        scaler.update()
    expected.check(optimizer, params)


# -- schedulers and clipping -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda o: lr_scheduler.StepLR(o, 2, 0.5),
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.1, total_steps=20),
        lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-1, step_size_up=3),
        lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
        lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.LinearLR(o), lr_scheduler.ConstantLR(o)], [3]),
    ],
)
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_torch_schedulers_write_numbers_that_are_used(make: Any, name: str) -> None:
    hyper: dict[str, Any] = {"lr": 0.05, **({"momentum": 0.9} if name == "SGD" else {})}
    runs = []
    for library in (torch.optim, trainfn_torch.optim):
        params = {k: torch.nn.Parameter(p.detach().double()) for k, p in parameters().items()}
        optimizer = getattr(library, name)(params.values(), **hyper)
        scheduler = make(optimizer)
        for n in range(8):
            give_gradients(params, n)
            optimizer.step()
            scheduler.step()
        runs.append((params, optimizer))
    for a, b in zip(runs[0][0].values(), runs[1][0].values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for key in ("lr", "betas", "momentum"):
        assert runs[0][1].param_groups[0].get(key) == runs[1][1].param_groups[0].get(key)


def test_a_tensor_lr_is_read_where_it_is() -> None:
    params = parameters()
    lr = torch.tensor(0.5)
    optimizer, expected = optimizer_of(params, tf.adamw(lr=lr)), Reference(tf.adamw(lr=0.5), params)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    for n in range(3):
        expected.rule = tf.adamw(lr=0.5**n * 0.5)
        give_gradients(params, n)
        optimizer.step()
        scheduler.step()
        expected.step(params)
    expected.check(optimizer, params)


# -- distributed -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_rank() -> Iterator[None]:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    dist.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("made", [tf.adamw(lr=DECAY), tf.adamw(lr=0.25), BY_SHAPE, keeps_numbers()])
def test_distributed_checkpoints(made: tf.Rule, flatten: bool) -> None:
    """torch.distributed.checkpoint primes a fresh optimizer with a step at lr 0 before it loads."""
    from torch.distributed.checkpoint import state_dict as dcp

    options = dcp.StateDictOptions(flatten_optimizer_state_dict=flatten)
    model = network()
    optimizer = trainfn_torch.Optimizer(model.named_parameters(), made)
    for n in range(3):
        optimizer.zero_grad()
        backward(model, n)
        optimizer.step()
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(model, optimizer, options=options))
    other = network()
    other.load_state_dict(model.state_dict())
    loaded = trainfn_torch.Optimizer(other.named_parameters(), made)
    dcp.set_optimizer_state_dict(other, loaded, saved, options=options)
    assert_same_bits(dict(model.state_dict()), dict(other.state_dict()))  # priming moved nothing
    assert_same_bits(snapshot(optimizer), snapshot(loaded))
    for m, o in ((model, optimizer), (other, loaded)):
        o.zero_grad()
        backward(m, 7)
        o.step()
    assert_same_bits(snapshot(optimizer), snapshot(loaded))


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize(
    "made", [tf.adamw(lr=DECAY), tf.chain(tf.clip_by_global_norm(0.01), tf.adamw()), keeps_numbers()]
)
def test_fully_sharded_parameters(one_rank: None, execution: str, made: tf.Rule) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model, twin = network(), network()
    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    fully_shard(model, mesh=mesh)
    optimizer = trainfn_torch.Optimizer(model.named_parameters(), made, execution=execution)
    plain = trainfn_torch.Optimizer(twin.named_parameters(), made, execution="single")
    for n in range(3):
        for m, o in ((model, optimizer), (twin, plain)):
            o.zero_grad()
            backward(m, n)
            o.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert isinstance(p, DTensor)
        assert_same_bits({"p": q.detach()}, {"p": p.detach().full_tensor()})
        for name, x in plain.state[q].items():
            y = optimizer.state[p][name]
            assert isinstance(y, DTensor) == (x.ndim > 0 and x.shape == q.shape)
            assert_same_bits({name: x}, {name: y.full_tensor() if isinstance(y, DTensor) else y})


def test_sharded_updates_are_noticed_by_autograd(one_rank: None) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    p = torch.nn.Parameter(distribute_tensor(torch.ones(4), mesh, [Shard(0)]))
    optimizer = trainfn_torch.Optimizer([p], tf.sgd())
    loss = (p * p).sum()
    p.grad = torch.ones_like(p).detach()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_distributed_checkpoints_of_sharded_parameters(one_rank: None) -> None:
    from torch.distributed.checkpoint import state_dict as dcp
    from torch.distributed.fsdp import fully_shard

    mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
    runs = []
    for seed in (0, 1):
        model = network(seed)
        fully_shard(model, mesh=mesh)
        runs.append((model, trainfn_torch.Optimizer(model.named_parameters(), tf.adamw(lr=DECAY))))
    (model, optimizer), (other, loaded) = runs
    backward(model)
    optimizer.step()
    options = dcp.StateDictOptions(full_state_dict=True)
    saved = copy.deepcopy(dcp.get_optimizer_state_dict(model, optimizer, options=options))
    dcp.set_optimizer_state_dict(other, loaded, saved, options=options)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        for name, x in optimizer.state[p].items():
            y = loaded.state[q][name]
            assert type(x) is type(y)
            assert_same_bits(
                {name: x.full_tensor() if name != "step" else x}, {name: y.full_tensor() if name != "step" else y}
            )
    assert loaded.param_groups[0]["lr"] == DECAY(1)


def test_the_gradient_scaler_on_sharded_parameters(one_rank: None) -> None:
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
    optimizer = trainfn_torch.Optimizer(model.named_parameters(), tf.adamw())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for n in range(3):
        optimizer.zero_grad()
        backward(model, n, scaler.scale)
        if n == 1:
            next(model.parameters()).grad.to_local().fill_(torch.inf)
        scaler.step(optimizer)
        scaler.update()
    assert float(optimizer.param_groups[0]["updates"]) == 2


def test_zero_redundancy_optimizer(one_rank: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what it imports itself
        from torch.distributed.optim import ZeroRedundancyOptimizer

    model, twin = network(), network()
    sharded = ZeroRedundancyOptimizer(model.parameters(), trainfn_torch.Optimizer, rule=tf.adamw(lr=DECAY))
    plain = trainfn_torch.Optimizer(twin.parameters(), tf.adamw(lr=DECAY))
    for n in range(3):
        for m, o in ((model, sharded), (twin, plain)):
            o.zero_grad()
            backward(m, n)
            o.step()
    assert sharded.param_groups[0]["lr"] == DECAY(3)
    assert_same_bits(dict(twin.state_dict()), dict(model.state_dict()))


def test_an_optimizer_for_each_parameter_inside_backward() -> None:
    model, twin = network(), network()
    optimizers = {p: trainfn_torch.Optimizer([p], tf.adamw()) for p in model.parameters()}

    def update(p: torch.Tensor) -> None:
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(update)
    whole = trainfn_torch.Optimizer(twin.parameters(), tf.adamw())
    for n in range(2):
        backward(model, n)
        whole.zero_grad()
        backward(twin, n)
        whole.step()
    assert_same_bits(dict(twin.state_dict()), dict(model.state_dict()))
    assert all(p.grad is None for p in model.parameters())


# -- torch.compile -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    "made", [tf.adamw(), tf.chain(tf.clip_by_global_norm(0.1), tf.adamw(lr=DECAY)), keeps_numbers()]
)
def test_a_compiled_step_is_one_operation_and_recompiles_for_no_learning_rate(made: tf.Rule, backend: str) -> None:
    graphs: list[Any] = []

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    torch._dynamo.reset()
    runs = []
    for compiles in (False, True):
        params = parameters()
        optimizer = optimizer_of(params, made)
        step = torch.compile(optimizer.step, backend=counted, fullgraph=True) if compiles else optimizer.step
        for n in range(14):
            give_gradients(params, n)
            if "lr" not in optimizer._groups[0].schedules:
                optimizer.param_groups[0]["lr"] = 0.1 / (n + 1)
            step()
        runs.append((params, optimizer))
    assert_same_bits(*({k: p.detach() for k, p in params.items()} for params, _ in runs))
    assert_same_bits(*(snapshot(optimizer) for _, optimizer in runs))
    assert 1 <= len(graphs) <= 3


def test_a_compiled_step_under_a_scheduler_breaks_the_graph_and_nothing_else() -> None:
    """torch marks what LRScheduler puts around `step` as not to be traced; the step itself still is."""
    torch._dynamo.reset()
    runs = []
    for compiles in (False, True):
        params = parameters()
        optimizer = optimizer_of(params, tf.adamw(lr=0.1))
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)

        def step(optimizer: Any = optimizer) -> None:
            optimizer.step()

        run = torch.compile(step, backend="aot_eager") if compiles else step
        for n in range(5):
            give_gradients(params, n)
            run()
            scheduler.step()
        runs.append(optimizer)
    assert_same_bits(*map(snapshot, runs))


def test_a_compiled_step_takes_the_loss() -> None:
    torch._dynamo.reset()
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = trainfn_torch.Optimizer([p], polyak())
    step = torch.compile(lambda loss: optimizer.step(value=loss), backend="aot_eager", fullgraph=True)
    p.grad = torch.ones(1)
    for loss in (1.0, 4.0):
        step(torch.tensor(loss))
    assert p.item() == 2.0 - 1.0 - 4.0


def test_a_compiled_step_after_another_change_of_the_parameters() -> None:
    torch._dynamo.reset()
    p = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = trainfn_torch.Optimizer([p], tf.sgd(lr=1.0))

    @torch.no_grad()
    def halve_and_step() -> None:
        p.mul_(0.5)
        optimizer.step()
        p.add_(8.0)

    run = torch.compile(halve_and_step, backend="aot_eager", fullgraph=True)
    p.grad = torch.ones(1)
    run()
    assert p.item() == 2.0 * 0.5 - 1.0 + 8.0


def test_a_compiled_function_that_assigns_gradients() -> None:
    """The graph's operations run before its attributes are written."""
    torch._dynamo.reset()
    params = [torch.nn.Parameter(torch.full((2,), 4.0)) for _ in range(2)]
    optimizer = trainfn_torch.Optimizer(params, tf.sgd(lr=1.0))

    @torch.compile(backend="eager", fullgraph=True)
    def assign_and_step(grads: Any) -> None:
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        params[1].grad = None
        optimizer.step()

    for n in range(2):
        params[1].grad = torch.full((2,), math.nan)
        grads = [torch.ones(2), torch.ones(2)]
        assign_and_step(grads)
        assert params[0].grad is grads[0]
        assert params[1].grad is None
        assert params[0].tolist() == [3.0 - n] * 2
    assert params[1].tolist() == [4.0] * 2


@pytest.mark.parametrize("name", ["AdamW", "Adam", "RAdam"])
def test_a_scheduler_drives_the_whole_step_with_decoupled_decay(name: str) -> None:
    """One `lr` in the group, for the rule and its decay, as in torch."""
    options = {} if name == "AdamW" else {"decoupled_weight_decay": True}
    moved = {}
    for library in (torch.optim, trainfn_torch.optim):
        p = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True)
        optimizer = getattr(library, name)([p], lr=0.1, weight_decay=0.1, **options)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.01)
        for _ in range(3):
            p.grad = torch.ones_like(p)
            optimizer.step()
            scheduler.step()
        assert [k for k in optimizer.param_groups[0] if k.endswith("lr")] == ["lr", "initial_lr"]
        moved[library] = p.detach() - 2.0
    torch.testing.assert_close(moved[trainfn_torch.optim], moved[torch.optim], rtol=1e-6, atol=0)
