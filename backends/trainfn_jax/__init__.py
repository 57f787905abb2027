"""trainfn in JAX: rules as gradient transformations of optax, schedules as schedules of optax.

`transform(rule)` takes any rule of trainfn; `adamw`, `sgd` and the others are optax's functions of these names.
"""

from trainfn_jax import contrib as contrib
from trainfn_jax.optimizers import adagrad as adagrad
from trainfn_jax.optimizers import adam as adam
from trainfn_jax.optimizers import adamw as adamw
from trainfn_jax.optimizers import fromage as fromage
from trainfn_jax.optimizers import lamb as lamb
from trainfn_jax.optimizers import lars as lars
from trainfn_jax.optimizers import lion as lion
from trainfn_jax.optimizers import novograd as novograd
from trainfn_jax.optimizers import polyak_sgd as polyak_sgd
from trainfn_jax.optimizers import radam as radam
from trainfn_jax.optimizers import rmsprop as rmsprop
from trainfn_jax.optimizers import sgd as sgd
from trainfn_jax.schedules import evaluate as evaluate
from trainfn_jax.schedules import evaluate_schedule as evaluate_schedule
from trainfn_jax.transform import transform as transform

__all__ = [
    "adagrad",
    "adam",
    "adamw",
    "contrib",
    "evaluate",
    "evaluate_schedule",
    "fromage",
    "lamb",
    "lars",
    "lion",
    "novograd",
    "polyak_sgd",
    "radam",
    "rmsprop",
    "sgd",
    "transform",
]
