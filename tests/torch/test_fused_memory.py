"""The fused execution works by address: whatever is exchanged between steps, it touches the right memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import trainfn as tf
import trainfn_torch
from tests.bits import assert_same_bits
from tests.executions import run_reference
from tests.inputs import numbers
from tests.torch.fused_runs import Model
from trainfn import Leaf
from trainfn_torch import fused
from trainfn_torch.kernels import compiler
from trainfn_torch.leaf import Batch, LeafUpdate
from trainfn_torch.warn import warned

SHAPES = ((6, 6), (40,), (), (3, 2, 2, 2))
PARAMS = {f"w{i}": numbers(i + 1, shape) for i, shape in enumerate(SHAPES)}


def gradients(k: int) -> dict[str, Any]:
    return {name: numbers(100 * k + i, p.shape) for i, (name, p) in enumerate(PARAMS.items())}


GRADS = [gradients(k) for k in range(1, 6)]


def test_a_plan_is_kept() -> None:
    model = Model(tf.adamw(), PARAMS)
    model.step(GRADS[0])
    plan = model.batch.kept
    model.step(GRADS[1])
    assert model.batch.kept is plan is not None


def _exchange_storage(model: Model) -> None:
    for leaf in model.leaves.values():
        leaf.p.data = leaf.p.data.clone()


def _exchange_states(model: Model) -> None:
    for name, leaf in model.leaves.items():
        states = {k: x.clone() for k, x in leaf.state.items()}
        model.leaves[name] = replace(leaf, state=states, step=leaf.step.clone())


def _exchange_states_in_place(model: Model) -> None:
    for leaf in model.leaves.values():
        for x in leaf.state.values():
            x.data = x.data.clone()


def _exchange_parameters(model: Model) -> None:
    for name, leaf in model.leaves.items():
        model.tensors[name] = leaf.p.clone()
        model.leaves[name] = replace(leaf, p=model.tensors[name])


def _lay_out_otherwise(model: Model) -> None:
    """The same memory, in another order of dimensions: the addresses do not tell."""
    leaf = model.leaves["w0"]
    for x in (leaf.p, *leaf.state.values()):
        address = x.data_ptr()
        x.copy_(x.t().clone())
        x.t_()
        assert x.data_ptr() == address


def _reverse_leaves(model: Model) -> None:
    model.leaves = dict(reversed(model.leaves.items()))


def _new_leaf_objects(model: Model) -> None:
    model.leaves = {k: replace(x) for k, x in model.leaves.items()}


def _to_shared_memory(model: Model) -> None:
    for leaf in model.leaves.values():
        leaf.p.share_memory_()


def _nothing(model: Model) -> None:
    pass


@pytest.mark.parametrize(
    "change",
    [_nothing, _exchange_storage, _exchange_states, _exchange_states_in_place, _exchange_parameters,
     _lay_out_otherwise, _reverse_leaves, _new_leaf_objects, _to_shared_memory],
)  # fmt: skip
def test_what_is_exchanged_between_steps(change: Callable[[Model], None]) -> None:
    model, expected = Model(tf.adamw(), PARAMS), run_reference(tf.adamw(), PARAMS, GRADS)
    for i, g in enumerate(GRADS):
        model.step(g)
        assert_same_bits(expected[i], model.snapshot(), f"step {i + 1}")
        change(model)


def test_old_memory_is_left_alone() -> None:
    model = Model(tf.adamw(), PARAMS)
    model.step(GRADS[0])
    old = [leaf.p.data for leaf in model.leaves.values()] + [x for y in model.leaves.values() for x in y.state.values()]
    before = [x.clone() for x in old]
    _exchange_storage(model)
    _exchange_states(model)
    model.step(GRADS[1])
    assert all(torch.equal(x, y) for x, y in zip(old, before, strict=True))


def test_a_gradient_that_is_refused_once_is_read_again() -> None:
    """One that shares the parameter's memory goes to another execution; addresses taken before are stale then."""
    p = torch.nn.Parameter(torch.zeros(4))
    optimizer = trainfn_torch.Optimizer([p], tf.sgd(lr=1.0), execution="fused")
    ones = torch.ones(4)
    for g in (ones, p.detach(), ones):
        p.grad = g
        optimizer.step()
    assert p.tolist() == [-1.0] * 4


def test_leaves_that_come_and_go() -> None:
    """Gradients that are None some of the time: each counter counts its own updates."""
    model = Model(tf.adamw(), PARAMS)
    present = [("w0", "w1", "w2", "w3"), ("w1", "w3"), ("w0",), ("w0", "w1", "w2", "w3"), ("w3", "w2")]
    for names, g in zip(present, GRADS, strict=True):
        every = model.leaves
        model.leaves = {name: every[name] for name in names}
        model.step(g)
        model.leaves = every
    for name in PARAMS:
        alone = Model(tf.adamw(), {name: PARAMS[name]})
        for names, g in zip(present, GRADS, strict=True):
            if name in names:
                alone.step({name: g[name]})
        mine = {k: v for k, v in model.snapshot().items() if k.startswith(name)}
        assert_same_bits({k: v for k, v in alone.snapshot().items() if k != "count"}, mine)


def test_gradients_change_layout_and_dtype_between_steps() -> None:
    model = Model(tf.adamw(), {"w0": PARAMS["w0"]})
    expected = run_reference(tf.adamw(), {"w0": PARAMS["w0"]}, [{"w0": g["w0"]} for g in GRADS])
    layouts: list[Callable[[torch.Tensor], torch.Tensor]] = [
        torch.Tensor.clone,
        lambda g: g.t().contiguous().t(),
        lambda g: torch._neg_view(-g),
        lambda g: g.double(),
        torch.Tensor.clone,
    ]
    for g, arrange, e in zip(GRADS, layouts, expected, strict=True):
        model.step({"w0": arrange(torch.from_numpy(g["w0"].copy()))})
        assert_same_bits(e, model.snapshot())


def test_gradients_are_not_kept_alive() -> None:
    model = Model(tf.adamw(), PARAMS)
    grads = {k: torch.from_numpy(g.copy()) for k, g in GRADS[0].items()}
    model.step(grads)
    seen = [weakref.ref(g) for g in grads.values()]
    del grads
    for leaf in model.leaves.values():
        leaf.g = leaf.p
    gc.collect()
    assert not any(ref() is not None for ref in seen)


def test_a_plan_goes_with_its_leaves() -> None:
    model = Model(tf.adamw(), PARAMS)
    model.step(GRADS[0])
    plan = weakref.ref(model.batch.kept)
    del model
    gc.collect()
    assert plan() is None


# -- autograd --------------------------------------------------------------------------------------------------------


def test_versions_are_moved_on() -> None:
    """Otherwise a backward through a saved weight would silently use the new one."""
    model = Model(tf.adamw(), PARAMS)
    w = model.leaves["w0"].p.requires_grad_()
    written = [x for leaf in model.leaves.values() for x in (leaf.p, *leaf.state.values())]
    versions = [x._version for x in written]
    grads = {k: torch.from_numpy(g.copy()) for k, g in GRADS[0].items()}
    loss = (w * w * w).sum()
    model.step(grads)
    assert all(x._version > v for x, v in zip(written, versions, strict=True))
    assert all(g._version == 0 for g in grads.values())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# -- what is refused -------------------------------------------------------------------------------------------------


def leaf_of(p: torch.Tensor, g: torch.Tensor | None = None, **state: torch.Tensor) -> LeafUpdate:
    states = {"m": torch.zeros_like(p), "v": torch.zeros_like(p), **state}
    program = tf.adamw().program(Leaf("w", tuple(p.shape)))
    return LeafUpdate(program, p, p.clone() if g is None else g, states, torch.tensor(0.0), {})


class Subclass(torch.Tensor):
    pass


def test_what_is_taken() -> None:
    x = torch.zeros(4, 6)
    taken = [x, x.t(), x[:2], torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), torch.tensor(1.0)]
    taken += [torch.nn.Parameter(x), x.bfloat16(), x.half(), x.double(), torch.zeros(0, 3), torch.zeros(1, 7)[:, :1]]
    assert [fused.refusal(leaf_of(p)) for p in taken] == [None] * len(taken)


def test_what_is_not_taken() -> None:
    x = torch.zeros(4, 6)
    refused = {
        "is a Subclass": leaf_of(x.as_subclass(Subclass)),
        "torch.int32": leaf_of(x.int()),
        "torch.complex64": leaf_of(x.to(torch.complex64)),
        "on meta": leaf_of(x.to("meta")),
        "lazy negation": leaf_of(torch._neg_view(x), m=x, v=x.clone()),
        "holes": leaf_of(torch.zeros(4, 12)[:, ::2], m=x, v=x),
        "overlaps": leaf_of(torch.zeros(1).expand(24), m=torch.zeros(24), v=torch.zeros(24)),
        "state m is not laid out": leaf_of(x, m=torch.zeros(6, 4).t()),
        "state v is torch.float64": leaf_of(x, v=x.double()),
        "sparse": leaf_of(x.to_sparse(), m=x, v=x),
        "gradient's shape": leaf_of(x, g=torch.zeros(24)),
    }
    for reason, leaf in refused.items():
        assert reason in str(fused.refusal(leaf)), reason
        assert not fused.accepts(leaf)
    step = leaf_of(x)
    step.step = torch.tensor(0.0, dtype=torch.float64)
    assert "step is not 1 float32" in str(fused.refusal(step))


def test_a_fake_tensor_is_not_taken() -> None:
    """Its address is 0."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert not fused.accepts(leaf_of(torch.zeros(3)))


def _sharing_memory() -> list[tuple[LeafUpdate, ...]]:
    x = torch.arange(24.0)
    p, whole = x[:8], leaf_of(x)
    return [
        (leaf_of(x[:8]), leaf_of(x[:8])),  # tied under two names
        (leaf_of(x[:8]), leaf_of(x[4:12])),
        (whole, leaf_of(torch.ones(8), m=x[:8])),
        (leaf_of(p, g=p),),
        (leaf_of(p, g=x[4:12]),),
    ]


@pytest.mark.parametrize("case", range(5))
def test_shared_memory_is_left_to_another_execution(case: int, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = _sharing_memory()[case]
    hyper = {"lr": 0.1, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    before = [leaf.p.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.hyper = hyper
    handed_on: list[Any] = []
    monkeypatch.setattr(fused.single, "step", lambda *arguments: handed_on.append(arguments))
    fused.step(Batch(leaves), None)
    assert len(handed_on) == 1
    assert all(torch.equal(leaf.p, x) for leaf, x in zip(leaves, before, strict=True))
    assert all(leaf.step.item() == 0 for leaf in leaves)


def test_neighbours_in_one_storage_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after flattening all parameters into one buffer; one gradient may serve two parameters."""
    x, g = torch.arange(24.0), torch.ones(12)
    leaves = [leaf_of(x[:12], g=g), leaf_of(x[12:], g=g)]
    for leaf in leaves:
        leaf.hyper = {"lr": 0.1, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    monkeypatch.setattr(fused.single, "step", None)
    assert fused.step(Batch(leaves), None)
    assert (x != torch.arange(24.0)).all()


def test_a_misaligned_address_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = np.zeros(49, np.uint8)[1:].view()
    memory = memory[: 4 * ((len(memory)) // 4)]
    p = torch.frombuffer(memory, dtype=torch.float32) if memory.ctypes.data % 4 else None
    if p is None:
        pytest.skip("the buffer happens to be aligned")
    leaf = leaf_of(p)
    leaf.hyper = {"lr": 0.1, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    handed_on: list[Any] = []
    monkeypatch.setattr(fused.single, "step", lambda *arguments: handed_on.append(arguments))
    fused.step(Batch([leaf]), None)
    assert handed_on


def test_the_count_of_updates_is_one_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written by address, as all else."""
    handed_on: list[Any] = []
    monkeypatch.setattr(fused.single, "step", lambda *arguments: handed_on.append(arguments))
    for count in (torch.tensor(0), torch.tensor(0.0, dtype=torch.float64)):
        model = Model(tf.adamw(), PARAMS)
        model.count = count
        model.step(GRADS[0])
        assert count.item() == 0
    assert len(handed_on) == 2


def test_leaves_that_disagree_on_the_model_are_refused_in_words() -> None:
    @tf.rule
    def uneven(g: Any) -> Any:
        return g * tf.verbs.global_sum(g) if g.ndim == 1 else g

    with pytest.raises(ValueError, match="do not agree"):
        Model(uneven(), PARAMS).step(GRADS[0])


def test_without_a_compiler_nothing_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    @tf.rule
    def new(g: Any) -> Any:
        return g * 0.8125

    def none() -> Any:
        raise compiler.NoCompiler

    monkeypatch.setattr(compiler, "find_compiler", none)
    p = torch.zeros(3)
    leaf = LeafUpdate(new().program(Leaf("w", (3,))), p, p.clone(), {}, torch.tensor(0.0), {})
    warned.clear()
    with pytest.warns(RuntimeWarning, match="apt install gcc"):
        assert not fused.accepts(leaf)
    assert not fused.accepts(leaf)  # and no second warning


def test_without_torchs_guards_the_slow_check_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._C._dynamo.guards as guards

    class Absent:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise TypeError("another signature")

    monkeypatch.setattr(guards, "TensorGuards", Absent)
    test_what_is_exchanged_between_steps(_lay_out_otherwise)
    test_what_is_exchanged_between_steps(_exchange_storage)
    test_a_plan_is_kept()


def test_serial_without_torchs_parallel_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    from trainfn_torch.kernels import cpu

    monkeypatch.setattr(cpu, "parallel_for", lambda: 0)
    params = {"w": numbers(1, (100_000,))}
    model = Model(tf.adamw(), params)
    model.step({"w": numbers(2, (100_000,))})
    assert_same_bits(run_reference(tf.adamw(), params, [{"w": numbers(2, (100_000,))}])[0], model.snapshot())
