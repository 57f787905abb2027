"""The text, its vocabulary and its batches: numpy only, so that both frameworks are fed the very same integers.

The text is the language reference that every Python carries in `pydoc_data.topics` (what `help("for")` prints), about 465,000
characters of English and code; nothing is downloaded. A batch is a function of (seed, step) alone: no iterator has to be
saved, restored or kept in step between two training loops.
"""

from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray

from .config import Config

Tokens = NDArray[np.int32]

HELD_OUT = 0.05  # the last part of the text is never trained on


@dataclass(frozen=True)
class Corpus:
    """A text as integers, and the way back."""

    vocabulary: str  # the distinct characters in code point order; a token is an index into it
    train: Tokens
    held_out: Tokens

    def encode(self, text: str) -> Tokens:
        index = {character: token for token, character in enumerate(self.vocabulary)}
        return np.array([index[character] for character in text], dtype=np.int32)

    def decode(self, tokens: Tokens) -> str:
        return "".join(self.vocabulary[token] for token in tokens)


def load_corpus() -> Corpus:
    text = "\n\n".join(topics[name] for name in sorted(topics))
    vocabulary = "".join(sorted(set(text)))
    corpus = Corpus(vocabulary, np.empty(0, np.int32), np.empty(0, np.int32))
    tokens = corpus.encode(text)
    cut = int(len(tokens) * (1 - HELD_OUT))
    return Corpus(vocabulary, tokens[:cut], tokens[cut:])


def batch(tokens: Tokens, config: Config, step: int) -> tuple[Tokens, Tokens]:
    """Inputs and targets of update number `step`, each (batch, context); a target is the character after its input."""
    random = np.random.default_rng([config.seed, step])
    starts = random.integers(0, len(tokens) - config.context, size=config.batch)
    windows = tokens[starts[:, None] + np.arange(config.context + 1)]
    return windows[:, :-1], windows[:, 1:]


def held_out_batches(corpus: Corpus, config: Config, count: int = 8) -> list[tuple[Tokens, Tokens]]:
    """The same few batches of unseen text whenever it is asked."""
    return [batch(corpus.held_out, config, step) for step in range(count)]
