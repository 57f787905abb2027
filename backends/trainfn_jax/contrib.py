"""trainfn's rules under the names of optax.contrib, with its arguments and defaults."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import optax  # type: ignore[import-untyped]

import trainfn
from trainfn.rules.muon import COEFFICIENTS
from trainfn_jax.links import layout
from trainfn_jax.links import normalize as normalize
from trainfn_jax.links import reduce_on_plateau as reduce_on_plateau
from trainfn_jax.links import scale_by_acprop as scale_by_acprop
from trainfn_jax.links import scale_by_ademamix as scale_by_ademamix
from trainfn_jax.links import scale_by_adopt as scale_by_adopt
from trainfn_jax.links import scale_by_cocob as scale_by_cocob
from trainfn_jax.links import scale_by_galore as scale_by_galore
from trainfn_jax.links import scale_by_madgrad as scale_by_madgrad
from trainfn_jax.links import scale_by_simplified_ademamix as scale_by_simplified_ademamix
from trainfn_jax.masks import masked
from trainfn_jax.optimizers import (
    EPS_ROOT,
    KEYWORD,
    LEARNING_RATE,
    MU_DTYPE,
    NESTEROV,
    as_hyperparameter,
    expect_default,
    expect_known,
    optimizer,
)
from trainfn_jax.transform import transform, transformed
from trainfn_jax.vocabulary import absent as _absent
from trainfn_jax.wrappers import mechanize as mechanize
from trainfn_jax.wrappers import sam as sam
from trainfn_jax.wrappers import schedule_free as schedule_free
from trainfn_jax.wrappers import schedule_free_adamw as schedule_free_adamw
from trainfn_jax.wrappers import schedule_free_eval_params as schedule_free_eval_params
from trainfn_jax.wrappers import schedule_free_sgd as schedule_free_sgd

__all__ = [
    "acprop",
    "ademamix",
    "adopt",
    "cocob",
    "dadapt_adamw",
    "dog",
    "dowg",
    "galore",
    "madgrad",
    "mechanize",
    "momo",
    "momo_adam",
    "muon",
    "normalize",
    "prodigy",
    "reduce_on_plateau",
    "sam",
    "scale_by_acprop",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_cocob",
    "scale_by_galore",
    "scale_by_madgrad",
    "scale_by_muon",
    "scale_by_simplified_ademamix",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
    "simplified_ademamix",
]

_optimizer = partial(optimizer, within="optax.contrib")

prodigy = _optimizer(
    trainfn.prodigy,
    ("learning_rate", 1.0),
    ("betas", (0.9, 0.999)),
    ("beta3", None),
    ("eps", 1e-8),
    ("estim_lr0", 1e-6),
    ("estim_lr_coef", 1.0),
    ("weight_decay", 0.0),
    ("safeguard_warmup", False),
    bias_correction=True,
)
dadapt_adamw = _optimizer(
    trainfn.dadapt_adamw,
    ("learning_rate", 1.0),
    ("betas", (0.9, 0.999)),
    ("eps", 1e-8),
    ("estim_lr0", 1e-6),
    ("weight_decay", 0.0),
)
dog = _optimizer(
    trainfn.dog,
    ("learning_rate", 1.0),
    ("init_step", ("heuristic", 1e-6)),
    ("eps", 1e-8),
    ("weight_decay", None),
    ("mask", None),
    coupled=True,
)
dowg = _optimizer(
    trainfn.dowg,
    ("learning_rate", 1.0),
    ("init_estim_sq_dist", None),
    ("eps", 1e-4),
    ("weight_decay", None),
    ("mask", None),
    coupled=True,
)
momo = _optimizer(
    trainfn.momo,
    ("learning_rate", 1.0),
    ("beta", 0.9),
    ("lower_bound", 0.0),
    ("weight_decay", 0.0),
    ("adapt_lower_bound", False),
)
momo_adam = _optimizer(
    trainfn.momo_adam,
    ("learning_rate", 1e-2),
    ("b1", 0.9),
    ("b2", 0.999),
    ("eps", 1e-8),
    ("lower_bound", 0.0),
    ("weight_decay", 0.0),
    ("adapt_lower_bound", False),
)
madgrad = _optimizer(trainfn.madgrad, LEARNING_RATE, ("momentum", 0.9), ("weight_decay", 0.0), ("eps", 1e-6))
galore = _optimizer(
    trainfn.galore,
    LEARNING_RATE,
    ("rank", 128),
    ("update_proj_gap", 200),
    ("scale", 1.0),
    ("base_optimizer", None),
    ("weight_decay", 0.0),
    ("mask", None),
    ("weight_dimension_numbers", None),
    longer_side=True,
)
cocob = _optimizer(
    trainfn.cocob,
    ("learning_rate", 1.0),
    ("alpha", 100.0),
    ("eps", 1e-8),
    ("weight_decay", 0.0),
    ("mask", None),
    coupled=True,
)
acprop = _optimizer(
    trainfn.acprop,
    LEARNING_RATE,
    ("b1", 0.9),
    ("b2", 0.999),
    ("eps", 1e-16),
    ("eps_root", 1e-16),
    ("weight_decay", 0.0),
    ("mask", None),
)
ademamix = _optimizer(
    trainfn.ademamix,
    LEARNING_RATE,
    ("b1", 0.9),
    ("b2", 0.999),
    ("b3", 0.9999),
    ("alpha", 5.0),
    ("eps", 1e-8),
    EPS_ROOT,
    MU_DTYPE,
    ("weight_decay", 0.0),
    ("mask", None),
)
simplified_ademamix = _optimizer(
    trainfn.simplified_ademamix,
    LEARNING_RATE,
    ("b1", 0.99),
    ("b2", 0.95),
    ("alpha", 0.0),
    ("eps", 1e-8),
    ("eps_root", 0.0),
    ("weight_decay", 0.0),
    ("mask", None),
)
adopt = _optimizer(
    trainfn.adopt,
    LEARNING_RATE,
    ("b1", 0.9),
    ("b2", 0.9999),
    ("eps", 1e-6),
    MU_DTYPE,
    KEYWORD,
    NESTEROV,
    ("use_clipping", True),
)


def muon(
    learning_rate: optax.ScalarOrSchedule,
    ns_coeffs: Any = COEFFICIENTS["standard"],
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: Any = 0.9,
    adam_b2: Any = 0.999,
    adam_eps_root: Any = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: optax.ScalarOrSchedule | None = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """optax.contrib.muon in trainfn's arithmetic: `trainfn.muon` for matrices, `trainfn.adamw` for all else.

    ns_coeffs may be the name of a preset, 'standard' or 'dion'.  weight_decay_mask says which matrices decay.  The
    preconditioning 'spectral' is missing, and leaves of two axes are the matrices.  ns_steps chooses the program:
    inject_hyperparams(muon, static_args="ns_steps").  The iteration's products see some 20 bits of each number, where
    optax's float32 has 24: precision="high" of `trainfn.muon`, which has a "highest", too.
    """
    expect_default("muon", "mu_dtype", mu_dtype, None)
    expect_default("muon", "muon_weight_dimension_numbers", muon_weight_dimension_numbers, None)
    lr = as_hyperparameter("muon's learning_rate", learning_rate)
    adam_lr = lr if adam_learning_rate is None else as_hyperparameter("muon's adam_learning_rate", adam_learning_rate)

    def whole(decay: Any) -> trainfn.Rule:
        of_matrices = _of_matrices(
            ns_coeffs,
            ns_steps,
            beta,
            eps,
            lr=lr,
            weight_decay=decay,
            nesterov=nesterov,
            adaptive=adaptive,
            preconditioning=preconditioning,
            consistent_rms=consistent_rms,
        )
        return trainfn.partition({_is_matrix: of_matrices}, otherwise=of_others)

    of_others = trainfn.adamw(
        lr=adam_lr,
        b1=adam_b1,
        b2=adam_b2,
        eps=eps,
        eps_root=adam_eps_root,
        weight_decay=adam_weight_decay,
        nesterov=nesterov,
    )
    if weight_decay_mask is None:
        return transform(whole(weight_decay))
    return masked(whole, weight_decay, weight_decay_mask).for_optax


def scale_by_muon(
    ns_coeffs: Any = COEFFICIENTS["standard"],
    ns_steps: int = 5,
    beta: Any = 0.95,
    eps: Any = 1e-8,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    weight_dimension_numbers: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """optax.contrib.scale_by_muon in trainfn's arithmetic: momentum made orthogonal, see `trainfn.muon`.

    A leaf of more axes than two is the matrix of its last axis and all others.
    """
    expect_default("scale_by_muon", "mu_dtype", mu_dtype, None)
    expect_default("scale_by_muon", "weight_dimension_numbers", weight_dimension_numbers, None)
    rule = _of_matrices(
        ns_coeffs,
        ns_steps,
        beta,
        eps,
        lr=1.0,
        weight_decay=None,
        is_scaled=False,
        nesterov=nesterov,
        adaptive=adaptive,
        preconditioning=preconditioning,
    )
    return transformed(trainfn.negated(rule), layout).for_optax


def _of_matrices(ns_coeffs: Any, ns_steps: int, beta: Any, eps: Any, **others: Any) -> trainfn.Rule:
    expect_known("muon", "ns_steps", ns_steps)
    return trainfn.muon(
        momentum=beta,
        eps=eps,
        coefficients=COEFFICIENTS[ns_coeffs] if isinstance(ns_coeffs, str) else ns_coeffs,
        steps=ns_steps,
        debias=True,
        eps_is_floor=False,
        out_axis=-1,
        **others,
    )


def _is_matrix(leaf: trainfn.Leaf) -> bool:
    return leaf.ndim == 2


if not TYPE_CHECKING:  # for which every name would be there

    def __getattr__(name: str) -> object:
        raise _absent(__name__, name)
