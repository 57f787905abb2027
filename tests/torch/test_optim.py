"""torch.optim's namesakes: their arguments, in order, and the defaults, one by one."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch

import trainfn_torch
from trainfn_torch.optim import _Namesake

NAMES = ("AdamW", "Adam", "RAdam", "NAdam", "Adamax", "SGD", "RMSprop", "Adagrad", "Adadelta", "Rprop", "ASGD")
# Choices between torch's own implementations.  Where torch has them without a `*` before, because they came after the
# optimizer did, we have them as keywords all the same: nobody counts to the eighth argument.
FLAGS = frozenset(("foreach", "fused", "capturable", "differentiable", "maximize"))


def arguments(function: Any, *kinds: Any) -> dict[str, Any]:
    """Names and defaults."""
    return {n: p.default for n, p in inspect.signature(function).parameters.items() if p.kind in kinds}


def positional(function: Any) -> dict[str, Any]:
    return arguments(function, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_by_position_and_their_defaults_are_torchs(name: str) -> None:
    theirs, ours = positional(getattr(torch.optim, name)), positional(getattr(trainfn_torch.optim, name))
    assert list(ours) == list(theirs)[: len(ours)]
    assert ours == {n: theirs[n] for n in ours}
    assert theirs.keys() - ours.keys() <= FLAGS


@pytest.mark.parametrize("name", NAMES)
def test_every_keyword_of_torch_is_taken_and_has_torchs_default(name: str) -> None:
    theirs, ours = (getattr(library, name) for library in (torch.optim, trainfn_torch.optim))
    keywords = positional(theirs) | arguments(theirs, inspect.Parameter.KEYWORD_ONLY)
    known = arguments(_Namesake, inspect.Parameter.KEYWORD_ONLY)
    known |= positional(ours) | arguments(ours, inspect.Parameter.KEYWORD_ONLY)
    assert keywords == {n: known[n] for n in keywords}
    p = torch.nn.Parameter(torch.ones(2))
    del keywords["params"]
    ours([p], **keywords)


# torch keeps the product of NAdam's momenta in float32, and so do we, but rounds it elsewhere: here it is exact.
EXACT_PRODUCT = {"betas": (0.5, 0.999), "momentum_decay": 20 * math.log(2) / -math.log(0.96)}
SETTINGS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {}) for name in NAMES if name != "NAdam"),
    ("AdamW", {"amsgrad": True}),
    ("NAdam", EXACT_PRODUCT),
    ("NAdam", {**EXACT_PRODUCT, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Rprop", {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.1)}),
    *((name, {"weight_decay": 0.1}) for name in ("Adamax", "Adadelta", "ASGD")),
)


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_updates_are_torchs(name: str, settings: dict[str, Any]) -> None:
    moved = []
    for library in (torch.optim, trainfn_torch.optim):
        p = torch.nn.Parameter(torch.linspace(-1, 2, 7, dtype=torch.float64))
        optimizer = getattr(library, name)([p], **settings)
        for n in range(8):
            p.grad = torch.cos(p.detach() + n)
            optimizer.step()
        moved.append(p.detach())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-13, atol=1e-13)


def test_lion_has_the_defaults_of_its_authors_code() -> None:
    """github.com/google/automl/blob/master/lion/lion_pytorch.py"""
    expected = {"params": inspect.Parameter.empty, "lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}
    lion = positional(trainfn_torch.optim.Lion)
    assert lion == expected
    assert list(lion) == list(expected)


@pytest.mark.parametrize("made", [trainfn_torch.optim.Adam, trainfn_torch.optim.AdamW, trainfn_torch.optim.RAdam])
def test_a_momentum_that_is_missing_is_refused_as_in_torch(made: Any) -> None:
    """Though the rule takes None, and keeps no first moment then."""
    with pytest.raises(ValueError, match=r"betas = \(None, 0.999\) must be a tuple of 2: b1, b2, neither of them None"):
        made([torch.ones(2, requires_grad=True)], betas=(None, 0.999))
