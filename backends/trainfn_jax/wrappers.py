"""optax's wrappers under optax's names: trainfn's, with states that have optax's fields.

    tx = trainfn_jax.MultiSteps(trainfn_jax.chain(trainfn_jax.clip_by_global_norm(1.0), trainfn_jax.adamw(1e-3)), 4)

With what stands inside they are one program, so that must be a transformation of trainfn_jax.  Counts are float32
where optax has int32.  What a rule has to be evaluated at is `trainfn_jax.eval_params(tx, state, params)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax  # type: ignore[import-untyped]

import trainfn
from trainfn.rule import Link, Rule
from trainfn.schedules.schedule import Schedule
from trainfn_jax import schedules
from trainfn_jax.combining import chain, identity
from trainfn_jax.hyperparameters import OptaxSchedule
from trainfn_jax.layout import COUNT, Layout, around
from trainfn_jax.links import add_decayed_weights, scale_by_learning_rate, scale_by_rms
from trainfn_jax.optimizers import as_hyperparameter, expect_default, sgd
from trainfn_jax.transform import Transformation, combined, eval_params, found


class LookaheadState(NamedTuple):
    """fast_state: of the optimizer inside; steps_since_sync: of each leaf; count: updates applied; slow: the slow
    parameters, which optax has beside the fast ones."""

    fast_state: Any
    steps_since_sync: Any
    count: Any
    slow: Any


class MultiStepsState(NamedTuple):
    """As in optax, but acc_grads is the sum of the gradients, and total_weight that of their weights."""

    mini_step: Any
    gradient_step: Any
    inner_opt_state: Any
    acc_grads: Any
    total_weight: Any
    skip_state: Any = ()


class ApplyIfFiniteState(NamedTuple):
    """As in optax; last_finite is 1 or 0."""

    notfinite_count: Any
    last_finite: Any
    total_notfinite: Any
    inner_state: Any


class SAMState(NamedTuple):
    """As in optax; steps_since_sync is 1 after a first call, has_climbed for each leaf that had a gradient in it."""

    steps_since_sync: Any
    opt_state: Any
    cache: Any
    has_climbed: Any
    adv_state: Any = ()


class ScheduleFreeState(NamedTuple):
    """As in optax, but weight_sum and max_lr are of each leaf, and step_count counts from 0."""

    b1: Any
    weight_sum: Any
    step_count: Any
    max_lr: Any
    base_optimizer_state: Any
    z: Any


class MechanicState(NamedTuple):
    """As in optax; r, m, v and s have a pair of numbers, whose sum it is, for each of the six betas."""

    base_optimizer_state: Any
    count: Any
    r: Any
    m: Any
    v: Any
    s: Any
    x0: Any


def lookahead(
    fast_optimizer: Any, sync_period: Any, slow_step_size: Any, reset_state: bool = False
) -> optax.GradientTransformationExtraArgs:
    """optax.lookahead in trainfn's arithmetic, see `trainfn.lookahead`.

    Departs from optax: parameters and gradients are plain trees, not `LookaheadParams`; those are the fast ones, and
    the slow are kept in the state, `state.slow`.  `reset_state` can only be False.
    """
    expect_default("lookahead", "reset_state", reset_state, False)
    made = _wrapped(
        "lookahead",
        fast_optimizer,
        lambda rule: trainfn.lookahead(
            rule, k=as_hyperparameter("lookahead's sync_period", sync_period), alpha=slow_step_size
        ),
        (LookaheadState, {"steps_since_sync": "ahead", "count": COUNT, "slow": "slow"}, "fast_state"),
    )

    def init(params: Any) -> Any:
        if isinstance(params, optax.LookaheadParams):
            raise TypeError(
                "lookahead of trainfn_jax keeps the slow parameters in its state: give it the parameters themselves, "
                "not LookaheadParams."
            )
        return made.init(params)

    return optax.GradientTransformationExtraArgs(init, made.update)


class MultiSteps:
    """optax.MultiSteps in trainfn's arithmetic: one update from the gradients of several calls, `trainfn.accumulate`.

    It may stand wherever a transformation does.  Departs from optax: the gradients are summed and the sum is divided
    once, by the sum of the weights that `update(..., weight=...)` was given, 1 for each call without.  A gradient that
    is not finite is left out, in place of `should_skip_update_fn`; its call counts.  A skipped update is -0.0.  The sum
    has the parameter's dtype, or the `state_dtype` of `transform(rule, state_dtype=...)`.
    """

    def __init__(
        self, opt: Any, every_k_schedule: Any, use_grad_mean: bool = True, should_skip_update_fn: Any = None
    ) -> None:
        expect_default("MultiSteps", "should_skip_update_fn", should_skip_update_fn, None)
        k = as_hyperparameter("MultiSteps' every_k_schedule", every_k_schedule)
        made = _wrapped(
            "MultiSteps",
            opt,
            lambda rule: trainfn.accumulate(rule, k=k, mean=use_grad_mean),
            (
                MultiStepsState,
                {
                    "mini_step": "calls",
                    "gradient_step": COUNT,
                    "acc_grads": "total",
                    "total_weight": "total_weight",
                },
                "inner_opt_state",
            ),
        )
        self.inner_opt = opt
        self.init, self.update = made.init, made.update

    def has_updated(self, state: Any) -> Any:
        """Whether the last call ended a window, and there was an update."""
        return jnp.logical_and(state.mini_step == 0, state.gradient_step > 0)

    def gradient_transformation(self) -> optax.GradientTransformationExtraArgs:
        return optax.GradientTransformationExtraArgs(self.init, self.update)


def apply_if_finite(inner: Any, max_consecutive_errors: Any) -> optax.GradientTransformationExtraArgs:
    """optax.apply_if_finite in trainfn's arithmetic, see `trainfn.apply_if_finite`.  A skipped update is -0.0."""
    return _wrapped(
        "apply_if_finite",
        inner,
        lambda rule: trainfn.apply_if_finite(rule, max_consecutive_errors=max_consecutive_errors),
        (
            ApplyIfFiniteState,
            {"notfinite_count": "in_a_row", "last_finite": "last_was_finite", "total_notfinite": "total"},
            "inner_state",
        ),
    )


# -- of optax.contrib --------------------------------------------------------------------------------------------------


def sam(
    optimizer: Any,
    adv_optimizer: Any,
    sync_period: int = 2,
    reset_state: bool = True,
    opaque_mode: bool = False,
    batch_axis_name: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """optax.contrib.sam in trainfn's arithmetic, in two calls for an update: `trainfn.sam`.

    adv_optimizer: `chain(contrib.normalize(), sgd(rho))` of trainfn_jax, which is SAM; no other climb is known here.
    optax's `sync_period` is 2, and its opaque mode, which calls the model itself, is missing: in a first call the
    update leads to where the second gradient is to be taken.  This climb has no state, so that `reset_state` says
    nothing.
    """
    expect_default("contrib.sam", "sync_period", sync_period, 2)
    expect_default("contrib.sam", "opaque_mode", opaque_mode, False)
    expect_default("contrib.sam", "batch_axis_name", batch_axis_name, None)
    rho, eps = _climb(adv_optimizer)
    return _wrapped(
        "contrib.sam",
        optimizer,
        lambda rule: trainfn.sam(rule, rho=rho, eps=eps),
        (SAMState, {"steps_since_sync": "is_second", "cache": "origin", "has_climbed": "has_climbed"}, "opt_state"),
    )


def schedule_free(
    base_optimizer: Any,
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """optax.contrib.schedule_free in trainfn's arithmetic, see `trainfn.schedule_free`.

    As in optax the weights of the average look one step ahead in a schedule.  `state_dtype` can only be None.
    """
    expect_default("contrib.schedule_free", "state_dtype", state_dtype, None)
    lr = _one_ahead(as_hyperparameter("schedule_free's learning_rate", learning_rate))
    return _wrapped(
        "contrib.schedule_free",
        base_optimizer,
        lambda rule: trainfn.schedule_free(rule, lr=lr, b1=b1, weight_lr_power=weight_lr_power),
        (
            ScheduleFreeState,
            {"weight_sum": "weights", "step_count": COUNT, "max_lr": "peak", "z": "z"},
            "base_optimizer_state",
        ),
        {"b1": b1},
    )


def schedule_free_sgd(
    learning_rate: Any = 1.0,
    warmup_steps: int | None = None,
    b1: Any = 0.9,
    weight_decay: Any = None,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """optax.contrib.schedule_free_sgd in trainfn's arithmetic.  `state_dtype` can only be None."""
    lr = _warmed_up(learning_rate, warmup_steps)
    decay = [] if weight_decay is None else [add_decayed_weights(weight_decay)]
    return schedule_free(chain(*decay, sgd(lr)), lr, b1, weight_lr_power, state_dtype)


def schedule_free_adamw(
    learning_rate: Any = 0.0025,
    warmup_steps: int | None = None,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_lr_power: Any = 2.0,
    state_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """optax.contrib.schedule_free_adamw in trainfn's arithmetic.  `state_dtype` can only be None."""
    lr = _warmed_up(learning_rate, warmup_steps)
    base = chain(
        scale_by_rms(decay=b2, eps=eps, eps_in_sqrt=False, bias_correction=True),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
    return schedule_free(base, lr, b1, weight_lr_power, state_dtype)


def schedule_free_eval_params(state: Any, params: Any) -> Any:
    """optax.contrib.schedule_free_eval_params: the average to evaluate, of a state of `schedule_free` itself.

    `trainfn_jax.eval_params(tx, state, params)` also finds it inside of other states.
    """
    if not isinstance(state, ScheduleFreeState):
        raise TypeError(
            f"a state of schedule_free is due, and this is a {type(state).__name__}: take it out of what stands around "
            "it, or call trainfn_jax.eval_params(tx, state, params)."
        )
    tx = schedule_free(identity(), 1.0, b1=state.b1)
    return eval_params(tx, state._replace(base_optimizer_state=optax.EmptyState()), params)


def mechanize(
    base_optimizer: Any, weight_decay: Any = 1e-2, eps: Any = 1e-8, s_init: Any = 1e-6, num_betas: int = 6
) -> optax.GradientTransformationExtraArgs:
    """optax.contrib.mechanize in trainfn's arithmetic, see `trainfn.mechanic`, with six betas, its default."""
    expect_default("contrib.mechanize", "num_betas", num_betas, 6)
    several = {name: tuple(f"{name}{k}" for k in range(6)) for name in "rmvs"}
    return _wrapped(
        "contrib.mechanize",
        base_optimizer,
        lambda rule: trainfn.mechanic(rule, weight_decay=weight_decay, eps=eps, s_init=s_init),
        (MechanicState, {"count": COUNT, "x0": "p0", **several}, "base_optimizer_state"),
    )


# -- what they are made of ---------------------------------------------------------------------------------------------


def _wrapped(
    name: str,
    inner: Any,
    make: Any,
    state: tuple[Any, Mapping[str, Any], str],
    constants: Mapping[str, Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The transformation of the rule that `make` makes of the one inside, with a state of this class."""
    own = _own(name, inner)

    def layout(whole: Rule) -> Layout:
        return around(whole, (own.rule, own.layout), *state, constants or {})

    return combined(make, [own], layout, own.options).for_optax


def _own(name: str, inner: Any) -> Transformation:
    own = found(inner)
    if own is None:
        raise TypeError(
            f"trainfn_jax.{name} stands around a transformation of trainfn_jax, or a chain of such, and {inner!r} is "
            f"none: optax.{name} takes any."
        )
    return own


def _warmed_up(learning_rate: Any, steps: int | None) -> Any:
    return learning_rate if steps is None else schedules.warmup_constant_schedule(0, learning_rate, steps)


def _one_ahead(lr: Any) -> Any:
    if isinstance(lr, Schedule):
        return trainfn.shift(lr, by=-1)
    return OptaxSchedule(lambda count: lr.function(count + 1), lr.argument) if isinstance(lr, OptaxSchedule) else lr


def _climb(adv_optimizer: Any) -> tuple[Any, Any]:
    """rho and eps of chain(normalize(), sgd(rho))."""
    rule = _own("contrib.sam", adv_optimizer).rule
    match rule:
        case Rule(links=(Link() as first, Link() as second)) if (
            first.definition is trainfn.normalize
            and first.hyper["scale"] == 1.0
            and second.definition is trainfn.sgd
            and "momentum" not in second.hyper
        ):
            return second.hyper["lr"], first.hyper["eps"]
    raise TypeError(
        f"contrib.sam climbs along chain(contrib.normalize(), sgd(rho)) of trainfn_jax, and {rule!r} is another "
        "transformation: optax.contrib.sam takes any."
    )
