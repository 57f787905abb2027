"""The tensors the benchmarks update: a transformer's 148 of 25 million elements, and a thousand small ones."""

from __future__ import annotations

import math

Shapes = tuple[tuple[int, ...], ...]


def transformer(width: int = 408, layers: int = 12, vocabulary: int = 2048) -> Shapes:
    """A GPT's parameters: 12 a layer, and embeddings, positions and the last normalisation (148 tensors in all)."""
    layer = (
        (width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,),
        (width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,),
    )  # fmt: skip
    return (*(layer * layers), (vocabulary, width), (256, width), (width,), (width,))


SMALL: Shapes = ((64,),) * 1000
TRANSFORMER = transformer()


def count(shapes: Shapes) -> int:
    """Elements in all."""
    return sum(math.prod(s) for s in shapes)
