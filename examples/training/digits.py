"""Data that need no download: pictures of 8 by 8 with one of four strokes, and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pictures(seed: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Flat pictures, and which stroke each has: across, down, and the two diagonals."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    i, j = np.indices((8, 8))
    shift = rng.integers(-2, 3, count)[:, None, None]
    strokes = np.stack(
        [
            np.broadcast_to(x, (count, 8, 8))
            for x in (i == 4 + shift, j == 4 + shift, i == j + shift, i + j == 7 + shift)
        ]
    )
    clean = strokes[labels, np.arange(count)]
    noisy = clean + 0.7 * rng.standard_normal((count, 8, 8))
    return noisy.reshape(count, 64).astype(np.float32), labels
