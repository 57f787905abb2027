"""The links of optax's chains under optax's names, with optax's arguments and defaults.

    tx = trainfn_jax.chain(
        trainfn_jax.clip_by_global_norm(1.0), trainfn_jax.scale_by_adam(), trainfn_jax.scale_by_learning_rate(1e-3)
    )

A rule whose learning rate is 1 makes -u of the gradient; `scale_by_...` hands on u.  One that keeps nothing and reads
no count has optax's empty state.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import optax  # type: ignore[import-untyped]

import trainfn
from trainfn.rule import Definition, Rule
from trainfn.schedules.schedule import Schedule
from trainfn_jax.combining import identity
from trainfn_jax.hyperparameters import OptaxSchedule
from trainfn_jax.layout import Empty, Flat, Layout
from trainfn_jax.optimizers import (
    ACCUMULATOR_DTYPE,
    BIAS_CORRECTION,
    EPS_ROOT,
    KEYWORD,
    MOMENTS,
    MU_DTYPE,
    NESTEROV,
    REQUIRED,
    Factory,
    as_hyperparameter,
    optimizer,
)
from trainfn_jax.transform import transformed

__all__ = [
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "centralize",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "ema",
    "normalize_by_update_norm",
    "scale",
    "scale_by_adadelta",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_adan",
    "scale_by_amsgrad",
    "scale_by_belief",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_novograd",
    "scale_by_optimistic_gradient",
    "scale_by_polyak",
    "scale_by_radam",
    "scale_by_rms",
    "scale_by_rprop",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_sign",
    "scale_by_sm3",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "scale_by_yogi",
    "trace",
]


def link(rule: Definition, *arguments: tuple[str, Any] | str, name: str, **fixed: Any) -> Factory:
    """`rule` as a function of optax's arguments; one that has a learning rate hands on what it would subtract for 1."""
    if "lr" in rule.defaults:
        fixed = {"lr": 1.0, **fixed, "around": trainfn.negated}
    return optimizer(rule, *arguments, name=name, layout=layout, **fixed)


def layout(rule: Rule) -> Layout:
    """One named tuple, or nothing if there is nothing to remember, a count of updates included."""
    counts = any("step" in link.definition.positional for link in rule.all_links)
    is_scheduled = any(isinstance(x, Schedule | OptaxSchedule) for x in rule.hyper.values())
    return Flat(rule) if rule.fields or counts or is_scheduled else Empty()


# -- what changes gradients --------------------------------------------------------------------------------------------

clip = link(trainfn.clip_by_value, ("max_delta", REQUIRED), name="clip")
clip_by_block_rms = link(trainfn.clip_by_rms, ("threshold", REQUIRED), name="clip_by_block_rms")
clip_by_global_norm = link(trainfn.clip_by_global_norm, ("max_norm", REQUIRED), name="clip_by_global_norm")
adaptive_grad_clip = link(
    trainfn.clip_by_unit_norm,
    ("clipping", REQUIRED),
    ("eps", 1e-3),
    ("axis", None),
    name="adaptive_grad_clip",
    out_axis=-1,
)
centralize = link(trainfn.centralize, name="centralize")
normalize_by_update_norm = link(
    trainfn.normalize, ("scale_factor", 1.0), ("eps", 1e-6), name="normalize_by_update_norm"
)
normalize = link(trainfn.normalize, name="normalize", within="optax.contrib", eps=0.0)
add_noise = link(trainfn.gradient_noise, ("eta", REQUIRED), ("gamma", REQUIRED), ("key", 0), name="add_noise")
add_decayed_weights = link(
    trainfn.coupled_weight_decay, ("weight_decay", 0.0), ("mask", None), name="add_decayed_weights"
)
scale_by_trust_ratio = link(
    trainfn.trust_ratio, ("min_norm", 0.0), ("trust_coefficient", 1.0), ("eps", 0.0), name="scale_by_trust_ratio"
)
trace = link(
    trainfn.sgd, ("decay", REQUIRED), NESTEROV, ACCUMULATOR_DTYPE, name="trace", state_dtype="accumulator_dtype"
)
ema = link(
    trainfn.average_gradient,
    ("decay", REQUIRED),
    ("debias", True),
    ACCUMULATOR_DTYPE,
    name="ema",
    state_dtype="accumulator_dtype",
)

# -- by a number -------------------------------------------------------------------------------------------------------

scale = link(trainfn.scale, ("step_size", REQUIRED), name="scale")
scale_by_schedule = link(trainfn.scale, ("step_size_fn", REQUIRED), name="scale_by_schedule")


def scale_by_learning_rate(
    learning_rate: optax.ScalarOrSchedule | None = None, *, flip_sign: bool = True
) -> optax.GradientTransformationExtraArgs:
    """optax.scale_by_learning_rate in trainfn's arithmetic: -lr g, or lr g without `flip_sign`; None is no scaling."""
    if learning_rate is None:
        return identity()
    scaled = trainfn.scale(by=as_hyperparameter("scale_by_learning_rate's learning_rate", learning_rate))
    return transformed(trainfn.negated(scaled) if flip_sign else scaled, layout).for_optax


reduce_on_plateau = link(
    trainfn.scale_on_plateau,
    ("factor", 0.1),
    ("patience", 10),
    ("rtol", 1e-4),
    ("atol", 0.0),
    ("cooldown", 0),
    ("accumulation_size", 1),
    ("min_scale", 0.0),
    name="reduce_on_plateau",
    within="optax.contrib",
)

# -- by what a rule makes of the gradient ------------------------------------------------------------------------------

SCALES = (("b1", 0.9), ("b2", 0.999), ("eps", 1e-16), ("eps_root", 1e-16))
RMS = (("decay", 0.9), ("eps", 1e-8), ("initial_scale", 0.0), ("eps_in_sqrt", True), ("bias_correction", False))

scale_by_adam = link(trainfn.adam, *MOMENTS, EPS_ROOT, MU_DTYPE, KEYWORD, NESTEROV, name="scale_by_adam")
scale_by_amsgrad = link(
    trainfn.adam,
    *MOMENTS,
    EPS_ROOT,
    MU_DTYPE,
    *BIAS_CORRECTION,
    name="scale_by_amsgrad",
    amsgrad=True,
    max_of_debiased=True,
)
scale_by_adamax = link(trainfn.adamax, *MOMENTS, name="scale_by_adamax")
scale_by_adan = link(
    trainfn.adan,
    ("b1", 0.98),
    ("b2", 0.92),
    ("b3", 0.99),
    ("eps", 1e-8),
    ("eps_root", 0.0),
    name="scale_by_adan",
    weight_decay=None,
    one_minus_b2=True,
)
scale_by_belief = link(trainfn.adabelief, *SCALES, KEYWORD, NESTEROV, name="scale_by_belief")
scale_by_yogi = link(
    trainfn.yogi,
    ("b1", 0.9),
    ("b2", 0.999),
    ("eps", 1e-3),
    EPS_ROOT,
    ("initial_accumulator_value", 1e-6),
    name="scale_by_yogi",
)
scale_by_radam = link(trainfn.radam, *MOMENTS, EPS_ROOT, ("threshold", 5.0), KEYWORD, NESTEROV, name="scale_by_radam")
scale_by_rms = link(trainfn.rmsprop, *RMS, name="scale_by_rms")
scale_by_stddev = link(trainfn.rmsprop, *RMS, name="scale_by_stddev", centered=True)
scale_by_rss = link(
    trainfn.adagrad, ("initial_accumulator_value", 0.1), ("eps", 1e-7), name="scale_by_rss", eps_in_sqrt=True
)
scale_by_adadelta = link(trainfn.adadelta, ("rho", 0.9), ("eps", 1e-6), name="scale_by_adadelta")
_lion = partial(
    link,
    trainfn.lion,
    ("b1", 0.9),
    ("b2", 0.99),
    MU_DTYPE,
    name="scale_by_lion",
    state_dtype="mu_dtype",
    weight_decay=None,
)
_LIONS = {"hard": _lion(), "refined": _lion(refined=True)}


def scale_by_lion(
    b1: Any = 0.9, b2: Any = 0.99, mu_dtype: Any = None, *, mode: str = "hard", smooth_beta: Any = 1.0
) -> optax.GradientTransformationExtraArgs:
    """optax.scale_by_lion in trainfn's arithmetic, see `trainfn.lion`; `mode` is 'hard' or 'refined'.

    optax's 'smooth', a tanh, is missing, and smooth_beta, which is its slope, says nothing in the others.
    """
    if mode not in _LIONS:
        raise TypeError(f"scale_by_lion: mode is 'hard' or 'refined' here, not {mode!r}.")
    return _LIONS[mode](b1, b2, mu_dtype)


scale_by_novograd = link(
    trainfn.novograd,
    ("b1", 0.9),
    ("b2", 0.25),
    ("eps", 1e-8),
    EPS_ROOT,
    ("weight_decay", 0.0),
    MU_DTYPE,
    name="scale_by_novograd",
)
scale_by_rprop = link(
    trainfn.rprop,
    ("learning_rate", REQUIRED),
    ("eta_minus", 0.5),
    ("eta_plus", 1.2),
    ("min_step_size", 1e-6),
    ("max_step_size", 50.0),
    name="scale_by_rprop",
)
scale_by_sign = link(trainfn.sign_sgd, name="scale_by_sign")
scale_by_sm3 = link(trainfn.sm3, ("b1", 0.9), KEYWORD, ("eps", 1e-8), name="scale_by_sm3")
scale_by_optimistic_gradient = link(
    trainfn.optimistic_gradient_descent, ("alpha", 1.0), ("beta", 1.0), name="scale_by_optimistic_gradient"
)
scale_by_polyak = link(
    trainfn.polyak_sgd,
    ("f_min", 0.0),
    ("max_learning_rate", 1.0),
    ("eps", 0.0),
    ("variant", "sps"),
    name="scale_by_polyak",
)

# -- of optax.contrib --------------------------------------------------------------------------------------------------

_contrib = partial(link, within="optax.contrib")

scale_by_acprop = _contrib(trainfn.acprop, *SCALES, name="scale_by_acprop", weight_decay=None)
scale_by_ademamix = _contrib(
    trainfn.ademamix,
    ("b1", 0.9),
    ("b2", 0.999),
    ("b3", 0.9999),
    ("alpha", 6.0),
    ("eps", 1e-8),
    EPS_ROOT,
    MU_DTYPE,
    name="scale_by_ademamix",
    weight_decay=None,
)
scale_by_simplified_ademamix = _contrib(
    trainfn.simplified_ademamix,
    ("b1", 0.99),
    ("b2", 0.95),
    ("alpha", 0.0),
    ("eps", 1e-8),
    ("eps_root", 0.0),
    name="scale_by_simplified_ademamix",
    weight_decay=None,
)
scale_by_adopt = _contrib(
    trainfn.adopt,
    ("b1", 0.9),
    ("b2", 0.9999),
    ("eps", 1e-6),
    MU_DTYPE,
    KEYWORD,
    NESTEROV,
    ("use_clipping", True),
    name="scale_by_adopt",
)
scale_by_galore = _contrib(
    trainfn.galore,
    ("rank", 128),
    ("update_proj_gap", 200),
    ("scale", 1.0),
    ("base_optimizer", None),
    ("weight_dimension_numbers", None),
    name="scale_by_galore",
    weight_decay=None,
    longer_side=True,
)

# What these hand on is what is added to the parameters.
_added = partial(optimizer, layout=layout, within="optax.contrib")

scale_by_cocob = _added(trainfn.cocob, ("alpha", 100.0), ("eps", 1e-8), name="scale_by_cocob")
scale_by_madgrad = _added(
    trainfn.madgrad, ("learning_rate", REQUIRED), ("momentum", 0.9), ("eps", 1e-6), name="scale_by_madgrad"
)
