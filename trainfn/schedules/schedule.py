"""What a schedule is: a pure function of the step, written once, called with anything that counts.

    @schedule
    def linear(step, *, start, stop, steps):
        return start + (stop - start) * minimum(step, steps) / steps

    lr = linear(start=0.0, stop=1e-3, steps=100)

`lr(7)` is a Python float, `lr(numpy.arange(100))` the whole curve as float64, `lr(count)` with a traced JAX count a
traced value, and all have the same bits.  A schedule's parameters are numbers or other schedules.  Schedules and
numbers are joined by + - * / and **: `warmup(1.0, 100) * cosine(1e-3, 2000) + 1e-5` is a schedule.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
import numbers
import operator
import pickle
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol, TypeAlias

import numpy as np

from trainfn.libraries import backend_of
from trainfn.program import Program, Sort
from trainfn.trace import Graph, Scalar, TraceError, Value, tracing


class Schedule:
    """A schedule with its parameters; call it with a step.

    `program` computes `value` from the inputs `step` and the parameters, whose numbers are `parameters`.  Printed, it
    shows its formulas.
    """

    __array_ufunc__ = None  # np.float64(2) * schedule is ours
    # torch's LambdaLR saves the `__dict__` of what it is given, and overwrites it when it loads: that is empty.
    __slots__ = ("__dict__", "__weakref__", "_at", "_numbers", "arguments", "function", "name", "parameters", "program")

    def __init__(self, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
        self.name = name
        self.function = function
        self.arguments = dict(arguments)
        recorder = _Recorder()
        value = recorder.trace(self, recorder.graph.input("step", Sort.SCALAR))
        self.program: Program = recorder.graph.program({"value": value})
        self.parameters: dict[str, Any] = recorder.parameters
        self._at = _compiled(self.program)
        is_known = all(isinstance(x, float) for x in recorder.parameters.values())
        self._numbers: dict[str, float] | None = recorder.parameters if is_known else None

    def __call__(self, step: Any) -> Any:
        """The value at `step`, which counts from 0."""
        if isinstance(step, Value):
            return _recorder_of(step).trace(self, step)
        if isinstance(step, bool):
            raise TypeError(f"{self.name}: a step is a whole number, not {step!r}.")
        if isinstance(step, int | float | np.ndarray | np.generic):
            return self._on_numbers(step)
        with tracing(f"schedule {self.name}"):
            backend = backend_of(step)
        return backend.evaluate_schedule(self, step)

    def _on_numbers(self, step: Any) -> Any:
        from trainfn.reference import evaluate

        if isinstance(step, np.ndarray | np.generic) and step.dtype.kind not in "iuf":
            raise TypeError(f"{self.name}: a step is a whole number, not {step!r}.")
        if self._numbers is not None and isinstance(step, int | float):
            return self._at({"step": float(step), **self._numbers})[0]
        whole_curve = isinstance(step, np.ndarray) and step.ndim > 0
        at = step.astype(np.float64) if whole_curve else float(step)
        value = evaluate(self.program, {"step": at, **self.parameters})["value"]
        return np.broadcast_to(np.asarray(value, np.float64), step.shape).copy() if whole_curve else float(value)

    def __repr__(self) -> str:
        if self.function is combination.function:
            first, second = (_as_operand(self.arguments[k], self.arguments["sign"]) for k in ("first", "second"))
            return f"{first} {self.arguments['sign']} {second}"
        args, kwargs = _spread(self.function, self.arguments)
        return f"{self.name}({', '.join([*map(repr, args), *(f'{k}={v!r}' for k, v in kwargs.items())])})"

    def __str__(self) -> str:
        from trainfn.formulas import formulas_of_numbers

        is_plain = self.parameters.keys() <= self.arguments.keys()  # the first line says what each letter stands for
        lines = formulas_of_numbers(self.program, {} if is_plain else self.parameters)
        return "\n".join([repr(self), *(f"  {line}" for line in lines)])

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

    def __add__(self, other: Any) -> Any:
        return _combine(self, "+", other)

    def __radd__(self, other: Any) -> Any:
        return _combine(other, "+", self)

    def __sub__(self, other: Any) -> Any:
        return _combine(self, "-", other)

    def __rsub__(self, other: Any) -> Any:
        return _combine(other, "-", self)

    def __mul__(self, other: Any) -> Any:
        return _combine(self, "*", other)

    def __rmul__(self, other: Any) -> Any:
        return _combine(other, "*", self)

    def __truediv__(self, other: Any) -> Any:
        return _combine(self, "/", other)

    def __rtruediv__(self, other: Any) -> Any:
        return _combine(other, "/", self)

    def __pow__(self, other: Any) -> Any:
        return _combine(self, "**", other)

    def __rpow__(self, other: Any) -> Any:
        return _combine(other, "**", self)

    def __neg__(self) -> Any:
        return _combine(-1.0, "*", self)


def _compiled(program: Program) -> Callable[[Mapping[str, float]], tuple[float, ...]]:
    from trainfn.reference import compiled

    return compiled(program)


def _as_operand(x: Any, sign: str) -> str:
    is_loose = isinstance(x, Schedule) and x.function is combination.function
    text = repr(x)
    return f"({text})" if is_loose or (sign == "**" and text.startswith("-")) else text


def _spread(function: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments as a call hands them over: those of a parameter `*name` one by one."""
    kinds = {p.name: p.kind for p in inspect.signature(function).parameters.values()}
    star = [k for k in arguments if kinds[k] is inspect.Parameter.VAR_POSITIONAL]
    return [x for k in star for x in arguments[k]], {k: v for k, v in arguments.items() if k not in star}


def _find(module: str, name: str) -> Any:
    return operator.attrgetter(name)(importlib.import_module(module))


def _remake(module: str, name: str, arguments: Mapping[str, Any]) -> Schedule:
    """A schedule of the family found there: what unpickling calls."""
    family: Family = _find(module, name)
    args, kwargs = _spread(family.function, arguments)
    return family(*args, **kwargs)


class _Recorder:
    """Traces a schedule and those inside it, making each number given to one an input of the program."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.parameters: dict[str, Any] = {}
        self._known: dict[tuple[int, int], tuple[Any, Schedule]] = {}  # the schedule stays, so that its id is taken
        self.graph.recorder = self  # type: ignore[attr-defined]

    def trace(self, schedule: Schedule, step: Any) -> Any:
        key = id(schedule), step.index
        if key not in self._known:  # s * s * s would be traced eight times
            self._known[key] = self._value(schedule, step), schedule
        return self._known[key][0]

    def _value(self, schedule: Schedule, step: Any) -> Any:
        kinds = _kinds(schedule.function)
        arguments = {k: v if kinds[k] == STATIC else self._argument(k, v) for k, v in schedule.arguments.items()}
        args, kwargs = _spread(schedule.function, arguments)
        with tracing(f"schedule {schedule.name}"):
            value = schedule.function(step, *args, **kwargs)
            if isinstance(value, Scalar):
                return value
            if isinstance(value, int | float) and not isinstance(value, bool):
                return self.graph.constant(value)
            hint = " Call it with the step." if isinstance(value, Schedule) else ""
            raise TraceError(f"it returned {value!r} instead of a number.{hint}")

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


# -- families ----------------------------------------------------------------------------------------------------------


class Family(Protocol):
    """A schedule without its parameters, which makes a `Schedule` of them."""

    __name__: str
    function: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Schedule: ...


@typing.overload
def schedule(function: Callable[..., Any], /) -> Family: ...
@typing.overload
def schedule(*, check: Callable[..., None]) -> Callable[[Callable[..., Any]], Family]: ...
def schedule(function: Callable[..., Any] | None = None, /, *, check: Callable[..., None] | None = None) -> Any:
    """Make a schedule family of `function(step, *, parameters...)`, which returns the value at `step`.

    Inside, `step` and number parameters are traced Scalars, for which the verbs stand; parameters that are schedules
    can be called with a step.  A parameter takes a number (not NaN), a schedule, or a list of them.  One annotated
    `float` takes numbers only, `Span` and `Count` numbers of steps; one annotated `Static[...]`, or whose default is
    None, a bool or a string, is an option that chooses the formula.  `check` is called with the parameters, once all of
    them are known, and raises what is wrong with them together.
    """
    return _family(function, check) if function else lambda f: _family(f, check)


def _family(function: Callable[..., Any], check: Callable[..., None] | None) -> Family:
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"@schedule makes a schedule of a function, not of {function!r}.")
    name = function.__name__
    signature = inspect.signature(function)
    if not signature.parameters:
        raise TypeError(f"@schedule makes a schedule of a function of the step: give {name} the parameter step.")
    kinds, limits = _kinds(function), _limits(function)
    own = _without_step(signature)

    def make(*args: Any, **kwargs: Any) -> Schedule:
        try:
            bound = own.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{spell(family)}: {error}") from None
        bound.apply_defaults()
        arguments = {k: v if kinds[k] == STATIC else _plain(v) for k, v in bound.arguments.items()}
        for parameter, value in arguments.items():
            _check(name, parameter, kinds[parameter], limits.get(parameter), value)
        if check is not None and all(map(_is_known, arguments.values())):
            each, named = _spread(function, arguments)
            check(*each, **named)
        return Schedule(name, function, arguments)

    family: Any = make
    family.__name__ = family.__qualname__ = name
    family.__doc__ = function.__doc__
    family.__module__ = function.__module__
    family.function = function
    family.__signature__ = own
    family.is_schedule_family = True
    return family  # type: ignore[no-any-return]


def is_family(x: Any) -> bool:
    """Whether x would make a schedule if it were called with parameters."""
    return getattr(x, "is_schedule_family", False) is True


def spell(family: Any) -> str:
    """A call of the family, as in `linear(start, stop, steps)`."""
    parameters = inspect.signature(family).parameters.values()
    return f"{family.__name__}({', '.join(_spell_parameter(p) for p in parameters)})"


def _spell_parameter(p: inspect.Parameter) -> str:
    return str(p.replace(annotation=inspect.Parameter.empty))


def _without_step(signature: inspect.Signature) -> inspect.Signature:
    """The signature of the family: parameters can be given by position, but for those after a `*name`."""
    parameters = list(signature.parameters.values())[1:]
    if not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        parameters = [p.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for p in parameters]
    return signature.replace(parameters=parameters, return_annotation=Schedule)


STATIC, OPTION, NUMBER, NUMBERS, ANY = (
    "hashable",
    "an option, a number or a schedule",
    "a number",
    "a list of numbers",
    "a number or a schedule",
)
Span: TypeAlias = Annotated[float, "a positive number of steps"]  # what a step is divided by
Count: TypeAlias = Annotated[float, "at least 0, a number of steps"]
_SPAN, _COUNT = (typing.get_args(hint)[1] for hint in (Span, Count))


@functools.cache
def _kinds(function: Callable[..., Any]) -> dict[str, str]:
    """What each parameter takes."""
    hints = _hints(function)
    return {name: _kind(hints.get(name), p.default) for name, p in inspect.signature(function).parameters.items()}


@functools.cache
def _limits(function: Callable[..., Any]) -> dict[str, str]:
    """What the numbers of parameters annotated `Span` and `Count` must be."""
    notes = {name: _notes(hint) & {_SPAN, _COUNT} for name, hint in _hints(function).items()}
    return {name: next(iter(limits)) for name, limits in notes.items() if limits}


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:  # annotations for a type checker only
        return {}


def _notes(hint: Any) -> set[Any]:
    """What `Annotated` says, also inside a list or beside None."""
    return {*getattr(hint, "__metadata__", ()), *(n for inner in typing.get_args(hint) for n in _notes(inner))}


def _kind(hint: Any, default: Any) -> str:
    if "static" in _notes(hint):
        return STATIC
    if isinstance(default, bool | str | None):
        return OPTION
    plain = getattr(hint, "__origin__", hint) if hasattr(hint, "__metadata__") else hint
    return NUMBER if plain is float else NUMBERS if typing.get_origin(plain) is list else ANY


def _plain(value: Any) -> Any:
    """numpy's numbers as Python's, and rows of numbers as lists, so that a schedule reads as it would be written."""
    if isinstance(value, range | tuple | list) or (isinstance(value, np.ndarray) and value.ndim == 1):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.number) else value


def _check(owner: str, name: str, kind: str, limit: str | None, value: Any) -> None:
    if kind == STATIC or (kind == OPTION and isinstance(value, bool | str | None)):
        return
    if isinstance(value, Schedule) and kind in (OPTION, ANY):
        return
    if isinstance(value, list) and kind != NUMBER:
        for v in value:
            _check(owner, name, NUMBER if kind == NUMBERS else kind, limit, v)
        return
    if kind == NUMBERS or not _is_number(value):
        hint = f" Call it first, as in {spell(value)}." if is_family(value) else ""
        raise TypeError(f"{owner}: {name} = {value!r} must be {kind}.{hint}")
    if not isinstance(value, numbers.Real):
        return  # a framework's number, which may be unknown yet
    number = float(value)
    if math.isnan(number):
        raise ValueError(f"{owner}: {name} is NaN.")
    if (limit == _SPAN and not 0 < number < math.inf) or (limit == _COUNT and not 0 <= number < math.inf):
        raise ValueError(f"{owner}: {name} = {value} must be {limit}.")


def _is_known(value: Any) -> bool:
    """Whether a value can be compared now, which a framework's number that is traced cannot."""
    if isinstance(value, list):
        return all(map(_is_known, value))
    return isinstance(value, numbers.Real | Schedule | str | None) or not hasattr(value, "dtype")


def _is_number(value: Any) -> bool:
    if isinstance(value, numbers.Real):
        return not isinstance(value, bool)
    return getattr(value, "ndim", None) == 0 and getattr(value, "dtype", None) != np.bool_


# -- arithmetic --------------------------------------------------------------------------------------------------------

_SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}


@schedule
def combination(step: Any, *, first: Any, sign: Annotated[str, "static"], second: Any) -> Any:
    """first(step) + second(step), or with another sign; either may be a number."""
    a, b = (x(step) if isinstance(x, Schedule) else x for x in (first, second))
    return _SIGNS[sign](a, b)


def _combine(first: Any, sign: str, second: Any) -> Any:
    for x in (first, second):
        if is_family(x):
            raise TypeError(f"{sign} takes schedules and numbers: call {x.__name__} first, as in {spell(x)}.")
        if not (isinstance(x, Schedule) or _is_number(x)) or isinstance(x, Value):
            return NotImplemented
    return combination(first, sign, second)
