"""What a schedule is: a pure function of the step, written once, called with anything that counts.

    @schedule
    def linear(step, *, start, stop, steps):
        return start + (stop - start) * minimum(step, steps) / steps

    lr = linear(start=0.0, stop=1e-3, steps=100)

`lr(7)` is a Python float, `lr(numpy.arange(100))` the whole curve as float64, `lr(count)` with a traced JAX count a
traced value, and all have the same bits.  A schedule's parameters are numbers or other schedules.
"""

from __future__ import annotations

import importlib
import inspect
import math
import numbers
import operator
import pickle
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trainfn.program import Program, Sort
from trainfn.trace import Graph, Scalar, TraceError, Value

# Which package evaluates schedules on the numbers of which library.
_EVALUATORS = {"jax": "trainfn_jax", "jaxlib": "trainfn_jax", "torch": "trainfn_torch"}


class Schedule:
    """A schedule with its parameters; call it with a step.

    `program` computes `value` from the inputs `step` and the parameters, whose numbers are `parameters`.
    """

    def __init__(self, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self.name = name
        self.function = function
        self.arguments = dict(arguments)
        recorder = _Recorder()
        value = recorder.trace(self, recorder.graph.input("step", Sort.SCALAR))
        self.program: Program = recorder.graph.program({"value": value})
        self.parameters: dict[str, Any] = recorder.parameters

    def __call__(self, step: Any) -> Any:
        """The value at `step`, which counts from 0."""
        if isinstance(step, Value):
            return _recorder_of(step).trace(self, step)
        if isinstance(step, bool):
            raise TypeError(f"{self.name}: a step is a whole number, not {step!r}.")
        if isinstance(step, int | float | np.ndarray | np.generic):
            return self._on_numbers(step)
        library = type(step).__module__.partition(".")[0]
        if library not in _EVALUATORS:
            raise TypeError(
                f"{self.name}: cannot be evaluated at {step!r} ({type(step).__name__}): give an int, an array of "
                "steps, or a number of torch or JAX."
            )
        __import__(_EVALUATORS[library])
        return sys.modules[_EVALUATORS[library]].evaluate_schedule(self, step)

    def _on_numbers(self, step: Any) -> Any:
        from trainfn.reference import evaluate

        whole_curve = isinstance(step, np.ndarray) and step.ndim > 0
        at = step.astype(np.float64) if whole_curve else float(step)
        value = evaluate(self.program, {"step": at, **self.parameters})["value"]
        return np.broadcast_to(np.asarray(value, np.float64), step.shape).copy() if whole_curve else float(value)

    def __repr__(self) -> str:
        inside = ", ".join(f"{k}={v!r}" for k, v in self.arguments.items())
        return f"{self.name}({inside})"

    def __str__(self) -> str:
        return str(self.program)

    def __reduce__(self) -> Any:
        """Pickled by reference to its family, as functions are, with its parameters."""
        where = (self.function.__module__, self.function.__qualname__)
        try:
            is_found = getattr(_find(*where), "function", None) is self.function
        except (ImportError, AttributeError):
            is_found = False
        if not is_found:
            raise pickle.PicklingError(
                f"schedule {self.name} is not {'.'.join(where)}, where unpickling would look for it: define it at the "
                "top level of a module, under its own name."
            )
        return _remake, (*where, self.arguments)

    def __deepcopy__(self, memo: object) -> Schedule:
        return self

    def __mul__(self, other: Any) -> Schedule:
        return product(first=self, second=other)

    __rmul__ = __mul__


def _find(module: str, name: str) -> Any:
    return operator.attrgetter(name)(importlib.import_module(module))


def _remake(module: str, name: str, arguments: Mapping[str, Any]) -> Schedule:
    """A schedule of the family found there: what unpickling calls."""
    made: Schedule = _find(module, name)(**arguments)
    return made


class _Recorder:
    """Traces a schedule and those inside it, making each number given to one an input of the program."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.parameters: dict[str, Any] = {}
        self.graph.recorder = self  # type: ignore[attr-defined]

    def trace(self, schedule: Schedule, step: Any) -> Any:
        arguments = {k: self._argument(k, v) for k, v in schedule.arguments.items()}
        value = schedule.function(step, **arguments)
        if isinstance(value, Scalar):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return self.graph.constant(value)
        raise TraceError(f"schedule {schedule.name} returned {value!r} instead of a number.")

    def _argument(self, name: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(self._argument(name, v) for v in value)
        if isinstance(value, Schedule) or value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, numbers.Real):
            value = float(value)
        unique = name
        while unique == "step" or (unique in self.parameters and self.parameters[unique] is not value):
            head, _, number = unique.rpartition("_")
            unique = f"{head}_{int(number) + 1}" if number.isdigit() and head else f"{unique}_2"
        self.parameters[unique] = value
        return self.graph.input(unique, Sort.SCALAR)


def _recorder_of(step: Value) -> _Recorder:
    recorder = getattr(step.graph, "recorder", None)
    if not isinstance(recorder, _Recorder):
        raise TraceError(
            "a schedule was called inside a rule. Give it as the hyperparameter instead, as in adamw(lr=schedule): "
            "the rule then sees its value at the current update."
        )
    return recorder


def schedule(function: Callable[..., Any]) -> Callable[..., Schedule]:
    """Make a schedule family of `function(step, *, parameters...)`, which returns the value at `step`.

    Inside, `step` and number parameters are traced Scalars, for which the verbs stand; parameters that are schedules
    can be called with a step.  Numbers are checked to be finite or infinite, not NaN.
    """
    signature = inspect.signature(function)
    _step, *parameters = signature.parameters.values()
    own = signature.replace(
        parameters=[p.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for p in parameters],
        return_annotation=Schedule,
    )

    def make(*args: Any, **kwargs: Any) -> Schedule:
        try:
            bound = own.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__name__}{own}: {error}") from None
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            _check(function.__name__, name, value)
        return Schedule(function.__name__, function, bound.arguments)

    make.__name__ = make.__qualname__ = function.__name__
    make.__doc__ = function.__doc__
    make.__module__ = function.__module__
    make.function = function  # type: ignore[attr-defined]
    make.__signature__ = own  # type: ignore[attr-defined]
    return make


def _check(owner: str, name: str, value: Any) -> None:
    if isinstance(value, list | tuple):
        for v in value:
            _check(owner, name, v)
        return
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{owner}: {name} is NaN.")
    if name in POSITIVE_COUNTS and isinstance(value, int | float) and not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{owner}: {name} = {value} must be a positive number of steps.")


# Parameters that divide a step.
POSITIVE_COUNTS = frozenset({"steps", "every"})


@schedule
def product(step: Any, *, first: Any, second: Any) -> Any:
    """first(step) * second(step); either may be a number."""
    a, b = (s(step) if isinstance(s, Schedule) else s for s in (first, second))
    return a * b
