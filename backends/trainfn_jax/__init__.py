"""trainfn in JAX: rules as gradient transformations of optax, schedules as schedules of optax.

`transform(rule)` takes any rule of trainfn; `adamw`, `sgd` and the others are optax's functions of these names.
"""

from trainfn_jax import contrib as contrib
from trainfn_jax.optimizers import adabelief as adabelief
from trainfn_jax.optimizers import adadelta as adadelta
from trainfn_jax.optimizers import adagrad as adagrad
from trainfn_jax.optimizers import adam as adam
from trainfn_jax.optimizers import adamax as adamax
from trainfn_jax.optimizers import adamaxw as adamaxw
from trainfn_jax.optimizers import adamw as adamw
from trainfn_jax.optimizers import adan as adan
from trainfn_jax.optimizers import amsgrad as amsgrad
from trainfn_jax.optimizers import lion as lion
from trainfn_jax.optimizers import nadam as nadam
from trainfn_jax.optimizers import nadamw as nadamw
from trainfn_jax.optimizers import optimistic_adam_v2 as optimistic_adam_v2
from trainfn_jax.optimizers import optimistic_gradient_descent as optimistic_gradient_descent
from trainfn_jax.optimizers import radam as radam
from trainfn_jax.optimizers import rmsprop as rmsprop
from trainfn_jax.optimizers import rprop as rprop
from trainfn_jax.optimizers import sgd as sgd
from trainfn_jax.optimizers import sign_sgd as sign_sgd
from trainfn_jax.optimizers import signum as signum
from trainfn_jax.optimizers import yogi as yogi
from trainfn_jax.schedules import evaluate as evaluate
from trainfn_jax.schedules import evaluate_schedule as evaluate_schedule
from trainfn_jax.transform import transform as transform

__all__ = [
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "adan",
    "amsgrad",
    "contrib",
    "evaluate",
    "evaluate_schedule",
    "lion",
    "nadam",
    "nadamw",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "sign_sgd",
    "signum",
    "transform",
    "yogi",
]
