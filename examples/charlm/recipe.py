"""The training recipe: written once, as mathematics, and handed to both frameworks.

Neither torch nor JAX is imported here, and nothing below says which of them will run it.
"""

from trainfn import Rule, Schedule, adamw, chain, clip_by_global_norm, warmup_cosine

from .config import Config


def learning_rate(config: Config) -> Schedule:
    return warmup_cosine(peak=config.peak_lr, warmup=config.warmup, steps=config.updates, floor=config.floor_lr)


def recipe(config: Config) -> Rule:
    return chain(
        clip_by_global_norm(max_norm=config.max_norm),
        adamw(
            lr=learning_rate(config),
            b2=config.b2,
            # Matrices and embeddings decay, biases and LayerNorm's gains do not.
            weight_decay=lambda leaf: config.weight_decay if leaf.ndim >= 2 else 0.0,
        ),
    )
