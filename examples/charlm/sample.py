"""Text from a model: one loop for both, with the same random numbers.

As long as two models agree about the next character they write the same text; where they part, their texts
do.
"""

import numpy as np

from .config import Config
from .data import Corpus
from .run import Predictor


def sample(predict: Predictor, corpus: Corpus, config: Config, prompt: str) -> str:
    """The prompt and `config.sample_length` characters after it."""
    random = np.random.default_rng(config.seed)
    tokens = list(corpus.encode(prompt))
    for _ in range(config.sample_length):
        seen = tokens[-config.context :]
        window = np.zeros((1, config.context), np.int32)  # one shape, so JAX compiles once
        window[0, : len(seen)] = seen  # the padding comes after, where causal attention can't see it
        logits = predict(window)[0, len(seen) - 1].astype(np.float64) / config.temperature
        probabilities = np.exp(logits - logits.max())
        cumulative = np.cumsum(probabilities)
        choice = np.searchsorted(cumulative, random.random() * cumulative[-1])
        tokens.append(np.int32(min(int(choice), len(cumulative) - 1)))
    return corpus.decode(np.array(tokens))
