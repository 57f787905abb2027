"""trainfn in JAX: rules as gradient transformations of optax, schedules as schedules of optax.

`transform(rule)` takes any rule of trainfn; `adamw`, `sgd`, `clip_by_global_norm`, `chain` and the others are optax's
functions of these names.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from trainfn_jax import contrib as contrib
from trainfn_jax import convert as convert
from trainfn_jax import schedules as schedules
from trainfn_jax.combining import chain as chain
from trainfn_jax.combining import freeze as freeze
from trainfn_jax.combining import identity as identity
from trainfn_jax.combining import masked as masked
from trainfn_jax.combining import multi_transform as multi_transform
from trainfn_jax.combining import partition as partition
from trainfn_jax.combining import selective_transform as selective_transform
from trainfn_jax.combining import set_to_zero as set_to_zero
from trainfn_jax.evaluation import evaluate as evaluate
from trainfn_jax.evaluation import evaluate_schedule as evaluate_schedule
from trainfn_jax.links import adaptive_grad_clip as adaptive_grad_clip
from trainfn_jax.links import add_decayed_weights as add_decayed_weights
from trainfn_jax.links import add_noise as add_noise
from trainfn_jax.links import centralize as centralize
from trainfn_jax.links import clip as clip
from trainfn_jax.links import clip_by_block_rms as clip_by_block_rms
from trainfn_jax.links import clip_by_global_norm as clip_by_global_norm
from trainfn_jax.links import ema as ema
from trainfn_jax.links import normalize_by_update_norm as normalize_by_update_norm
from trainfn_jax.links import scale as scale
from trainfn_jax.links import scale_by_adadelta as scale_by_adadelta
from trainfn_jax.links import scale_by_adam as scale_by_adam
from trainfn_jax.links import scale_by_adamax as scale_by_adamax
from trainfn_jax.links import scale_by_adan as scale_by_adan
from trainfn_jax.links import scale_by_amsgrad as scale_by_amsgrad
from trainfn_jax.links import scale_by_belief as scale_by_belief
from trainfn_jax.links import scale_by_learning_rate as scale_by_learning_rate
from trainfn_jax.links import scale_by_lion as scale_by_lion
from trainfn_jax.links import scale_by_novograd as scale_by_novograd
from trainfn_jax.links import scale_by_optimistic_gradient as scale_by_optimistic_gradient
from trainfn_jax.links import scale_by_polyak as scale_by_polyak
from trainfn_jax.links import scale_by_radam as scale_by_radam
from trainfn_jax.links import scale_by_rms as scale_by_rms
from trainfn_jax.links import scale_by_rprop as scale_by_rprop
from trainfn_jax.links import scale_by_rss as scale_by_rss
from trainfn_jax.links import scale_by_schedule as scale_by_schedule
from trainfn_jax.links import scale_by_sign as scale_by_sign
from trainfn_jax.links import scale_by_sm3 as scale_by_sm3
from trainfn_jax.links import scale_by_stddev as scale_by_stddev
from trainfn_jax.links import scale_by_trust_ratio as scale_by_trust_ratio
from trainfn_jax.links import scale_by_yogi as scale_by_yogi
from trainfn_jax.links import trace as trace
from trainfn_jax.optimizers import adabelief as adabelief
from trainfn_jax.optimizers import adadelta as adadelta
from trainfn_jax.optimizers import adafactor as adafactor
from trainfn_jax.optimizers import adagrad as adagrad
from trainfn_jax.optimizers import adam as adam
from trainfn_jax.optimizers import adamax as adamax
from trainfn_jax.optimizers import adamaxw as adamaxw
from trainfn_jax.optimizers import adamw as adamw
from trainfn_jax.optimizers import adan as adan
from trainfn_jax.optimizers import amsgrad as amsgrad
from trainfn_jax.optimizers import fromage as fromage
from trainfn_jax.optimizers import lamb as lamb
from trainfn_jax.optimizers import lars as lars
from trainfn_jax.optimizers import lion as lion
from trainfn_jax.optimizers import nadam as nadam
from trainfn_jax.optimizers import nadamw as nadamw
from trainfn_jax.optimizers import noisy_sgd as noisy_sgd
from trainfn_jax.optimizers import novograd as novograd
from trainfn_jax.optimizers import optimistic_adam_v2 as optimistic_adam_v2
from trainfn_jax.optimizers import optimistic_gradient_descent as optimistic_gradient_descent
from trainfn_jax.optimizers import polyak_sgd as polyak_sgd
from trainfn_jax.optimizers import radam as radam
from trainfn_jax.optimizers import rmsprop as rmsprop
from trainfn_jax.optimizers import rprop as rprop
from trainfn_jax.optimizers import sgd as sgd
from trainfn_jax.optimizers import sign_sgd as sign_sgd
from trainfn_jax.optimizers import signum as signum
from trainfn_jax.optimizers import sm3 as sm3
from trainfn_jax.optimizers import yogi as yogi
from trainfn_jax.schedules import constant_schedule as constant_schedule
from trainfn_jax.schedules import cosine_decay_schedule as cosine_decay_schedule
from trainfn_jax.schedules import cosine_onecycle_schedule as cosine_onecycle_schedule
from trainfn_jax.schedules import exponential_decay as exponential_decay
from trainfn_jax.schedules import join_schedules as join_schedules
from trainfn_jax.schedules import linear_onecycle_schedule as linear_onecycle_schedule
from trainfn_jax.schedules import linear_schedule as linear_schedule
from trainfn_jax.schedules import piecewise_constant_schedule as piecewise_constant_schedule
from trainfn_jax.schedules import piecewise_interpolate_schedule as piecewise_interpolate_schedule
from trainfn_jax.schedules import polynomial_schedule as polynomial_schedule
from trainfn_jax.schedules import sgdr_schedule as sgdr_schedule
from trainfn_jax.schedules import warmup_constant_schedule as warmup_constant_schedule
from trainfn_jax.schedules import warmup_cosine_decay_schedule as warmup_cosine_decay_schedule
from trainfn_jax.schedules import warmup_exponential_decay_schedule as warmup_exponential_decay_schedule
from trainfn_jax.transform import eval_params as eval_params
from trainfn_jax.transform import transform as transform
from trainfn_jax.trees import named_leaves as named_leaves
from trainfn_jax.vocabulary import absent as _absent
from trainfn_jax.wrappers import MultiSteps as MultiSteps
from trainfn_jax.wrappers import apply_if_finite as apply_if_finite
from trainfn_jax.wrappers import lookahead as lookahead

__all__ = [
    "MultiSteps",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "amsgrad",
    "apply_if_finite",
    "centralize",
    "chain",
    "clip",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "constant_schedule",
    "contrib",
    "convert",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "ema",
    "eval_params",
    "evaluate",
    "evaluate_schedule",
    "exponential_decay",
    "freeze",
    "fromage",
    "identity",
    "join_schedules",
    "lamb",
    "lars",
    "linear_onecycle_schedule",
    "linear_schedule",
    "lion",
    "lookahead",
    "masked",
    "multi_transform",
    "nadam",
    "nadamw",
    "named_leaves",
    "noisy_sgd",
    "normalize_by_update_norm",
    "novograd",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "partition",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polyak_sgd",
    "polynomial_schedule",
    "radam",
    "rmsprop",
    "rprop",
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
    "selective_transform",
    "set_to_zero",
    "sgd",
    "sgdr_schedule",
    "sign_sgd",
    "signum",
    "sm3",
    "trace",
    "transform",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "yogi",
]


if not _TYPE_CHECKING:  # for which every name would be there

    def __getattr__(name: str) -> object:
        raise _absent(__name__, name)
