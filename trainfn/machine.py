"""State machines: a few numbers that change with what training reports, written once, with the same bits everywhere.

    class Seen(NamedTuple):
        best: Any = math.inf

    @machine()
    def best_so_far(state: Seen, metric):
        best = minimum(state.best, metric)
        return Seen(best), best

    best = best_so_far()
    state, value = best(best.init(), 0.7)

A machine is pure: called with a state and the signals its function names before the `*`, it gives the next state and a
value.  States and signals may be Python's, numpy's, torch's or JAX's numbers, traced ones too.  Signals and states are
rounded to float32, as the Scalar state of rules is, so that a state that crosses from one library to another goes on
there as it would have here.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from trainfn.libraries import backend_of
from trainfn.program import Program, Sort
from trainfn.trace import Condition, Graph, TraceError, Value, lift, tracing


class Machine:
    """A machine with its parameters.

    `program` computes `value` and the next state, by field, from the inputs `state.<field>`, the signals and the
    parameters.
    """

    def __init__(self, function: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
        self.name = function.__name__
        self.parameters = dict(parameters)
        first, *others = inspect.signature(function).parameters.values()
        self.state: Any = typing.get_type_hints(function)[first.name]
        self.signals = tuple(p.name for p in others if p.kind is not inspect.Parameter.KEYWORD_ONLY)
        self._numbers = {k: float(v) for k, v in parameters.items() if not isinstance(v, bool | str)}
        self.program = self._trace(function)

    def init(self) -> Any:
        """The state before anything was reported."""
        return self.state()

    def __call__(self, state: Any, *signals: Any) -> tuple[Any, Any]:
        """The next state and the machine's value."""
        if not isinstance(state, self.state):
            raise TypeError(f"{self.name}: the state is what init or the last call returned, not {state!r}.")
        if len(signals) != len(self.signals):
            raise TypeError(f"{self.name} takes a state and {', '.join(self.signals)}; {1 + len(signals)} were given.")
        for name, x in zip(self.signals, signals, strict=True):
            if x is None:
                raise TypeError(f"{self.name}: {name} is None: call it with what was measured, when something was.")
        before = {f"state.{k}": v for k, v in state._asdict().items()}
        now = dict(zip(self.signals, signals, strict=True))
        evaluate = backend_of(*before.values(), *signals).evaluate
        results = evaluate(self.program, {**before, **now, **self._numbers})
        return self.state(**{k: results[f"state.{k}"] for k in self.state._fields}), results["value"]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"

    def __str__(self) -> str:
        from trainfn.formulas import formulas_of_numbers

        return "\n".join([repr(self), *(f"  {line}" for line in formulas_of_numbers(self.program, self._numbers))])

    def _trace(self, function: Callable[..., Any]) -> Program:
        graph = Graph()
        with tracing(f"machine {self.name}"):
            state = self.state(**{k: graph.input(f"state.{k}", Sort.SCALAR) for k in self.state._fields})
            signals = [_single(graph, k, graph.input(k, Sort.SCALAR)) for k in self.signals]
            numbers = {k: graph.input(k, Sort.SCALAR) for k in self._numbers}
            result = function(state, *signals, **{**self.parameters, **numbers})
            if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], self.state)):
                raise TraceError(f"it must return {self.state.__name__}(...) and a value; it returned {result!r}.")
            after, value = result
            outputs = {f"state.{k}": _single(graph, f"state field {k}", v) for k, v in after._asdict().items()}
            return graph.program({**outputs, "value": lift(graph, "the value", value)})


def _single(graph: Graph, what: str, x: Any) -> Value:
    value = lift(graph, what, x)
    if isinstance(value, Condition):
        raise TraceError(f"{what} is {value!r} where a number is due: write where(condition, 1, 0).")
    return graph.emit("single", (value.index,), Sort.SCALAR)


def machine(*, check: Callable[..., None] | None = None) -> Callable[[Callable[..., Any]], Callable[..., Machine]]:
    """Make a machine of `function(state, signals..., *, parameters...)`, which returns the next state and a value.

    The state is a NamedTuple of numbers with defaults, which are where it starts.  Parameters are numbers, which are
    traced, and bools and strings, which choose the program; `check` raises what is wrong with them.
    """

    def family(function: Callable[..., Any]) -> Callable[..., Machine]:
        signature = inspect.signature(function)
        own = signature.replace(
            parameters=[p for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY],
            return_annotation=Machine,
        )

        def make(**parameters: Any) -> Machine:
            bound = own.bind(**parameters)
            bound.apply_defaults()
            if check is not None:
                check(**bound.arguments)
            return Machine(function, bound.arguments)

        make.__name__ = make.__qualname__ = function.__name__
        make.__doc__, make.__module__ = function.__doc__, function.__module__
        make.__signature__ = own  # type: ignore[attr-defined]
        return make

    return family
