"""The transformer in PyTorch: a pre-LayerNorm GPT with learned positions and an untied output head.

`model_flax` is the same model. Where the two libraries' defaults differ (LayerNorm's epsilon, GELU's
approximation), the choice is written out in both.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Config


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, time, width) -> the same
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (batch, heads, time, width / heads)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=1e-5)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(config.width, eps=1e-5)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, config: Config, vocabulary_size: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        self.head = nn.Linear(config.width, vocabulary_size, bias=False)
        self.initialise(config)

    def initialise(self, config: Config) -> None:
        """GPT-2's: normal(0, 0.02), divided by the root of their number where layers write into the residual."""
        generator = torch.Generator().manual_seed(config.seed)
        for name, p in self.named_parameters():
            if p.ndim >= 2:
                into_residual = name.endswith(("attention.out.weight", "mlp.down.weight"))
                std = 0.02 / (2 * config.layers) ** 0.5 if into_residual else 0.02
                nn.init.normal_(p, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Tensor) -> Tensor:  # (batch, time) -> (batch, time, vocabulary)
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def loss(model: GPT, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy in nats per character."""
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
