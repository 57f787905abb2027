"""Noise: gradients with random numbers added, less and less of them."""

from __future__ import annotations

from typing import Any

from trainfn.rule import rule
from trainfn.verbs import normal_like, sqrt


@rule
def gradient_noise(step: Any, g: Any, *, eta: Any = 0.01, gamma: Any = 0.55, seed: Any = 0) -> Any:
    """g + N(0, eta / (1 + step)^gamma): the variance is eta at first (Neelakantan et al., arXiv:1511.06807v1).

    The noise of an element depends on seed, step, the leaf's name and the element's place in the leaf, and on nothing
    else: it is the same in every framework where leaves have the same names and shapes.  For the same formula optax's
    add_noise draws other numbers.
    """
    return g + _noise(step, g, eta, gamma, seed)


@rule
def noisy_sgd(step: Any, g: Any, *, lr: Any = 1e-3, eta: Any = 0.01, gamma: Any = 0.55, seed: Any = 0) -> Any:
    """Gradient descent with `gradient_noise` (Neelakantan et al., arXiv:1511.06807v1).

    p <- p - lr (g + N(0, eta / (1 + step)^gamma))

    It has the arguments of optax's noisy_sgd, whose key is the seed, and draws other numbers.
    """
    return -lr * (g + _noise(step, g, eta, gamma, seed))


def _noise(step: Any, g: Any, eta: Any, gamma: Any, seed: Any) -> Any:
    return sqrt(eta / (1 + step) ** gamma) * normal_like(g, seed, step)
