"""The text, its vocabulary and its batches: numpy only, so that both frameworks are fed the very same
integers.

The text is the language reference that every Python carries in `pydoc_data.topics` (what `help("for")`
prints): without its repetitions about 340,000 characters of English and code. Nothing is downloaded. A batch is
a function of (seed, step) alone: no iterator has to be saved, restored or kept in step between two training
loops.
"""

import re
from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np
from numpy.typing import NDArray

from .config import Config

Tokens = NDArray[np.int32]

# Every 20th stretch of 4,000 characters is never trained on: the last part alone would be mostly tables.
HELD_OUT_BLOCK = 4_000
HELD_OUT_EVERY = 20


@dataclass(frozen=True)
class Corpus:
    """A text as integers, and the way back."""

    vocabulary: str  # the distinct characters in code point order; a token is an index into it
    train: Tokens
    held_out: Tokens

    def encode(self, text: str) -> Tokens:
        return _tokens(text, self.vocabulary)

    def decode(self, tokens: Tokens) -> str:
        return "".join(self.vocabulary[token] for token in tokens)


def load_corpus() -> Corpus:
    text = "\n\n".join(topics[name] for name in sorted(topics))
    text = re.sub(" +", " ", text)  # indentation and the padding of tables teach nothing about words,
    text = re.sub(r"([-=*~+|])\1{3,}", r"\1\1\1", text)  # and neither do ruled lines
    # Topics contain one another. A paragraph that appears twice could stand on both sides of the split.
    text = "\n\n".join(dict.fromkeys(text.split("\n\n")))
    vocabulary = "".join(sorted(set(text)))
    everything = _tokens(text, vocabulary)
    block = np.arange(len(everything)) // HELD_OUT_BLOCK
    held_out = block % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return Corpus(vocabulary, everything[~held_out], everything[held_out])


def _tokens(text: str, vocabulary: str) -> Tokens:
    index = {character: token for token, character in enumerate(vocabulary)}
    return np.array([index[character] for character in text], dtype=np.int32)


def batch(tokens: Tokens, config: Config, step: int) -> tuple[Tokens, Tokens]:
    """Inputs and targets of update `step`, each (batch, context): a target is the character after its input."""
    random = np.random.default_rng([config.seed, step])
    starts = random.integers(0, len(tokens) - config.context, size=config.batch)
    windows = tokens[starts[:, None] + np.arange(config.context + 1)]
    return windows[:, :-1], windows[:, 1:]


def held_out_batches(corpus: Corpus, config: Config, count: int = 8) -> list[tuple[Tokens, Tokens]]:
    """The same few batches of unseen text whenever it is asked."""
    return [batch(corpus.held_out, config, step) for step in range(count)]
