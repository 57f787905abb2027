"""What the tests need to know of a rule: a row.

A rule's row has configurations worth running, the same recipe in torch.optim and optax, and what is promised of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import trainfn as tf


@dataclass(frozen=True)
class Namesake:
    """An upstream optimizer with the settings that make it the same recipe; of a module inside, `contrib.adopt`."""

    name: str
    hyper: Mapping[str, Any] = field(default_factory=dict)
    before: tuple[tuple[str, Mapping[str, Any]], ...] = ()  # optax links to chain in front
    around: tuple[str, Mapping[str, Any]] | None = None  # an optax wrapper
    matrices_only: bool = False  # it takes no other leaves
    in_bfloat16: bool = False  # it rounds gradients to that, and is kept from it to be compared
    in_float32: tuple[str, ...] = ()  # state fields that it keeps in that, whatever the parameters are
    precision: float = 1e-12  # in float64, relative to how far parameters moved; more where upstream computes in less

    def model(self, shapes: Mapping[Any, Any]) -> dict[Any, Any]:
        """The leaves it takes, of shapes or arrays by name."""
        return {k: x for k, x in shapes.items() if not self.matrices_only or len(getattr(x, "shape", x)) == 2}

    def gradient(self, g: Any) -> Any:
        """A gradient as its torch class is given it."""
        import torch

        return torch.tensor(g).as_subclass(_unrounded()) if self.in_bfloat16 else torch.tensor(g)


@cache
def _unrounded() -> Any:
    """Tensors that stay what they are where they are to be bfloat16, and all that is computed from them."""
    import torch

    class Unrounded(torch.Tensor):
        def bfloat16(self, *_: Any, **__: Any) -> Any:
            return self

    return Unrounded


@dataclass(frozen=True)
class Row:
    """One configuration of a rule.

    make: builds the rule.
    torch, optax, peer: namesakes in torch.optim, optax and pytorch_optimizer; None where there is none.
    edges: hyperparameter values at which formulas degenerate, each applied alone.
    descent: hyperparameters with which 40 steps lead down a quadratic and Rosenbrock's function; else the row's own.
    dtype: of the parameters and gradients whose bits are compared, where low precision is what the rule is about.
    for_small: hyperparameters that are what they are because the leaves of tests are small.
    """

    name: str
    make: Callable[..., tf.Rule]
    torch: Namesake | None = None
    optax: Namesake | None = None
    peer: Namesake | None = None
    edges: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    hyper: Mapping[str, Any] = field(default_factory=dict)
    descent: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    for_small: tuple[str, ...] = ()

    @property
    def is_elementwise(self) -> bool:
        """Whether no leaf of two axes makes it work along them, or multiply matrices."""
        return self.rule().program(tf.Leaf("w", (6, 5))).is_elementwise

    @property
    def is_bounded(self) -> bool:
        """Whether executions agree on it within bounds, not in every bit."""
        return self.rule().program(tf.Leaf("w", (6, 5))).is_bounded

    def rule(self, **changes: Any) -> tf.Rule:
        """The rule, with some hyperparameters changed; the same object each time, so that what is compiled is kept."""
        return _built(self.make, tuple({**self.hyper, **changes}.items()))

    def as_used(self) -> tf.Rule:
        """The rule as a model of a usual size has it."""
        return _built(self.make, tuple((k, x) for k, x in self.hyper.items() if k not in self.for_small))


@cache
def _built(make: Callable[..., tf.Rule], hyper: tuple[tuple[str, Any], ...]) -> tf.Rule:
    return make(**dict(hyper))


def row(
    make: Any,
    name: str = "",
    *,
    torch: Any = None,
    optax: Any = None,
    peer: Any = None,
    edges: Any = None,
    descent: Any = None,
    for_small: tuple[str, ...] = (),
    **hyper: Any,
) -> Row:
    """A row of the rule `make` with hyperparameters `hyper`, named like the rule unless `name` is given."""
    return Row(name or make.name, make, torch, optax, peer, edges or {}, hyper, descent or {}, for_small=for_small)
