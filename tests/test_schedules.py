"""Schedules: the same bits for every kind of step, their namesakes' curves, and what bad arguments get."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import trainfn as tf
from tests.catalogue import SCHEDULES, ScheduleRow
from tests.catalogue.schedules import HUGGINGFACE
from trainfn.verbs import cos, maximum, minimum, where

STEPS = np.arange(-1, 120)


@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: row.name)
def test_an_int_gives_a_float_and_an_array_the_same_bits(row: ScheduleRow) -> None:
    curve = row.schedule(STEPS)
    assert isinstance(row.schedule(3), float)
    assert curve.dtype == np.float64
    assert curve.shape == STEPS.shape
    assert [row.schedule(int(n)) for n in STEPS] == list(curve)
    assert row.schedule(np.int64(7)) == row.schedule(7)


@pytest.mark.parametrize("row", [r for r in SCHEDULES if r.torch], ids=lambda row: row.name)
def test_torch_namesake(row: ScheduleRow) -> None:
    import torch

    assert row.torch is not None
    name, arguments = row.torch
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **arguments)
    theirs = []
    for _ in range(60):
        theirs.append(optimizer.param_groups[0]["lr"] * row.scale)
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(row.schedule(np.arange(60)), theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("row", [r for r in SCHEDULES if r.optax], ids=lambda row: row.name)
def test_optax_namesake(row: ScheduleRow) -> None:
    import jax
    import optax

    assert row.optax is not None
    name, arguments = row.optax
    with jax.enable_x64(True):
        theirs = np.array([float(getattr(optax, name)(**arguments)(n)) for n in range(60)])
    np.testing.assert_allclose(row.schedule(np.arange(60)), theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("row", [r for r in SCHEDULES if not (r.torch or r.optax)], ids=lambda row: row.name)
def test_without_a_namesake_the_definition(row: ScheduleRow) -> None:
    assert row.plain is not None
    plain = [row.plain(n) for n in range(100)]
    np.testing.assert_allclose(row.schedule(np.arange(100)), plain, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("first", "growth", "begin"), [(1, 3, 121), (5, 3, 605), (10, 10, 1110), (1, 2, 2**30 - 1)])
def test_restarts_are_in_their_own_step(first: int, growth: int, begin: int) -> None:
    """At these steps torch's logarithm finds the last step of a cycle instead of the first of the next."""
    lr = tf.warm_restarts(peak=1.0, first=first, growth=growth)
    assert lr(begin) == 1.0
    assert 0.0 <= lr(begin - 1) < 1e-3
    assert lr(begin + begin // 3) < 1.0


def test_one_cycle_ends_where_it_should() -> None:
    lr = tf.one_cycle(peak=1.0, steps=10)
    assert (lr(0), lr(2), lr(9), lr(10), lr(10**6)) == (1 / 25, 1.0, 1 / 25 / 1e4, 1 / 25 / 1e4, 1 / 25 / 1e4)
    for pct_start in (0.0, 0.05, 0.1):  # torch divides by zero at 0.1
        assert tf.one_cycle(peak=1.0, steps=10, pct_start=pct_start)(0) == 1.0
    assert tf.one_cycle(peak=1.0, steps=10, pct_start=1.0)(9) == 1.0 / 25 / 1e4
    momentum = tf.one_cycle_momentum(steps=10)
    assert (momentum(0), momentum(2), momentum(9), momentum(10)) == (0.95, 0.85, 0.95, 0.95)


def test_phases_of_no_steps() -> None:
    assert list(tf.warmup_stable_decay(1.0, warmup=0, steps=4, cooldown=0, floor=0.5)(STEPS[:6])) == [1.0] * 5 + [0.5]
    assert tf.warmup_stable_decay(1.0, warmup=2, steps=4, cooldown=2)(2) == 1.0


def test_ends_are_exact() -> None:
    for start, stop in [(0.1, 0.7), (1e-3, 3e-4), (0.0, 1.0)]:
        line = tf.linear(start=start, stop=stop, steps=13)
        assert (line(0), line(13), line(1000)) == (start, stop, stop)
    lr = tf.warmup_cosine(peak=0.3, warmup=7, steps=50)
    assert (lr(0), lr(7), lr(50), lr(51)) == (0.0, 0.3, 0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "specific", "curve"),
    [
        ("linear", {}, [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]),
        ("cosine_with_restarts", {"num_cycles": 2}, [0.0, 0.5, 1.0, 1.0, 0.0, 0.0]),
        ("inverse_sqrt", {}, [0.0, 0.5, 1.0, (2 / 3) ** 0.5, 0.5**0.5, 0.4**0.5]),
        ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.25}, [0.5, 1.0, 0.625, 0.25, 0.25, 0.25]),
        ("cosine_warmup_with_min_lr", {"min_lr": 0.25, "warmup_lr_rate": 0.125}, [0.125, 1.0, 0.625, 0.25, 0.25, 0.25]),
        ("warmup_stable_decay", {"num_decay_steps": 1, "min_lr_ratio": 0.5}, [0.5, 0.75, 1.0, 1.0, 0.5, 0.5]),
        ("warmup_stable_decay", {"num_decay_steps": 2, "num_stable_steps": 1}, [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]),
        (
            "warmup_stable_decay",
            {"num_decay_steps": 2, "warmup_type": "cosine", "decay_type": "linear"},
            [0.0, 0.5, 1.0, 0.5, 0.0, 0.0],
        ),
    ],
)
def test_transformers_schedules_by_hand(name: str, specific: dict[str, Any], curve: list[float]) -> None:
    lr = tf.get_schedule(name, 1.0, warmup=2, steps=4, **specific)
    np.testing.assert_allclose(lr(np.arange(6)), curve, rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("name", HUGGINGFACE)
def test_transformers_schedules_without_a_warmup_or_with_nothing_else(name: str) -> None:
    specific = {"num_decay_steps": 0} if name == "warmup_stable_decay" else HUGGINGFACE[name][0]
    for warmup in (0, 4):
        lr = tf.get_schedule(name, 1.0, warmup=warmup, steps=4, **specific)
        curve = lr(np.arange(9))
        assert np.all((curve >= 0) & (curve <= 1))
        assert warmup or curve[0] > 0.5
        assert lr(-1) == curve[0]


def test_restarts_of_transformers_are_in_their_own_step() -> None:
    """At these steps cycles times the part of the way is below a whole number, when that part is rounded first."""
    for steps in (100, 300, 1000):
        lr = tf.get_schedule("cosine_with_restarts", 1.0, warmup=0, steps=steps, num_cycles=50)
        assert set(lr(np.arange(0, steps, steps // 50))) == {1.0}


def test_sequence_counts_each_part_from_its_own_beginning() -> None:
    whole = tf.sequence(tf.linear(0.0, 1.0, 4), tf.exponential(1.0, 0.5), 0.125, boundaries=[4, 6])
    assert list(whole(np.arange(8))) == [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.125, 0.125]


def test_schedules_and_numbers_are_joined_by_arithmetic() -> None:
    lr = tf.warmup(peak=1.0, steps=4) * 0.5
    assert lr(2) == 0.25
    assert (lr * lr)(2) == 0.0625
    assert [(lr + 1)(2), (1 + lr)(2), (lr - 1)(2), (1 - lr)(2)] == [1.25, 1.25, -0.75, 0.75]
    assert [(lr / 2)(2), (1 / lr)(2), (lr**2)(2), (2**lr)(4), (-lr)(2)] == [0.125, 4.0, 0.0625, math.sqrt(2), -0.25]
    assert (np.float64(2) * lr)(2) == 0.5
    assert (lr * 2).program == (lr * 3).program


def test_a_scheduler_that_calls_one_is_saved_without_it() -> None:
    """LambdaLR saves and overwrites the `__dict__` of a callable object."""
    torch = pytest.importorskip("torch")

    def scheduler(peak: float) -> Any:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, 2 * tf.warmup_cosine(peak, warmup=10, steps=100))

    file = io.BytesIO()
    torch.save(scheduler(0.5).state_dict(), file)
    file.seek(0)
    loading = scheduler(0.25)
    loading.load_state_dict(torch.load(file, weights_only=True))
    assert loading.lr_lambdas[0](10) == 0.5


def test_a_verb_on_a_schedule_says_how_to_write_one() -> None:
    with pytest.raises(TypeError, match=r"minimum was given warmup\(.*put @trainfn.schedule above a function"):
        minimum(tf.warmup(1.0, 10), 0.5)


@pytest.mark.parametrize("other", ["2", None, [1.0], np.ones(2), lambda step: step, True])
def test_what_is_no_number_does_not_join(other: Any) -> None:
    with pytest.raises(TypeError, match=r"unsupported operand|sequence|does not support"):
        tf.constant(1.0) * other
    with pytest.raises(TypeError, match=r"unsupported operand|sequence|does not support"):
        other - tf.constant(1.0)


WRITTEN = [
    "constant(value=0.1)",
    "warmup_cosine(peak=0.003, warmup=100, steps=2000, floor=0.0, start=0.0, power=None)",
    "sequence(linear(start=0.1, stop=1.0, steps=5), warmup(peak=1.0, steps=3, start=0.5), boundaries=[5])",
    "(warmup(peak=1.0, steps=4, start=0.0) * 0.5) + 1e-05",
    "1 - (linear(start=0, stop=1, steps=4) / 2)",
    "(-2.0) ** constant(value=3)",
]


@pytest.mark.parametrize("written", WRITTEN)
def test_the_repr_is_what_was_written(written: str) -> None:
    made = eval(written, vars(tf))
    assert repr(made) == written
    for copied in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert repr(copied) == written
        assert list(copied(STEPS)) == list(made(STEPS))


@pytest.mark.parametrize(
    ("make", "formulas"),
    [
        (
            lambda: tf.linear(0.5, 0.125, 30),
            [
                "linear(start=0.5, stop=0.125, steps=30)",
                "  t7 = minimum(maximum(step, 0), steps)/steps",
                "  value = (1 - t7)*start + t7*stop",
            ],
        ),
        (
            lambda: tf.linear(0.5, 0.125, 30) + 2,
            [
                "linear(start=0.5, stop=0.125, steps=30) + 2",
                "  t8 = minimum(maximum(step, 0), 30)/30",
                "  value = (1 - t8)*0.5 + t8*0.125 + 2",
            ],
        ),
    ],
)
def test_a_schedule_prints_as_formulas_with_its_numbers(make: Any, formulas: list[str]) -> None:
    assert str(make()).split("\n") == formulas


@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: row.name)
def test_a_step_before_the_first_counts_as_the_first(row: ScheduleRow) -> None:
    assert row.schedule(-1) == row.schedule(-1000) == row.schedule(0)


def test_a_schedule_that_occurs_often_is_traced_once() -> None:
    calls = []

    @tf.schedule
    def counted(step):  # type: ignore[no-untyped-def]
        calls.append(step)
        return 1 + step / 1000

    lr = counted()
    for _ in range(8):
        lr = lr * lr
    assert len(calls) <= 9
    assert lr(0) == 1.0


def test_a_warmup_of_no_steps() -> None:
    lr = tf.warmup_cosine(peak=1.0, warmup=0, steps=10)
    assert list(lr(STEPS)) == list(tf.cosine(peak=1.0, steps=10)(STEPS))


def test_a_schedule_of_ones_own() -> None:
    @tf.schedule
    def wave(step, *, size, period=8):  # type: ignore[no-untyped-def]
        return size * where(step < 4, 1.0, cos(2 * math.pi * step / period))

    assert wave(size=2.0)(3) == 2.0
    assert wave(2.0)(4) == -2.0
    assert "cos" in str(wave(2.0))
    assert repr(wave(2.0)) == "wave(size=2.0, period=8)"


def test_options_choose_the_formula_of_a_schedule() -> None:
    @tf.schedule
    def steps_of(step, *, sizes, times: tf.Static[int] = 2, shape: tf.Static[str] = "up", floor=None):  # type: ignore[no-untyped-def]
        value = sum(sizes[k] for k in range(times)) * (step if shape == "up" else -step)
        return value if floor is None else maximum(value, floor)

    assert steps_of([1.0, 2.0, 4.0])(3) == 9.0
    assert steps_of([1.0, 2.0, 4.0], times=3, shape="down")(3) == -21.0
    assert steps_of(np.array([1.0, 2.0]), shape="down", floor=-5)(3) == -5.0
    with pytest.raises(TypeError, match="sizes = '1' must be a number or a schedule"):
        steps_of("1")
    with pytest.raises(ValueError, match="floor is NaN"):
        steps_of([1.0], floor=math.nan)


def test_changing_a_number_keeps_the_program() -> None:
    assert tf.cosine(peak=1.0, steps=10).program == tf.cosine(peak=0.1, steps=99).program


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tf.cosine(peak=1.0, steps=0), "steps = 0 must be a positive number of steps"),
        (lambda: tf.cosine(peak=math.nan, steps=3), "peak is NaN"),
        (lambda: tf.cosine(1.0, 3, florr=0.0), "florr"),
        (lambda: tf.step_decay(1.0, 0.5, every=-2), "every = -2"),
        (lambda: tf.warmup_cosine(1.0, warmup=9, steps=9), "warmup = 9"),
        (lambda: tf.warmup_cosine(1.0, warmup="2", steps=5), "warmup_cosine: warmup = '2' must be a number"),  # type: ignore[arg-type]
        (lambda: tf.warmup_cosine(1.0, warmup=-2, steps=5), "warmup_cosine: warmup = -2 must be at least 0"),
        (lambda: tf.linear("0", 1.0, 3), "linear: start = '0' must be a number"),
        (lambda: tf.linear(None, 1.0, 3), "linear: start = None must be a number"),
        (lambda: tf.linear(True, 1.0, 3), "linear: start = True must be a number"),
        (lambda: tf.linear([0.0], 1.0, 3), r"linear: start = \[0.0\] must be a number"),
        (lambda: tf.linear(0.0, tf.constant(1.0), 3), r"linear: stop = constant\(value=1.0\) must be a number"),
        (lambda: tf.linear(0.0, 1.0, math.inf), "linear: steps = inf must be a positive number of steps"),
        (lambda: tf.linear(0.0, 1.0), r"linear\(start, stop, steps\): missing a required argument: 'steps'"),
        (lambda: tf.sequence(tf.warmup, 2.0, boundaries=[3]), r"Call it first, as in warmup\(peak, steps, start=0.0\)"),
        (lambda: tf.constant(1.0) * tf.warmup, r"call warmup first, as in warmup\(peak, steps, start=0.0\)"),
        (lambda: tf.sequence([1.0, 2.0], boundaries=[3]), "give the schedules one by one"),
        (lambda: tf.sequence(1.0, 2.0, boundaries=3), "boundaries = 3 must be a list of numbers"),
        (lambda: tf.sequence(1.0, 2.0, boundaries=["3"]), "boundaries = '3' must be a number"),
        (lambda: tf.sequence(1.0, 2.0, boundaries=[-3]), "boundaries = -3 must be at least 0"),
        (lambda: tf.schedule(lambda: 1.0), "the parameter step"),
        (lambda: tf.schedule(3), r"of a function, not of 3"),  # type: ignore[call-overload]
        (lambda: tf.schedule(lambda step, x: 1.0)({"a": 1}), r"x = \{'a': 1\} must be a number or a schedule"),
        (lambda: tf.schedule(lambda step, s: 2 * s)(tf.constant(1.0)), "Call it with the step"),
        (lambda: tf.schedule(lambda step: math.cos(step))(), "^schedule <lambda>: <traced scalar step> has no number"),
        (lambda: tf.sequence(1.0, 2.0, boundaries=[]), "2 schedules need 1 boundaries"),
        (lambda: tf.sequence(1.0, 2.0, 3.0, boundaries=[5, 5]), "must rise"),
        (lambda: tf.multistep(1.0, 0.1, [30, 10]), r"milestones \[30, 10\] are not in order: \[10, 30\] is"),
        (lambda: tf.multistep(1.0, 0.1, [-1]), "milestones = -1 must be at least 0"),
        (lambda: tf.piecewise_constant([1.0, 2.0], [3, 4]), "2 values need 1 boundaries; 2 were given"),
        (lambda: tf.interpolated([1.0, 2.0, 3.0], [0, 4]), "must rise, from above 0"),
        (lambda: tf.interpolated([1.0, 2.0], [4], shape="sine"), "shape = 'sine' must be one of 'linear', 'cosine'"),
        (lambda: tf.warm_restarts(1.0, 10, growth=0.5), "growth = 0.5 must be a whole number, at least 1"),
        (lambda: tf.warm_restarts(1.0, 10, growth=0), "growth = 0 must be a whole number, at least 1"),
        (lambda: tf.warm_restarts(1.0, 10, warmup=10), "warmup = 10 must be at least 0 and below first = 10"),
        (lambda: tf.cyclical(0.0, 1.0, up=0), "up = 0 must be a positive number of steps"),
        (lambda: tf.cyclical(0.0, 1.0, up=3, mode="square"), "mode = 'square' must be one of"),
        (lambda: tf.cyclical(0.0, 1.0, up=3, scale=tf.constant(1.0), scale_by="n"), "scale_by = 'n'"),
        (lambda: tf.cyclical(0.0, 1.0, up=3, scale=lambda n: n), "must be an option, a number or a schedule"),
        (lambda: tf.cyclical(0.0, 1.0, up=3, scale=0.5), "scale = 0.5 must be a schedule"),
        (lambda: tf.one_cycle(1.0, 10, pct_start=1.5), r"pct_start = 1.5 must be in \[0, 1\]"),
        (lambda: tf.one_cycle(1.0, 10, pct_start=0.7, three_phase=True), r"pct_start = 0.7 must be in \[0, 0.5\]"),
        (lambda: tf.trapezoid(1.0, warmup=6, steps=10, cooldown=5), "longer together than all steps = 10"),
        (lambda: tf.get_schedule("cosin", 1.0), "there is no schedule 'cosin'; there are 'linear', 'cosine', "),
        (lambda: tf.get_schedule("greedy", 1.0), r"follows a metric, not the step: trainfn.greedy\(\) is a machine"),
        (lambda: tf.get_schedule("cosine", 1.0, steps=9), "cosine needs warmup, transformers' num_warmup_steps"),
        (lambda: tf.get_schedule("linear", 1.0, warmup=2), "linear needs steps, transformers' num_training_steps"),
        (lambda: tf.get_schedule("linear", 1.0, 5, 4), "warmup = 5 is longer than all steps = 4"),
        (lambda: tf.get_schedule("polynomial", 0.1, 2, 4, lr_end=0.1), "lr_end = 0.1 must be below the peak, 0.1"),
        (lambda: tf.get_schedule("cosine_with_min_lr", 1.0, 2, 4), "give one of min_lr, a learning rate, and min_lr_r"),
        (lambda: tf.get_schedule("constant", 1.0, 2, 4, power=2), "unexpected keyword argument 'power'"),
        (lambda: tf.get_schedule("warmup_stable_decay", 1.0, 2), "missing a required argument: 'num_decay_steps'"),
        (
            lambda: tf.get_schedule("warmup_stable_decay", 1.0, 2, num_decay_steps=2),
            "needs steps, the number of all, o",
        ),
        (
            lambda: tf.get_schedule("warmup_stable_decay", 1.0, 3, 4, num_decay_steps=2),
            "warmup = 3 and num_decay_steps = 2 are longer together than all steps = 4",
        ),
        (
            lambda: tf.get_schedule("warmup_stable_decay", 1.0, 1, 4, num_decay_steps=2, warmup_type="sine"),
            "shape = 'sine' must be one of",
        ),
        (lambda: tf.product([1.0]), "give the schedules one by one"),
        (lambda: tf.constant(0.1)("three"), "'three'"),
        (lambda: tf.constant(0.1)(True), "True"),
        (lambda: tf.constant(0.1)(np.array([1j])), "a step is a whole number, not array"),
        (lambda: tf.constant(0.1)(np.array(["3"])), "a step is a whole number, not array"),
        (lambda: tf.constant(0.1)(np.True_), "a step is a whole number, not np.True_"),
        (lambda: tf.constant("0.1"), "0.1"),
    ],
)
def test_bad_arguments(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_no_warnings_at_extremes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tf.exponential(1.0, 2.0)(10**7) == math.inf
        assert list(tf.exponential(1.0, 2.0)(np.array([10**7]))) == [math.inf]
        assert math.isnan(tf.linear(0.0, 1.0, 5)(math.nan))
