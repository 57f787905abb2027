"""optax's words for what trainfn names otherwise: data, not code.

What is not listed has the same name in both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

# Hyperparameters, for every rule: trainfn's word -> optax's.
HYPERPARAMETERS: Mapping[str, str] = {
    "lr": "learning_rate",
    "b3": "beta3",
    "d0": "estim_lr0",
    "d_coefficient": "estim_lr_coef",
    "initial_square_distance": "init_estim_sq_dist",
}

# optax's arguments that hold several hyperparameters, or one that has another name elsewhere.
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "betas": ("b1", "b2"),
    "init_step": ("start", "start_value"),
    "beta": ("b1",),
    "max_learning_rate": ("lr",),
    "key": ("seed",),
    "decay_rate": ("decay",),
    "decay_offset": ("step_offset",),
    "weight_decay_rate": ("weight_decay",),
    "clipping_threshold": ("d",),
    "min_dim_size_to_factor": ("min_size",),
    "multiply_by_parameter_scale": ("scale_parameter",),
    "eps": ("eps1",),
    "max_delta": ("max_value",),
    "threshold": ("max_rms",),
    "clipping": ("max_ratio",),
    "scale_factor": ("scale",),
    "step_size": ("by",),
    "step_size_fn": ("by",),
    "b1": ("momentum",),
    "decay": ("momentum",),
    "bias_correction": ("debias",),
    "update_proj_gap": ("every",),
}

# Arguments of optax that are not taken, or only as what they are by default, and what to do instead.
NOT_TAKEN: Mapping[str, str] = {
    "mu_dtype": "trainfn_jax.transform(rule, state_dtype=...) keeps all arrays of the state in another dtype",
    "dtype_momentum": "trainfn_jax.transform(rule, state_dtype=...) keeps all arrays of the state in another dtype",
    "state_dtype": "trainfn_jax.transform(rule, state_dtype=...) keeps all arrays of the state in another dtype",
    "accumulator_dtype": "trainfn_jax.transform(rule, state_dtype=...) keeps all arrays of the state in another dtype",
    "bias_correction_mu": "both moments are debiased: for one that is not write a rule",
    "bias_correction_nu": "both moments are debiased: for one that is not write a rule",
    "trust_ratio_mask": "for leaves without the ratio put trainfn_jax.partition around lars and another transformation",
    "axis": "units are those of trainfn.clip_by_unit_norm",
    "seed": "give the whole number as key=",
    "clip_value_fn": "the bound is t^(1/4); use_clipping=False has none",
    "base_optimizer": "the optimizer of the projected gradients is Adam",
    "weight_dimension_numbers": "leaves of two axes are matrices",
    "muon_weight_dimension_numbers": "leaves of two axes are matrices: for others, trainfn_jax.partition with "
    "contrib.scale_by_muon",
    "should_skip_update_fn": "gradients that are not finite are left out",
    "reset_state": "wrap the optimizer anew where its state is to begin again",
    "num_betas": "there are six",
    "sync_period": "the gradient is taken twice for an update",
    "opaque_mode": "call update twice, with the gradient at the parameters that the first call leads to",
    "batch_axis_name": "average gradients over devices before update",
}

# Names of optax and optax.contrib that are not here, and what to use.
ABSENT: Mapping[str, str] = {
    "sophia": "trainfn_jax.transform(trainfn.sophia(...)), for which estimates of the Hessian are calls of their own",
    "hutchinson_estimator_diag_hessian": "trainfn_jax.transform(trainfn.sophia(...)), whose docstring has the estimate",
    "split_real_and_imaginary": "nothing: rules take complex leaves as pairs of real numbers",
    "apply_every": "trainfn_jax.MultiSteps",
    "optimistic_adam": "trainfn_jax.optimistic_adam_v2, which optax has in its place",
    "inject_hyperparams": "optax.inject_hyperparams, which takes the functions of trainfn_jax",
    "skip_not_finite": "trainfn_jax.apply_if_finite, or trainfn.skip_if_not_finite",
    "lbfgs": "optax.lbfgs: a line search calls the model, which no rule does",
}

# State fields, by rule of trainfn's: its word -> optax's.
STATE: Mapping[str, Mapping[str, str]] = {
    "adam": {"m": "mu", "v": "nu", "v_max": "nu_max"},
    "adamw": {"m": "mu", "v": "nu", "v_max": "nu_max"},
    "radam": {"m": "mu", "v": "nu"},
    "lion": {"m": "mu"},
    "average_gradient": {"mean": "ema"},
    "scale_on_plateau": {
        "best": "best_value",
        "bad": "plateau_count",
        "cooldowns": "cooldown_count",
        "total": "total_value",
    },
    "sgd": {"buf": "trace"},
    "rmsprop": {"v": "nu", "mean": "mu", "buf": "trace"},
    "adagrad": {"s": "sum_of_squares"},
    "lamb": {"m": "mu", "v": "nu"},
    "lars": {"buf": "trace"},
    "novograd": {"m": "mu", "v": "nu"},
    "prodigy": {
        "m": "exp_avg",
        "v": "exp_avg_sq",
        "s": "grad_sum",
        "p0": "params0",
        "r": "numerator_weighted",
        "d": "estim_lr",
    },
    "dadapt_adamw": {
        "m": "exp_avg",
        "v": "exp_avg_sq",
        "s": "grad_sum",
        "r": "numerator_weighted",
        "d": "estim_lr",
    },
    "dog": {"p0": "init_params", "r": "max_dist", "G": "sum_sq_norm_grads"},
    "dowg": {"p0": "init_params", "r": "estim_sq_dist", "v": "weighted_sq_norm_grads"},
    "momo": {"m": "exp_avg", "f": "barf"},
    "momo_adam": {"m": "exp_avg", "v": "exp_avg_sq", "f": "barf"},
    "cocob": {
        "p0": "init_particles",
        "C": "cumulative_gradients",
        "L": "scale",
        "G": "subgradients",
        "R": "reward",
    },
    "adamax": {"m": "mu", "u": "nu"},
    "adamaxw": {"m": "mu", "u": "nu"},
    "adafactor": {"rows": "v_row", "columns": "v_col", "m": "ema"},
    "madgrad": {"v": "grad_sum_sq", "p0": "x0"},
    "sm3": {"m": "nu"},
    "muon": {"m": "mu"},
    "galore": {"P": "projector", "m": "mu", "v": "nu"},
    "adadelta": {"v": "e_g", "d": "e_x"},
    "rprop": {"prev": "prev_updates", "step_size": "step_sizes"},
    "signum": {"m": "ema"},
    "adabelief": {"m": "mu", "s": "nu"},
    "acprop": {"m": "mu", "s": "nu"},
    "yogi": {"m": "mu", "v": "nu"},
    "adan": {"g_last": "g"},
    "adopt": {"m": "mu", "v": "nu"},
    "ademamix": {"v": "nu"},
    "simplified_ademamix": {"v": "n"},
    "schedule_free": {"weights": "weight_sum", "peak": "max_lr"},
    "sophia": {"m": "mu", "h": "nu"},
    "optimistic_gradient_descent": {"last": "previous_gradient"},
    "optimistic_adam": {"m": "mu", "v": "nu", "last": "previous_gradient"},
}

# What follows is about optax's own states only, where `trainfn_jax.convert` reads and writes them.

# Fields kept under a word that ours do not have, or as one number of several under it.
ELSEWHERE: Mapping[str, Mapping[str, str | tuple[str, int]]] = {
    "schedule_free": {"weights": "weight_sum", "peak": "max_lr"},  # of the model, where ours are of each leaf
    "mechanic": {"p0": "x0", **{f"{name}{k}": (name, k) for name in "mvrs" for k in range(6)}},
    "sm3": {f"mu{k}": ("mu", k) for k in range(5)},  # a list in each leaf's place
}

# Fields that optax keeps without the axes of length 1 that ours have.
REDUCED: Mapping[str, Collection[str]] = {
    "adafactor": ("rows", "columns"),
    "sm3": [f"mu{k}" for k in range(5)],
}

# Rules whose states in optax are of another sort than ours, and why.
APART: Mapping[str, str] = {
    "rprop": "optax keeps the step that it takes with the next gradient, which is taken here at once",
}

# The shapes of what optax keeps where a leaf lacks a field that others have.
PLACEHOLDERS = ((1,), (0, 0))

# Fields that are a count of updates, which optax's states have anyway.
COUNTERS: Mapping[str, str] = {"prodigy": "t", "dadapt_adamw": "t", "momo": "t", "momo_adam": "t"}

# Fields that optax keeps as what is added to p: -1 times ours with `lr_in_momentum`, and -lr times it without.
ADDED: Mapping[str, str] = {"rmsprop": "buf", "lars": "buf"}

# What optax calls a count of updates, with what it starts at; and whether there were none yet.
COUNTS: Mapping[str, int] = {"count": 0, "count_m2": 0, "t": 0, "step": 0, "gradient_step": 0, "step_count": 1}
FIRST = ("is_init_step", "is_initial_step")


def absent(module: str, name: str) -> AttributeError:
    """The error for a name that a module of ours does not have."""
    message = f"module {module!r} has no attribute {name!r}"
    return AttributeError(f"{message}: use {ABSENT[name]}." if name in ABSENT else message + ".", name=name)
