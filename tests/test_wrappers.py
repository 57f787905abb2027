"""Wrappers against what they are elsewhere: torch's averaged models, optax's lookahead, SAM and MultiSteps.

Their bits on every execution, golden trajectories and mutants are those of their rows in `tests/catalogue/wrappers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

import trainfn as tf
from tests.bits import assert_same_bits
from tests.executions import EXECUTIONS
from tests.inputs import numbers
from trainfn import reference
from trainfn.verbs import apply_if, count_if, global_norm, leaf_norm

Model = dict[str, Any]
SHAPES = {"w": (6, 5), "b": (7,), "s": ()}


def model(dtype: Any = np.float64) -> Model:
    return {k: numbers(i, s, decades=2).astype(dtype) for i, (k, s) in enumerate(SHAPES.items())}


def gradients(n: int, dtype: Any = np.float64) -> list[Model]:
    return [
        {k: numbers(50 * t + i, s, decades=3).astype(dtype) for i, (k, s) in enumerate(SHAPES.items())}
        for t in range(1, n + 1)
    ]


def run(rule: tf.Rule, grads: Sequence[Model], **extras: Any) -> list[tuple[Model, reference.State]]:
    params = model(grads[0]["w"].dtype)
    state, path = reference.init(rule, params), []
    for g in grads:
        updates, state = reference.update(rule, state, g, params, **extras)
        params = {k: p + updates[k] for k, p in params.items()}
        path.append((params, state))
    return path


def assert_close(ours: Model, theirs: Model, tolerance: float = 1e-12) -> None:
    for k, x in ours.items():
        np.testing.assert_allclose(x, np.asarray(theirs[k]), rtol=0, atol=tolerance)


# -- averages ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "average", "every"),
    [
        (tf.ema(tf.sgd(lr=0.1), decay=0.9), "ema", 1),
        (tf.swa(tf.sgd(lr=0.1), start=3, every=2), "swa", 2),
        (tf.polyak_average(tf.sgd(lr=0.1), start=3), "swa", 1),
    ],
    ids=lambda x: getattr(x, "name", x),
)
def test_averages_are_those_of_torch(rule: tf.Rule, average: str, every: int) -> None:
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

    module = torch.nn.ParameterDict({k: torch.nn.Parameter(torch.tensor(p)) for k, p in model().items()})
    averaged = AveragedModel(module, avg_fn=get_ema_avg_fn(0.9) if average == "ema" else None)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    if average == "ema":
        averaged.update_parameters(module)  # the parameters before the first update
    grads = gradients(12)
    for t, ((params, state), g) in enumerate(zip(run(rule, grads), grads, strict=True), 1):
        for k, p in module.items():
            p.grad = torch.tensor(g[k])
        optimizer.step()
        if average == "ema" or (t >= 3 and (t - 3) % every == 0):
            averaged.update_parameters(module)
        theirs = averaged.module if average == "ema" or t >= 3 else module
        assert_close(reference.eval_params(rule, state, params), {k: p.detach().numpy() for k, p in theirs.items()})


def test_averages_forget_their_start() -> None:
    grads = gradients(1)
    for rule in (tf.ema(tf.sgd(lr=0.1), decay=0.999, debias=True), tf.polyak_average(tf.sgd(lr=0.1))):
        ((params, state),) = run(rule, grads)
        assert_close(reference.eval_params(rule, state, params), params)


def test_the_average_of_a_warmed_up_ema() -> None:
    """(1 + t) / (10 + t) until it is the decay."""
    rule, mean = tf.ema(tf.sgd(lr=0.1), decay=0.3, warmup=True), model()
    for t, (params, state) in enumerate(run(rule, gradients(6)), 1):
        d = min(0.3, (1 + t) / (10 + t))
        mean = {k: d * mean[k] + (1 - d) * params[k] for k in mean}
        assert_close(reference.eval_params(rule, state, params), mean)


# -- lookahead, schedule-free, SAM -------------------------------------------------------------------------------------


def test_lookahead_is_that_of_optax() -> None:
    import jax
    import optax

    with jax.enable_x64(True):
        tx = optax.lookahead(optax.adam(0.1), sync_period=3, slow_step_size=0.4)
        params = optax.LookaheadParams.init_synced(jax.tree.map(jax.numpy.asarray, model()))
        state = tx.init(params)
        rule = tf.lookahead(tf.adam(lr=0.1), k=3, alpha=0.4)
        grads = gradients(10)
        for (ours, our_state), g in zip(run(rule, grads), grads, strict=True):
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
            assert_close(ours, params.fast)
            assert_close(reference.eval_params(rule, our_state, ours), params.slow)


def test_lookahead_goes_on_where_torch_stops_counting() -> None:
    import torch

    import trainfn_torch

    ways: list[Any] = []
    for count in (0.0, 2.0**24):
        p = torch.ones(2, requires_grad=True)
        optimizer = trainfn_torch.Optimizer([p], tf.lookahead(tf.sgd(lr=0.1), k=3))
        ways.append([])
        for n in range(7):
            p.grad = torch.full((2,), 1.0 + n)
            optimizer.step()
            if n == 0:
                optimizer.state[p]["step"].fill_(count)
            ways[-1].append(p.tolist())
    assert ways[0] == ways[1]


def test_lookahead_of_a_k_that_changes() -> None:
    """A step back whenever the fast weights are at least k updates ahead: after updates 2, 5 and 8."""
    k = tf.piecewise_constant(values=[2.0, 2.5], boundaries=[2])
    grads, rule = gradients(8), tf.lookahead(tf.sgd(lr=0.1), k=k, alpha=0.0)
    back = [t for t, (p, _) in enumerate(run(rule, grads), 1) if all(np.allclose(p[i], x) for i, x in model().items())]
    assert back == [2, 5, 8]


def test_lookahead_may_start_at_the_first_synchronisation() -> None:
    rule, slow, params = tf.lookahead(tf.sgd(lr=0.1), k=3, alpha=0.4, from_first_sync=True), None, model()
    grads = gradients(9)
    for t, ((ours, _), g) in enumerate(zip(run(rule, grads), grads, strict=True), 1):
        params = {k: p - 0.1 * g[k] for k, p in params.items()}
        if t % 3 == 0:
            slow = params if slow is None else {k: x + 0.4 * (params[k] - x) for k, x in slow.items()}
            params = slow
        assert_close(ours, params)


def test_sam_is_that_of_optax() -> None:
    import jax
    import optax

    with jax.enable_x64(True):
        climb = optax.chain(optax.contrib.normalize(), optax.sgd(0.2))
        tx = optax.contrib.sam(optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1)), climb)
        params = jax.tree.map(jax.numpy.asarray, model())
        state = tx.init(params)
        rule = tf.sam(tf.chain(tf.coupled_weight_decay(0.1), tf.adam(lr=0.1)), rho=0.2)
        grads = gradients(10)
        for t, ((ours, our_state), g) in enumerate(zip(run(rule, grads), grads, strict=True), 1):
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
            assert_close(ours, params)
            assert our_state.count == t // 2
            evaluated = reference.eval_params(rule, our_state, ours)
            assert_close(evaluated, state.cache if t % 2 else params)


def test_an_average_inside_of_sam_is_what_is_evaluated() -> None:
    rule = tf.sam(tf.ema(tf.sgd(lr=0.1), decay=0.5), rho=0.3)
    path = run(rule, gradients(4))
    means = [reference.eval_params(rule, state, p) for p, state in path]
    assert_close(means[2], means[1], 0.0)
    assert_close(means[1], {k: 0.5 * p + 0.5 * path[1][0][k] for k, p in model().items()})
    outer = tf.ema(tf.sam(tf.sgd(lr=0.1), rho=0.3), decay=0.5)
    for (p, state), mean in zip(run(outer, gradients(4)), means, strict=True):
        assert_close(reference.eval_params(outer, state, p), mean)


@pytest.mark.parametrize("bad", [np.inf, np.nan, 0.0])
def test_sam_climbs_nowhere_from_a_gradient_without_direction(bad: float) -> None:
    rule = tf.sam(tf.sgd(lr=0.1), rho=0.3)
    first, second = gradients(2)
    path = run(rule, [{k: np.full_like(g, bad) for k, g in first.items()}, second])
    assert_close(path[0][0], model(), 0.0)
    assert_close(path[1][0], {k: p - 0.1 * second[k] for k, p in model().items()})


def test_sam_climbs_by_rho_over_the_norm_and_eps() -> None:
    g = gradients(1)[0]
    norm = np.sqrt(sum(np.sum(np.square(x)) for x in g.values()))
    ((params, _),) = run(tf.sam(tf.sgd(), rho=0.3, eps=0.5), [g])
    assert_close(params, {k: p + 0.3 * g[k] / (norm + 0.5) for k, p in model().items()})


def test_sam_brings_back_leaves_that_missed_a_call() -> None:
    import torch

    import trainfn_torch

    def step(a: float | None, b: float | None) -> None:
        for p, g in ((x, a), (y, b)):
            p.grad = None if g is None else torch.full_like(p, g)
        optimizer.step()

    x, y = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    optimizer = trainfn_torch.Optimizer([x, y], tf.sam(tf.sgd(lr=0.1), rho=0.5))
    step(1.0, None)
    step(None, 1.0)  # x stays up, y was never there
    step(1.0, 1.0)
    step(1.0, 1.0)
    torch.testing.assert_close(x.detach(), torch.tensor([0.9]), rtol=0, atol=1e-6)
    torch.testing.assert_close(y.detach(), torch.tensor([0.8]), rtol=0, atol=1e-6)


def test_what_schedule_free_evaluates_is_what_optax_does() -> None:
    import jax
    import optax

    with jax.enable_x64(True):
        tx = optax.contrib.schedule_free(optax.sgd(0.1), 0.1, b1=0.8)
        params = jax.tree.map(jax.numpy.asarray, model())
        state = tx.init(params)
        rule = tf.schedule_free(tf.sgd(lr=0.1), b1=0.8)
        grads = gradients(8)
        for (ours, our_state), g in zip(run(rule, grads), grads, strict=True):
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
            theirs = optax.contrib.schedule_free_eval_params(state, params)
            assert_close(reference.eval_params(rule, our_state, ours), theirs)


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_schedule_free_weighs_by_the_largest_learning_rate_so_far(power: float) -> None:
    """The paper's three sequences, of a learning rate that starts at 0, rises and falls."""
    lrs, b1 = [0.0, 0.3, 0.3, 0.1, 0.05, 0.4], 0.8
    lr = tf.piecewise_constant(values=[0.0, 0.3, 0.1, 0.05, 0.4], boundaries=[1, 3, 4, 5])
    rule, grads = tf.schedule_free(tf.sgd(lr=lr), b1=b1, weight_lr_power=power), gradients(len(lrs))
    x, z, total = model(), model(), 0.0
    for t, (params, state) in enumerate(run(rule, grads)):
        weight = max(lrs[: t + 1]) ** power
        total += weight
        c = weight / total if total else 0.0
        z = {k: z[k] - lrs[t] * grads[t][k] for k in z}
        x = {k: (1 - c) * x[k] + c * z[k] for k in x}
        assert_close(params, {k: b1 * x[k] + (1 - b1) * z[k] for k in x})
        assert_close(reference.eval_params(rule, state, params), x)


@pytest.mark.parametrize(
    ("inner", "momentum"),
    [
        (tf.adamw(), "adamw has b1 = 0.9: give it b1=None"),
        (tf.chain(tf.clip_by_global_norm(1.0), tf.sgd(momentum=0.5)), "sgd has momentum = 0.5: give it momentum=None"),
        (tf.accumulate(tf.lion(b1=tf.constant(0.5)), k=2), r"lion has b1 = constant\(.*: give it b1=0"),
    ],
    ids=lambda x: getattr(x, "name", None),
)
def test_momentum_inside_of_schedule_free_is_warned_of(inner: tf.Rule, momentum: str) -> None:
    with pytest.warns(UserWarning, match=rf"in place of momentum, and {momentum}, unless both") as warned:
        tf.schedule_free(inner, lr=0.1)
    assert [w.filename for w in warned] == [__file__]


def test_schedule_free_needs_an_average() -> None:
    import torch

    import trainfn_torch

    for zero in (0, -0.0, np.float32(0)):
        with pytest.raises(ValueError, match="schedule_free: b1 = 0 must be above 0"):
            tf.schedule_free(tf.sgd(), b1=zero)
    rule, grads = tf.schedule_free(tf.sgd(lr=0.1), b1=tf.constant(0.0)), gradients(2)
    for params, state in run(rule, grads):
        assert_close(reference.eval_params(rule, state, params), params, 0.0)
    p = torch.ones(3, requires_grad=True)
    optimizer = trainfn_torch.Optimizer([("p", p)], tf.schedule_free(tf.sgd(lr=0.1)))
    for _ in range(2):
        optimizer.param_groups[0]["b1"] = 0.0
        p.grad = torch.ones(3)
        optimizer.step()
    assert torch.equal(optimizer.eval_params()["p"], p)


def test_schedule_free_adamw_is_that_of_the_peer() -> None:
    import torch
    from pytorch_optimizer import ScheduleFreeAdamW

    params = {k: torch.tensor(p, requires_grad=True) for k, p in model().items()}
    peer = ScheduleFreeAdamW(params.values(), lr=0.1, betas=(0.8, 0.99), weight_decay=0.1)
    rule = tf.schedule_free(tf.adamw(lr=0.1, b1=None, b2=0.99, weight_decay=0.1, eps_root=1e-15), b1=0.8)
    grads = gradients(8)
    for (ours, state), g in zip(run(rule, grads), grads, strict=True):
        for k, p in params.items():
            p.grad = torch.tensor(g[k])
        peer.step()
        assert_close(ours, {k: p.detach().numpy() for k, p in params.items()})
        assert all(kept.keys() >= {"v", "z"} and "m" not in kept for kept in state.leaves.values())


@pytest.mark.parametrize("name", ["schedule_free_sgd", "schedule_free_adamw"])
def test_schedule_free_warms_up_as_in_optax(name: str) -> None:
    """Which weighs the average by the next update's learning rate, in float32: these numbers are exact there."""
    import jax
    import optax

    import trainfn_jax

    with jax.enable_x64(True):
        paths = []
        for library in (optax, trainfn_jax):
            tx = getattr(library.contrib, name)(0.125, warmup_steps=4, weight_decay=0.1)
            params = jax.tree.map(jax.numpy.asarray, model())
            state = tx.init(params)
            paths.append([])
            for g in gradients(6):
                updates, state = tx.update(g, state, params)
                params = optax.apply_updates(params, updates)
                paths[-1].append(params)
        for theirs, ours in zip(*paths, strict=True):
            assert_close(ours, theirs)


# -- accumulation ------------------------------------------------------------------------------------------------------


def test_accumulation_is_that_of_optax() -> None:
    import jax
    import optax

    with jax.enable_x64(True):
        tx = optax.MultiSteps(
            optax.sgd(optax.linear_schedule(0.5, 0.0, 4), momentum=0.5), 3, accumulator_dtype="float64"
        )
        params = jax.tree.map(jax.numpy.asarray, model())
        state = tx.init(params)
        rule = tf.accumulate(tf.sgd(lr=tf.linear(0.5, 0.0, steps=4), momentum=0.5), k=3)
        grads = gradients(10)
        for (ours, _), g in zip(run(rule, grads), grads, strict=True):
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
            assert_close(ours, params)


def test_unequal_parts_make_the_mean_of_the_whole_batch() -> None:
    """Gradients of sums over 3, 1 and 4 terms: divided once, by 8."""
    parts, weights = gradients(3), (3.0, 1.0, 4.0)
    rule = tf.accumulate(tf.sgd(lr=0.5), k=3)
    params = model()
    state = reference.init(rule, params)
    for g, w in zip(parts, weights, strict=True):
        updates, state = reference.update(rule, state, g, params, weight=w)
        params = {k: p + updates[k] for k, p in params.items()}
    assert_close(params, {k: p - 0.5 * sum(g[k] for g in parts) / 8 for k, p in model().items()})


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_gradient_that_is_not_finite_is_left_out(bad: float) -> None:
    grads = gradients(6)
    spoilt = [{k: g.copy() for k, g in gs.items()} for gs in grads]
    spoilt[1]["b"][2] = bad
    rule = tf.accumulate(tf.sgd(lr=0.5), k=3)
    params = run(rule, spoilt)[2][0]
    assert_close(params, {k: p - 0.5 * (grads[0][k] + grads[2][k]) / 2 for k, p in model().items()})


@pytest.mark.parametrize("bad", [np.nan, -1.0, -1e-3, np.inf])
def test_a_gradient_of_no_sound_weight_is_left_out(bad: float) -> None:
    grads, rule, params = gradients(6), tf.accumulate(tf.sgd(lr=0.5), k=3), model()
    state = reference.init(rule, params)
    for g, w in zip(grads, (2.0, bad, 0.5, bad, bad, bad), strict=True):
        updates, state = reference.update(rule, state, g, params, weight=w)
        params = {k: p + updates[k] for k, p in params.items()}
    assert_close(params, {k: p - 0.5 * (grads[0][k] + grads[2][k]) / 2.5 for k, p in model().items()})
    assert state.count == 1


def test_a_part_that_weighs_nothing_adds_nothing() -> None:
    """A batch of padding: its gradient is 0, and so is its weight."""
    g, rule, params = gradients(1)[0], tf.accumulate(tf.sgd(lr=0.5), k=2), model()
    state = reference.init(rule, params)
    for x, w in ((g, 2.0), ({k: np.zeros_like(v) for k, v in g.items()}, 0.0)):
        updates, state = reference.update(rule, state, x, params, weight=w)
    assert_close(updates, {k: -0.25 * v for k, v in g.items()})


def test_a_weight_that_no_rule_divides_by_is_refused() -> None:
    import torch

    import trainfn_torch

    message = r"adam does not divide the gradient by its weight: put accumulate\(..., k=1\) around it"
    rule, params = tf.adam(), model()
    with pytest.raises(ValueError, match=message):
        reference.update(rule, reference.init(rule, params), gradients(1)[0], params, weight=3.0)
    p = torch.ones(3, requires_grad=True)
    optimizer, p.grad = trainfn_torch.Optimizer([p], rule), torch.ones(3)
    with pytest.raises(ValueError, match=message):
        optimizer.step(weight=3.0)
    optimizer.step(value=2.0)  # a loss that nobody asks for changes nothing
    assert optimizer.state[p]["step"] == 1


@pytest.mark.parametrize("execution", ["torch_fused", "torch_foreach", "torch_single", "jax_jit"])
def test_errors_are_skipped_and_counted_everywhere(execution: str) -> None:
    """Two in a row are skipped, the third is not; and sums are accumulated without division."""
    rule = tf.apply_if_finite(tf.accumulate(tf.sgd(lr=0.5, momentum=0.5), k=2, mean=False), max_consecutive_errors=2)
    params, grads = model(np.float32), gradients(8, np.float32)
    for n in (1, 2, 4, 5, 6):
        grads[n]["b"][1] = np.nan
    expected, actual = (EXECUTIONS[name](rule, params, grads) for name in ("reference", execution))
    assert [float(x["total"]) for x in expected] == [0, 1, 2, 2, 3, 4, 5, 5]
    assert [float(x["in_a_row"]) for x in expected] == [0, 1, 2, 0, 1, 2, 3, 0]
    for a, b in zip(expected, actual, strict=True):
        assert_same_bits(a, b, execution)


def test_a_window_without_a_finite_gradient_is_no_update() -> None:
    grads = [{k: np.full_like(g, np.inf) for k, g in gs.items()} for gs in gradients(2)] + gradients(2)
    rule = tf.accumulate(tf.adam(lr=0.5), k=2)
    path = run(rule, grads)
    assert_close(path[1][0], model(), 0.0)
    assert [state.count for _, state in path] == [0, 0, 0, 1]
    fresh = run(rule, gradients(2))[-1]
    assert_close(path[3][0], fresh[0], 0.0)


def test_a_rule_inside_that_skips_does_not_stop_the_window() -> None:
    """The sum overflows, though each gradient is finite: skipped and forgotten; the next window is as the first."""
    huge = [{k: np.full_like(p, 3e38) for k, p in model(np.float32).items()} for _ in range(2)]
    rule = tf.accumulate(tf.skip_if_not_finite(tf.adam(lr=0.5)), k=2)
    path = run(rule, [*huge, *gradients(2, np.float32)])
    assert [state.count for _, state in path] == [0, 0, 0, 1]
    expected = run(rule, gradients(2, np.float32))[-1]
    assert_same_bits(path[-1][0], expected[0], "the window after")


def test_a_window_of_two_and_a_half_calls_has_three() -> None:
    path = run(tf.accumulate(tf.sgd(lr=0.5), k=tf.constant(2.5)), gradients(7))
    assert [state.count for _, state in path] == [0, 0, 1, 1, 1, 2, 2]


def _accumulated(wrap: Callable[[tf.Rule], tf.Rule], inside: Callable[[tf.Rule], tf.Rule]) -> tuple[Any, Any]:
    """Parameters and what is evaluated after windows of 3: of a wrapper around `accumulate`, and inside of it."""
    grads = gradients(12)
    results = []
    adam = tf.adam(lr=0.1, b1=0.0)  # without momentum, as schedule_free wants it
    for rule in (wrap(tf.accumulate(adam, k=3)), tf.accumulate(inside(adam), k=3)):
        path = run(rule, grads)
        results.append([(p, reference.eval_params(rule, state, p), state.count) for p, state in path])
    return results[0], results[1]


AROUND: dict[str, Callable[[tf.Rule], tf.Rule]] = {
    "ema": lambda r: tf.ema(r, decay=0.5),
    "swa": lambda r: tf.swa(r, start=1, every=2),
    "polyak": lambda r: tf.polyak_average(r),
    "lookahead": lambda r: tf.lookahead(r, k=2),
    "schedule_free": lambda r: tf.schedule_free(r, lr=0.1),
    "unfreeze": lambda r: tf.unfreeze(r, start=0),
    "decay": lambda r: tf.chain(r, tf.decoupled_weight_decay(0.1, lr=0.1)),
}


@pytest.mark.parametrize("name", AROUND)
def test_what_stands_around_an_accumulation_sees_its_updates_only(name: str) -> None:
    outside, inside = _accumulated(AROUND[name], AROUND[name])
    for (p, evaluated, count), (q, expected, other) in zip(outside, inside, strict=True):
        assert count == other
        assert_close(p, q)
        assert_close(evaluated, expected)


def test_leaves_thaw_while_others_accumulate() -> None:
    """A window inside of a rule that waits does not keep the model from counting."""
    rule = tf.unfreeze(tf.accumulate(tf.sgd(lr=0.1), k=2), start=3)
    counts = [state.count for _, state in run(rule, gradients(7))]
    assert counts == [1, 2, 3, 3, 4, 4, 5]


def test_what_a_rule_inside_skips_while_it_waits_counts() -> None:
    """It would skip the gradients of calls 1 and 4, and waits in the first."""
    rule, grads = tf.unfreeze(tf.skip_if_not_finite(tf.sgd(lr=0.1)), start=2), gradients(5)
    for n in (0, 3):
        grads[n]["b"][2] = np.inf
    path = run(rule, grads)
    assert [state.count for _, state in path] == [1, 2, 3, 3, 4]
    assert_close(path[-1][0], {k: p - 0.1 * (grads[2][k] + grads[4][k]) for k, p in model().items()})


@pytest.mark.parametrize("rule", [tf.unfreeze(tf.sgd(), start=1), tf.accumulate(tf.sgd(), k=2)], ids=lambda r: r.name)
def test_a_rule_that_waits_changes_not_even_the_sign_of_zero(rule: tf.Rule) -> None:
    params, g = {"w": np.full(3, -0.0, np.float32)}, {"w": np.ones(3, np.float32)}
    updates, _ = reference.update(rule, reference.init(rule, params), g, params)
    assert_same_bits({"p": params["w"] + updates["w"]}, {"p": params["w"]})


class Size(NamedTuple):
    n: tf.LeafScalar


@tf.rule
def gated(inner: Any, g: Any, *, counts: tf.Static[bool], whole: tf.Static[bool]) -> Any:
    verb, norm = (count_if if counts else apply_if), (global_norm if whole else leaf_norm)
    return verb(norm(g) < 1, inner(g))


@tf.rule
def gated_by_state(inner: Any, state: Size, g: Any, *, counts: tf.Static[bool]) -> Any:
    return (count_if if counts else apply_if)(state.n < 1, inner(g)), Size(state.n + 1)


@pytest.mark.parametrize("counts", [False, True])
def test_one_leaf_does_not_decide_for_the_model(counts: bool) -> None:
    for rule in (gated(tf.sgd(), counts=counts, whole=False), gated_by_state(tf.sgd(), counts=counts)):
        with pytest.raises(tf.TraceError, match=r"decides for the whole model and was given a condition of one leaf"):
            rule.program()
    assert gated(tf.sgd(), counts=counts, whole=True).program()


# -- freezing ----------------------------------------------------------------------------------------------------------


def test_a_leaf_learns_from_its_update_on_as_if_it_were_new() -> None:
    start = tf.by_leaf({"w": 2, "b": 4}, otherwise=0)
    path = run(tf.unfreeze(tf.adam(lr=0.1), start=start), gradients(6, np.float32))
    for name, first in (("w", 2), ("b", 4), ("s", 0)):
        late = run(tf.adam(lr=0.1), gradients(6, np.float32)[first:])
        for t, (params, state) in enumerate(path):
            expected = late[t - first][0][name] if t >= first else model(np.float32)[name]
            assert_same_bits({"p": params[name]}, {"p": expected}, f"{name} after update {t}")
            assert np.any(state.leaves[name]["m"]) == (t >= first)


# -- in the frameworks -------------------------------------------------------------------------------------------------

AVERAGED: Sequence[Callable[[], tf.Rule]] = (
    lambda: tf.ema(tf.adam(lr=0.1), decay=0.9),
    lambda: tf.schedule_free(tf.adamw(lr=0.1, b1=None)),
    lambda: tf.sam(tf.sgd(lr=0.1)),
    lambda: tf.lookahead(tf.sgd(lr=0.1), k=2),
    lambda: tf.sgd(lr=0.1, momentum=0.9),
)


@pytest.mark.parametrize("make", AVERAGED, ids=lambda make: make().name)
def test_evaluated_parameters_have_the_same_bits_everywhere(make: Callable[[], tf.Rule]) -> None:
    import jax
    import optax
    import torch

    import trainfn_jax
    import trainfn_torch

    rule, grads = make(), gradients(3, np.float32)
    path = run(rule, grads)
    expected = reference.eval_params(rule, path[-1][1], path[-1][0])

    tensors = {k: torch.tensor(p, requires_grad=True) for k, p in model(np.float32).items()}
    optimizer = trainfn_torch.Optimizer(list(tensors.items()), rule)
    tx = trainfn_jax.transform(rule)
    params: Any = jax.tree.map(jax.numpy.asarray, model(np.float32))
    state = tx.init(params)
    assert_same_bits({k: x.numpy() for k, x in optimizer.eval_params().items()}, model(np.float32), "before")
    for g in grads:
        for k, p in tensors.items():
            p.grad = torch.tensor(g[k])
        optimizer.step()
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
    assert_same_bits({k: x.numpy() for k, x in optimizer.eval_params().items()}, expected, "torch")
    evaluated = jax.jit(lambda s, p: trainfn_jax.eval_params(rule, s, p))(state, params)
    assert_same_bits({k: np.asarray(x) for k, x in evaluated.items()}, expected, "jax")


@pytest.mark.parametrize(
    "rule", [tf.ema(tf.lookahead(tf.sgd())), tf.accumulate(tf.sam(tf.ema(tf.sgd())), k=2)], ids=str
)
def test_states_that_begin_as_the_parameter_can_be_donated(rule: tf.Rule) -> None:
    import jax

    import trainfn_jax

    tx, params = trainfn_jax.transform(rule), jax.tree.map(jax.numpy.asarray, model(np.float32))
    update = jax.jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=1)
    update(gradients(1, np.float32)[0], tx.init(params), params)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf.accumulate(tf.sgd(), k=2.5), "k = 2.5 must be a whole number"),
        (lambda: tf.lookahead(tf.sgd(), k=0), "k = 0 must be"),
        (lambda: tf.swa(tf.sgd(), start=1, every=0), "every = 0 must be"),
        (lambda: tf.ema(tf.sgd(), warmup=True, debias=True).program(), "one of warmup and debias"),
    ],
)
def test_numbers_that_make_no_sense(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, tf.TraceError), match=message):
        make()


def test_parameters_that_the_state_does_not_know_are_not_evaluated() -> None:
    import optax

    import trainfn_jax

    rule, params = tf.ema(tf.sgd()), model(np.float32)
    state = optax.masked(trainfn_jax.transform(rule), {"w": True, "b": True, "s": False}).init(params)
    with pytest.raises(ValueError, match="leaf 's': the state has no mean"):
        trainfn_jax.eval_params(rule, state.inner_state, params)


def test_torch_takes_weights_inside_and_outside_of_compiled_code() -> None:
    import torch

    import trainfn_torch

    results = []
    for is_compiled in (False, True):
        p = torch.ones(3, requires_grad=True)
        optimizer = trainfn_torch.Optimizer([p], tf.accumulate(tf.sgd(lr=1.0), k=2))
        step: Any = (
            torch.compile(optimizer.step, backend="aot_eager", fullgraph=True) if is_compiled else optimizer.step
        )
        for weight in (3.0, 1.0):
            p.grad = torch.full((3,), weight)
            step(weight=weight)
        results.append(p.detach().clone())
    torch.testing.assert_close(results[0], torch.zeros(3), rtol=0, atol=0)
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_what_is_evaluated_needs_names_in_torch() -> None:
    import torch

    import trainfn_torch

    optimizer = trainfn_torch.Optimizer([torch.ones(3, requires_grad=True)], tf.ema(tf.sgd()))
    with pytest.raises(ValueError, match="named_parameters"):
        optimizer.eval_params()


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_products_that_happen_in_some_calls(execution: str) -> None:
    """What a call decides, sums over the model that wait for it, and matrices in it, in an order that has them all."""
    rule = tf.skip_if_not_finite(tf.accumulate(tf.chain(tf.clip_by_global_norm(0.1), tf.muon()), k=2))
    params = {"w": numbers(1, (6, 5)), "v": numbers(2, (3, 4))}
    grads = [{k: numbers(10 * n + i, p.shape) for i, (k, p) in enumerate(params.items())} for n in range(4)]
    expected, found = (EXECUTIONS[name](rule, params, grads) for name in ("reference", execution))
    for before, after in zip(expected, found, strict=True):
        assert before.keys() == after.keys()
        for name, x in before.items():
            np.testing.assert_allclose(np.asarray(after[name], np.float64), np.asarray(x, np.float64), 1e-4, 1e-6, name)
    assert np.array_equal(expected[0]["w/p"], params["w"])
    assert not np.array_equal(expected[1]["w/p"], params["w"])
