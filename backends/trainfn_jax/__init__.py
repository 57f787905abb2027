"""trainfn in JAX: rules as gradient transformations of optax, schedules as schedules of optax.

`transform(rule)` takes any rule of trainfn; `adamw`, `sgd` and the others are optax's functions of these names.
"""

from trainfn_jax import contrib as contrib
from trainfn_jax import convert as convert
from trainfn_jax import schedules as schedules
from trainfn_jax.evaluation import evaluate as evaluate
from trainfn_jax.evaluation import evaluate_schedule as evaluate_schedule
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

__all__ = [
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "amsgrad",
    "constant_schedule",
    "contrib",
    "convert",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "eval_params",
    "evaluate",
    "evaluate_schedule",
    "exponential_decay",
    "fromage",
    "join_schedules",
    "lamb",
    "lars",
    "linear_onecycle_schedule",
    "linear_schedule",
    "lion",
    "nadam",
    "nadamw",
    "named_leaves",
    "noisy_sgd",
    "novograd",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polyak_sgd",
    "polynomial_schedule",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "sgdr_schedule",
    "sign_sgd",
    "signum",
    "sm3",
    "transform",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "yogi",
]
