"""trainfn in JAX: rules as optax gradient transformations, schedules as optax schedules."""

from trainfn_jax.schedules import evaluate_schedule as evaluate_schedule
from trainfn_jax.transform import transform as transform

__all__ = ["evaluate_schedule", "transform"]
