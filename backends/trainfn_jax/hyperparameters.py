"""Hyperparameters on the way into a jitted step: numbers stay outside of it, arrays go in as arguments.

A hyperparameter may be a number, a trainfn schedule, a schedule of optax (a function of the count), a leaf function
that returns one of these, or a 0-d array.  Leaves with equal hyperparameters share one *setting*, and what depends on
the count is computed once for each distinct value, not once for each leaf.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from trainfn.interpret import evaluate_scalars
from trainfn.lowering import lower
from trainfn.program import Program
from trainfn.rule import Rule, resolve
from trainfn.schedules.schedule import Schedule
from trainfn.trace import Leaf
from trainfn_jax.scalars import TABLE, widen

_OF_OPTAX = (
    "A schedule of optax, which is a plain function of the count, is taken by the functions of optax's names, as in "
    "trainfn_jax.adamw(optax.cosine_decay_schedule(1e-3, 1000)); trainfn_jax.cosine_decay_schedule and the others go "
    "into rules, too."
)


@dataclass(frozen=True)
class OptaxSchedule:
    """A schedule as optax writes it: any function of the count, evaluated by JAX in whatever precision it has."""

    function: Callable[[Any], Any]
    argument: str  # as in "adamw's learning_rate"
    ndim = 0  # one number, as far as a rule is concerned

    def at(self, count: Any) -> Any:
        try:
            return self.function(count)
        except AttributeError as error:
            error.add_note(
                f"{self.argument} was called with the count of updates: as in optax, a function is a schedule. "
                "For a value per leaf give mask=, or transform the rule itself, as in "
                "trainfn_jax.transform(trainfn.adamw(weight_decay=function_of_leaf))."
            )
            raise


@dataclass(frozen=True)
class Argument:
    """The array that is the step's `index`-th hyperparameter argument."""

    index: int


@dataclass(frozen=True)
class Scheduled:
    """A schedule by what it computes: its program, and a number or array for each of its parameters."""

    program: Program
    parameters: tuple[tuple[str, str | Argument], ...]


# By hyperparameter's name; a number as float.hex writes it, which tells 0.0 from -0.0.
Setting = tuple[tuple[str, "str | Argument | Scheduled"], ...]


@dataclass
class Arguments:
    """Arrays to be handed to the step, each once."""

    count: Any
    arrays: list[Any] = field(default_factory=list)
    _known: dict[int, tuple[Argument, Any]] = field(default_factory=dict)

    def setting(self, rule: Rule, leaf: Leaf) -> Setting:
        try:
            resolved = resolve(rule, leaf)
        except Exception as error:
            if any(isinstance(value, FunctionType) for value in rule.hyper.values()):
                error.add_note(_OF_OPTAX)
            raise
        return tuple((name, self._reference(name, value)) for name, value in resolved.items())

    def _reference(self, name: str, value: Any) -> Any:
        if isinstance(value, Schedule):
            parameters = tuple((k, self._number(k, v)) for k, v in value.parameters.items())
            return Scheduled(value.program, parameters)
        return self._number(name, value)

    def _number(self, name: str, value: Any) -> str | Argument:
        if not isinstance(value, Array | np.ndarray | OptaxSchedule):
            return float(value).hex()
        if id(value) not in self._known:
            array = value.at(self.count) if isinstance(value, OptaxSchedule) else value
            if np.ndim(array) != 0:
                raise ValueError(
                    f"{name} has shape {np.shape(array)}: a hyperparameter is one number. For a population of settings "
                    "map the whole update with jax.vmap."
                )
            self._known[id(value)] = Argument(len(self.arrays)), value
            self.arrays.append(jnp.asarray(array))
        return self._known[id(value)][0]


class Settings:
    """Inside the step: the Scalars of each setting, equal ones the same object, so that they are computed once."""

    def __init__(self, arrays: Sequence[Array], step: Any) -> None:
        self._step = step
        self._arrays = [widen(x) for x in arrays]
        self._known: dict[object, Any] = {}

    def inputs(self, setting: Setting) -> Mapping[str, Any]:
        return {name: self._value(reference) for name, reference in setting}

    def number(self, x: float) -> float:
        """One object for equal numbers."""
        return self._known.setdefault(x.hex(), x)  # type: ignore[no-any-return]

    def _value(self, reference: Any) -> Any:
        if isinstance(reference, str):
            return self.number(float.fromhex(reference))
        if isinstance(reference, Argument):
            return self._arrays[reference.index]
        if reference not in self._known:
            inputs = {name: self._value(x) for name, x in reference.parameters}
            result = evaluate_scalars(lower(reference.program), {"step": self._step, **inputs}, TABLE)
            self._known[reference] = result["value"]
        return self._known[reference]
