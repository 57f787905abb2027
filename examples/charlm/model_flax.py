"""The transformer in flax (linen): `model_torch` again, module by module and name by name.

Linen, because its parameters are a plain nested dict and its forward pass a pure function of them, which is
the form in which optax and trainfn's JAX side want them.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from .config import Config

Params = dict[str, Any]  # nested, arrays at the leaves


def layer_norm() -> nn.LayerNorm:
    # The variance as torch computes it: the mean of squared deviations, not E[x^2] - E[x]^2.
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)


class Attention(nn.Module):
    config: Config

    def setup(self) -> None:
        self.qkv = nn.Dense(3 * self.config.width)
        self.out = nn.Dense(self.config.width)

    def __call__(self, x: Array) -> Array:  # (batch, time, width) -> the same
        q, k, v = (
            part.reshape(*part.shape[:-1], self.config.heads, -1)  # (batch, time, heads, width / heads)
            for part in jnp.split(self.qkv(x), 3, axis=-1)
        )
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.reshape(x.shape))


class MLP(nn.Module):
    config: Config

    def setup(self) -> None:
        self.up = nn.Dense(4 * self.config.width)
        self.down = nn.Dense(self.config.width)

    def __call__(self, x: Array) -> Array:
        return self.down(nn.gelu(self.up(x), approximate=True))


class Block(nn.Module):
    config: Config

    def setup(self) -> None:
        self.norm1 = layer_norm()
        self.attention = Attention(self.config)
        self.norm2 = layer_norm()
        self.mlp = MLP(self.config)

    def __call__(self, x: Array) -> Array:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    config: Config
    vocabulary_size: int

    def setup(self) -> None:
        self.tokens = nn.Embed(self.vocabulary_size, self.config.width)
        self.positions = nn.Embed(self.config.context, self.config.width)
        self.blocks = [Block(self.config) for _ in range(self.config.layers)]
        self.norm = layer_norm()
        self.head = nn.Dense(self.vocabulary_size, use_bias=False)

    def __call__(self, tokens: Array) -> Array:  # (batch, time) -> (batch, time, vocabulary)
        x = self.tokens(tokens) + self.positions.embedding[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss(model: GPT, params: Params, inputs: Array, targets: Array) -> Array:
    """Mean cross entropy in nats per character."""
    logits = model.apply({"params": params}, inputs)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
