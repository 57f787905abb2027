"""Training JAX models, in flax's linen or nnx or as functions: `Step`, one jitted update, and `fit`, the whole run."""

from trainfn_jax.training.fit import fit as fit
from trainfn_jax.training.models import Functional as Functional
from trainfn_jax.training.step import State as State
from trainfn_jax.training.step import Step as Step
