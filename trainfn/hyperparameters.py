"""Hyperparameters: what a value may be, which numbers make sense, and what a leaf gets.

A hyperparameter is a number, a schedule, or a function of the leaf that returns one of these; frameworks may also pass
their own scalars (a traced learning rate).  The names are the field's, so what each may be is a table.
"""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainfn.machine import Machine
from trainfn.policies import Policy
from trainfn.schedules.schedule import Schedule, is_family, spell
from trainfn.trace import Leaf


@dataclass(frozen=True)
class Domain:
    """The interval a hyperparameter lies in."""

    low: float
    high: float = math.inf
    excludes_low: bool = False
    excludes_high: bool = False
    is_whole: bool = False

    def __contains__(self, x: float) -> bool:
        above = x > self.low if self.excludes_low else x >= self.low
        below = x < self.high if self.excludes_high else x <= self.high
        return above and below and (x == math.floor(x) if self.is_whole else True)

    def __str__(self) -> str:
        if self.is_whole:
            return f"a whole number in [{self.low:.0f}, {self.high:.0f})"
        if self.high < math.inf:
            left, right = "(" if self.excludes_low else "[", ")" if self.excludes_high else "]"
            return f"in {left}{self.low:g}, {self.high:g}{right}"
        finite = "finite" if self.excludes_high else ""
        low = f"{'above' if self.excludes_low else 'at least'} {self.low:g}" if self.low > -math.inf else ""
        return " and ".join(filter(None, [low, finite])) or "a number"


_POSITIVE = Domain(0.0, excludes_low=True)  # infinity clips nothing
_NONNEGATIVE = Domain(0.0, excludes_high=True)
_DECAY = Domain(0.0, 1.0, excludes_high=True)  # of a running mean: at 1 it would never move
_FINITE = Domain(-math.inf, excludes_low=True, excludes_high=True)
_ANY = Domain(-math.inf)

DOMAINS: Mapping[str, Domain] = {
    "lr": _NONNEGATIVE,
    "b1": _DECAY,
    "b2": _DECAY,
    "b3": _DECAY,
    "rho": _DECAY,
    "decay": _DECAY,
    "momentum": _DECAY,
    "dampening": _FINITE,
    "eps": _NONNEGATIVE,
    "eps_root": _NONNEGATIVE,
    "eps1": _NONNEGATIVE,
    "eps2": _NONNEGATIVE,
    "d": _POSITIVE,
    "weight_decay": _NONNEGATIVE,
    "lr_decay": _NONNEGATIVE,
    "momentum_decay": _NONNEGATIVE,
    "lambd": _NONNEGATIVE,
    "t0": _NONNEGATIVE,
    "alpha": _NONNEGATIVE,
    "beta": _NONNEGATIVE,
    "gamma": _NONNEGATIVE,
    "nu": Domain(0.0, 1.0),
    "nu1": Domain(0.0, 1.0),
    "nu2": Domain(0.0, 1.0),
    "final_lr": _NONNEGATIVE,
    "lamb": _NONNEGATIVE,
    "eta_minus": Domain(0.0, 1.0, excludes_low=True, excludes_high=True),
    "eta_plus": Domain(1.0, excludes_low=True, excludes_high=True),
    "min_step_size": _NONNEGATIVE,
    "max_step_size": _NONNEGATIVE,
    "initial_accumulator_value": _NONNEGATIVE,
    "initial_scale": _NONNEGATIVE,
    "initial_square_distance": _POSITIVE,
    "start_value": _POSITIVE,
    "s_init": _POSITIVE,
    "d0": _POSITIVE,
    "d_coefficient": _POSITIVE,
    "peak": _POSITIVE,
    "scale": _FINITE,
    "scaling": _NONNEGATIVE,
    "trust_coefficient": _POSITIVE,
    "f_min": _FINITE,
    "lower_bound": _FINITE,
    "min_norm": _NONNEGATIVE,
    "min_share": Domain(0.0, 1.0, excludes_low=True),
    "max_norm": _POSITIVE,
    "consistent_rms": _POSITIVE,
    "max_param_norm": _POSITIVE,
    "max_ratio": _POSITIVE,
    "max_rms": _POSITIVE,
    "max_value": _POSITIVE,
    "clip_threshold": _POSITIVE,
    "batch_size": _POSITIVE,
    "eta": _NONNEGATIVE,
    "k": Domain(1.0, excludes_high=True, is_whole=True),
    "max_consecutive_errors": Domain(0.0),
    "factor": Domain(0.0, 1.0, excludes_low=True, excludes_high=True),
    "patience": Domain(1.0),
    "rtol": Domain(0.0, 1.0),
    "atol": _NONNEGATIVE,
    "cooldown": _NONNEGATIVE,
    "accumulation_size": Domain(1.0, excludes_high=True, is_whole=True),
    "min_scale": _NONNEGATIVE,
    "every": Domain(1.0, excludes_high=True, is_whole=True),
    "seed": Domain(0.0, 2.0**32, excludes_high=True, is_whole=True),
}


# What the libraries and other code call these: for what an error says of a name that a rule has not.
SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "max_learning_rate": ("lr",),
    "max_lr": ("lr",),
    "step_size": ("lr",),
    "betas": ("b1", "b2", "b3"),
    "beta": ("b1", "momentum"),
    "beta1": ("b1",),
    "beta_1": ("b1",),
    "beta2": ("b2",),
    "beta_2": ("b2",),
    "beta3": ("b3",),
    "mu": ("momentum",),
    "epsilon": ("eps",),
    "alpha": ("decay",),
    "decay_rate": ("decay",),
    "wd": ("weight_decay",),
    "weight_decay_rate": ("weight_decay",),
    "decoupled_weight_decay": ("weight_decay",),
    "clipping_threshold": ("d",),
    "clip_norm": ("max_norm",),
    "clip_value": ("max_value",),
    "clipping": ("max_ratio",),
    "max_delta": ("max_value",),
    "threshold": ("max_rms",),
}


def unknown(owner: str, names: Iterable[str], known: Iterable[str]) -> str:
    """What an error says of names that a rule does not have: those that it has, and which of these are meant."""
    names, known = list(names), list(known)
    text = f"{owner} has no hyperparameter {', '.join(names)}; it has {', '.join(known) or 'none'}."
    for name in names:
        if meant := nearest(name, known):
            is_word = name in SYNONYMS
            text += f" {name} is {', '.join(meant)} here." if is_word else f" Did you mean {meant[0]}?"
    return text


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Which of the known names are meant by one that is unknown: another word for them, or one that is spelt alike."""
    known = list(known)
    return [k for k in SYNONYMS.get(name, ()) if k in known] or difflib.get_close_matches(name, known, n=1)


class Inherited:
    """A hyperparameter that is another link's: the one of that name which the nearest link before it has."""

    def __repr__(self) -> str:
        return "inherited"

    def __reduce__(self) -> str:
        return "inherited"  # pickled and copied by reference: there is one


inherited = Inherited()


def is_number(value: Any) -> bool:
    """A plain number: Python's or numpy's, no bool."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check(owner: str, name: str, value: Any) -> Any:
    """The value if it may stand for the hyperparameter; numbers become floats."""
    is_plain = isinstance(value, str | bytes | bool | list | dict | set) or value is None
    if is_plain or (isinstance(value, np.generic) and not is_number(value)) or _is_of_other_sort(value):
        raise TypeError(
            f"{owner}: {name} = {value!r} is no hyperparameter. Give a number, a schedule, or a function of the leaf "
            "(leaf.name, leaf.shape) that returns one of these."
        )
    if is_family(value):
        raise TypeError(
            f"{owner}: {name} = {value.__name__} makes schedules and is none: call it, as in {spell(value)}."
        )
    if isinstance(value, Machine):
        raise TypeError(
            f"{owner}: {name} = {value.name} follows a metric, and a hyperparameter the step. chain(adamw(), "
            f"scale_on_plateau()) follows the loss that update is given; what {value.name} returns may also be set as "
            "a number, where a framework lets you (param_groups, inject_hyperparams)."
        )
    if isinstance(value, np.ndarray):
        if value.ndim:
            raise ValueError(f"{owner}: {name} has shape {value.shape}: a hyperparameter is one number.")
        value = value.item()
    if not is_number(value):
        if not (isinstance(value, Inherited) or callable(value) or getattr(value, "ndim", None) is not None):
            raise TypeError(f"{owner}: {name} = {value!r} is neither a number, a schedule nor a function of the leaf.")
        return value
    return _in_domain(owner, name, value)


def _is_of_other_sort(value: Any) -> bool:
    """Whether a value is a rule, or makes rules or machines: they can be called, but not with a leaf."""
    makes_machines = inspect.signature(value).return_annotation is Machine if inspect.isfunction(value) else False
    return makes_machines or type(value).__name__ in ("Definition", "Rule")


def _in_domain(owner: str, name: str, value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:
        raise ValueError(f"{owner}: {name} is a whole number beyond what a float can hold.") from None
    domain = DOMAINS.get(name.rpartition(".")[2], _ANY)  # an earlier link's is called clip_by_global_norm.eps
    if math.isnan(number):
        raise ValueError(f"{owner}: {name} = {value} must be {domain}; it is not a number (NaN).")
    if number not in domain:
        raise ValueError(f"{owner}: {name} = {value} must be {domain}.")
    return number


def resolve(owner: str, name: str, value: Any, leaf: Leaf) -> Any:
    """What one leaf gets: a leaf function is asked, everything else stands."""
    if not is_leaf_function(value):
        return value
    try:
        result = value(leaf)
    except Exception as error:
        hint = "" if isinstance(value, Policy) else f" {_OF_THE_STEP}"
        error.add_note(
            f"while asking {owner}'s function for {name} about leaf {leaf.name!r} of shape {leaf.shape}.{hint}"
        )
        raise
    if is_leaf_function(result) and not is_family(result):
        raise TypeError(f"{owner}, leaf {leaf.name!r}: the function for {name} returned {result!r}. {_OF_THE_STEP}")
    return check(f"{owner}, leaf {leaf.name!r}", name, result)


_OF_THE_STEP = (
    "A plain function given as a hyperparameter is asked about each leaf (leaf.name, leaf.shape, leaf.ndim). One of "
    "the step is made a schedule: put @trainfn.schedule above it and call it with its parameters, or take one that is "
    "there, as in warmup_cosine(peak=1e-3, warmup=100, steps=2000)."
)


def is_leaf_function(value: Any) -> bool:
    """Whether a value is a plain function: no schedule, and no number of a library, which may be callable."""
    return callable(value) and not isinstance(value, Schedule) and not hasattr(value, "dtype")
