"""Namesakes as the optimizers they are; the libraries are imported when one is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from tests.catalogue.row import Namesake


def torch_optimizer(library: str, namesake: Namesake, params: Iterable[Any], foreach: bool | None = None) -> Any:
    """Of torch.optim for "torch", or of pytorch_optimizer, for "peer"; `foreach` is for those that ask for it."""
    import pytorch_optimizer
    import torch

    make = getattr({"torch": torch.optim, "peer": pytorch_optimizer}[library], namesake.name)
    is_asked = foreach is not None and "foreach" in inspect.signature(make).parameters
    return make(list(params), **{**namesake.hyper, **({"foreach": foreach} if is_asked else {})})


def optax_transformation(namesake: Namesake) -> Any:
    """Its links in front, and what stands around it."""
    import optax

    links = [attrgetter(name)(optax)(**hyper) for name, hyper in namesake.before]
    tx = optax.chain(*links, attrgetter(namesake.name)(optax)(**namesake.hyper))
    if namesake.around is None:
        return tx
    wrapper, hyper = namesake.around
    return attrgetter(wrapper)(optax)(tx, **hyper)
