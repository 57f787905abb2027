"""Tracing: a rule's structure becomes the programs of one leaf.

A rule's function is called once for all leaves that do not differ in what it asks about them, with handles that record
what is done to them (`trainfn.trace`).  Three programs come out: the update, the state it begins with, and the
parameter to evaluate.  What the functions return is checked here, and what belongs to the model is held to it.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import types
import typing
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from trainfn.policies import Policy
from trainfn.program import Program, Sort
from trainfn.trace import (
    Array,
    Condition,
    Graph,
    Leaf,
    LeafPair,
    LeafScalar,
    ModelPair,
    ModelScalar,
    Scalar,
    TraceError,
    Value,
    answer,
    lift,
    tracing,
)
from trainfn.verbs import expect_flag, full_like, when, where, zeros_like

if TYPE_CHECKING:
    from trainfn.rule import Definition


@dataclass(frozen=True)
class Choice:
    """The structure of a partition; `number` tells the partitions of a rule apart."""

    policy: Policy
    number: int
    alternatives: tuple[tuple[Structure | Choice, ...], ...]


@dataclass(frozen=True)
class Structure:
    """What of a rule decides its program: everything but the numbers."""

    definition: Definition
    options: tuple[tuple[str, Hashable], ...]
    exactly: tuple[Hashable, ...]  # the options again, with what tells 1 from True and 0.0 from -0.0
    hyper: tuple[tuple[str, str], ...]  # local name, name in the whole rule
    state: tuple[tuple[str, str], ...]
    inner: tuple[Structure | Choice, ...]


@cache
def field_sorts(state: Any) -> dict[str, tuple[type[Value], bool]]:
    """For each field its sort, and whether it may be None."""
    sorts = {}
    for name, hint in typing.get_type_hints(state).items():
        kinds = [k for k in typing.get_args(hint) or (hint,) if k is not type(None)]
        sorts[name] = (kinds[0] if len(kinds) == 1 else hint, type(None) in typing.get_args(hint))
    return sorts


@dataclass(frozen=True)
class _Traced:
    """The programs of a rule for one leaf, and what they were told about it."""

    update: Program
    init: Program
    evaluated: Program
    facts: Mapping[Any, Any]


class Traces:
    """The programs of one rule: traced once for all leaves that do not differ in anything the rule asked about.

    A thousand layers whose names no rule looks at are one program.  What works along axes is traced for each shape, for
    not all may fit, and is one program where it comes to the same.
    """

    def __init__(self, structures: tuple[Structure | Choice, ...]) -> None:
        self._structures = structures
        self._known: dict[tuple[Any, ...], dict[tuple[Any, ...] | None, _Traced]] = {}
        self._programs: dict[Program, Program] = {}

    def of(self, leaf: Leaf) -> _Traced:
        for asked, programs in list(self._known.items()):
            traced = programs.get(_answers(leaf, asked))
            if traced is not None:
                return traced
        init = Graph(leaf)
        initial = _trace_init(self._structures, init)
        shapes = {name: init.shapes[i] for name, i in initial.outputs}
        graph = Graph(leaf, shapes)
        update = _trace(self._structures, graph)
        start = initial.keep(name for name in initial.output if name in update.output)
        other = Graph(leaf, shapes)
        evaluated = _trace_evaluated(self._structures, other)
        if initial.is_random or evaluated.is_random:
            raise TraceError("random numbers are drawn by updates: a state begins, and is evaluated, without chance.")
        update, start, evaluated = (self._programs.setdefault(x, x) for x in (update, start, evaluated))
        traced = _Traced(update, start, evaluated, graph.facts | init.facts | other.facts)
        self._known.setdefault(tuple(traced.facts), {})[tuple(traced.facts.values())] = traced
        return traced


def _answers(leaf: Leaf, asked: Sequence[Any]) -> tuple[Any, ...] | None:
    try:
        return tuple(answer(leaf, question) for question in asked)
    except ValueError:  # a policy inside of another's rule, about a leaf that has another one
        return None


@lru_cache(maxsize=1024)
def traces(structures: tuple[Structure | Choice, ...]) -> Traces:
    return Traces(structures)


def _trace(structures: tuple[Structure | Choice, ...], graph: Graph) -> Program:
    p = graph.input("p", Sort.ARRAY)
    states: dict[str, Value] = {}
    update = _apply(structures, graph.input("g", Sort.ARRAY), _Place(p, graph.input("step", Sort.SCALAR), states))
    graph.labels.setdefault(update.index, "update")
    added = _added(graph, update)
    outputs = {"update": added, "p": graph.emit("add", (p.index, added.index), Sort.ARRAY), **states}
    _check_of_model(graph, structures, states)
    for name, flags in (("applied", graph.gates), ("counted", graph.counts)):
        if flags:
            outputs[name] = functools.reduce(operator.and_, flags)
    return graph.program(outputs).keep(outputs)


def _added(graph: Graph, update: Value) -> Value:
    """The update as it is added to the parameter: rounded to its dtype, unless the last rule wants it unrounded."""
    if graph.unrounded is None:
        return graph.emit("stored", (update.index,), Sort.ARRAY)
    whole = update
    while whole.index != graph.unrounded.index:
        if whole.node.op not in ("where", "when"):  # of an update that happens now and then
            raise TraceError(
                "an update that is to be added unrounded was changed: round_once, stochastic_rounding and what else "
                "calls the verb unrounded stand around all links that change it, as in "
                "stochastic_rounding(chain(clip_by_global_norm(), adamw()))."
            )
        whole = type(whole)(graph, whole.node.args[1])
    return update


def _check_of_model(graph: Graph, structures: Sequence[Structure | Choice], states: Mapping[str, Value]) -> None:
    """What belongs to the whole model must not be computed from one leaf."""
    fields = [
        (structure.definition.name, name, structure.definition.fields[k])
        for structure in walk_structures(structures)
        for k, name in structure.state
    ]
    inputs = {f"state.{name}": sort for _, name, sort in fields}
    of_leaf: set[int] = set()
    for i, node in enumerate(graph.nodes):
        sort = inputs.get(str(node.static).removesuffix(".high").removesuffix(".low"), Value)
        is_state_of_leaf = node.op == "input" and issubclass(sort, LeafScalar)
        is_of_leaf = node.static == "leaf" if node.is_reduction else any(a in of_leaf for a in node.args)
        if is_state_of_leaf or is_of_leaf:
            of_leaf.add(i)
    for owner, name, sort in fields:
        stored = [v for n, v in states.items() if n.removesuffix(".high").removesuffix(".low") == f"state.{name}"]
        if issubclass(sort, ModelScalar) and any(v.index in of_leaf for v in stored):
            raise TraceError(
                f"rule {owner}: state field {name} belongs to the model and was computed from one leaf: use "
                "global_sum, global_max or global_norm."
            )
    for verb, flags in (("apply_if", graph.gates), ("count_if", graph.counts)):
        if any(flag.index in of_leaf for flag in flags):
            raise TraceError(
                f"{verb} decides for the whole model and was given a condition of one leaf: use global_sum, global_max "
                "or global_norm."
            )


@dataclass(frozen=True)
class _Place:
    """Where a rule stands: what it sees beside the gradient, and where its state goes."""

    p: Any
    step: Any
    states: dict[str, Value]


def _apply(structures: Sequence[Structure | Choice], g: Any, place: _Place) -> Any:
    for structure in structures:
        g = _choose(structure, g, place) if isinstance(structure, Choice) else _apply_one(structure, g, place)
    return g


def _apply_one(structure: Structure, g: Any, place: _Place) -> Any:
    """The update of one rule.

    In a call that does not count, because a rule inside of it or before it in a chain says so, it does nothing: its
    state stays, and what that rule made of the gradient passes through.
    """
    graph: Graph = g.graph
    with tracing(f"rule {structure.definition.name}", graph.leaf):
        called = _call(structure, g, place)
        states: dict[str, Value] = {}
        update = _updated(structure, called.result, g, states)
        if called.behind and not called.counts:
            counts = functools.reduce(operator.and_, called.behind)
            update = _if(counts, update, called.passed)
            states = {name: _if(counts, new, graph.input(name, new.sort)) for name, new in states.items()}
        place.states.update(states)
        return update


class _Called(NamedTuple):
    """What came of calling a rule's function.

    result: what it returned; passed: what it had in hand, the inner rule's update or the gradient.
    behind: conditions under which the rules before it and inside of it let the call count; counts: whether it has one
        of its own.
    """

    result: Any
    passed: Any
    behind: list[Any]
    counts: bool


def _choose(choice: Choice, g: Any, place: _Place) -> Any:
    """The update of the leaf's own rule, which reduces over the leaves that have it."""
    graph: Graph = g.graph
    k, some = graph.ask(choice.policy), graph.some
    flags = len(graph.gates), len(graph.counts)
    graph.some = f"{some} {choice.number}.{k}"
    update = _apply(choice.alternatives[k], g, place)
    graph.some = some
    if flags != (len(graph.gates), len(graph.counts)):
        raise TraceError(
            "a rule in a partition decides whether the whole model is updated, as skip_if_not_finite and accumulate "
            "do: put that around the partition."
        )
    return update


def _call(structure: Structure, g: Any, place: _Place) -> _Called:
    graph: Graph = g.graph
    behind, passed = list(graph.counts), [g]
    definition = structure.definition
    state_names = dict(structure.state)
    supplied: dict[str, Any] = {"g": g, "p": place.p, "step": place.step}
    calls: list[Any] = []

    def inner(*gradients: Any, p: Any = None, step: Any = None, when: Any = None) -> Any:
        """The inner rule's update: see the module's docstring."""
        if len(gradients) != 1:
            raise TraceError(
                f"inner takes the gradient, as in inner(g), and by name p, step and when; it was given "
                f"{len(gradients)} values."
            )
        calls.extend(gradients)
        gradient = _shaped_like_leaf("gradient", gradients[0], place.p)
        seen = _Place(
            place.p if p is None else _shaped_like_leaf("parameter", p, place.p),
            place.step if step is None else lift(graph, "inner", step),
            place.states,
        )
        before = len(graph.counts)
        if when is None:
            passed.append(_apply(structure.inner, gradient, seen))
        else:
            passed.append(_apply_when(expect_flag("inner", when), structure.inner, gradient, seen))
        behind.extend(graph.counts[before:])
        return passed[-1]

    for name in definition.positional:
        if name == "inner":
            supplied[name] = inner
        elif name == "state":
            assert definition.state is not None
            loaded = {k: _load_state(graph, state_names[k], sort) for k, sort in definition.fields.items()}
            supplied[name] = definition.state(**loaded)
        elif name not in supplied:
            supplied[name] = graph.input(name, Sort.SCALAR)
    keywords = {k: graph.input(v, Sort.SCALAR) for k, v in structure.hyper} | dict(structure.options)
    result, local = _call_and_watch(definition, graph, [supplied[n] for n in definition.positional], keywords)
    _label(graph, local)
    if "inner" in definition.positional and len(calls) != 1:
        raise TraceError(f"the inner rule was called {len(calls)} times; it must be called once.")
    return _Called(result, passed[-1], behind, len(graph.counts) > len(behind))


def _apply_when(condition: Any, structures: Sequence[Structure | Choice], g: Any, place: _Place) -> Any:
    """The update of rules that happen only if the condition holds: their states stay otherwise, their update is -0.0.

    What they decide for the whole model is between them and the rule around them: an update that they skip does not
    count, and the rule around them goes on.  What they say while they wait is nothing.
    """
    graph: Graph = g.graph
    gates, graph.gates = graph.gates, []
    counts, graph.counts = graph.counts, []
    states: dict[str, Value] = {}
    update = _apply(structures, g, replace(place, states=states))
    inside, graph.gates = graph.gates, gates
    graph.counts = counts + [flag | ~condition for flag in (*graph.counts, *inside)]
    happens = functools.reduce(operator.and_, inside, condition)
    place.states.update({name: _if(happens, new, graph.input(name, new.sort)) for name, new in states.items()})
    return _if(happens, update, full_like(update, -0.0))


def _if(condition: Any, new: Any, old: Any) -> Any:
    """`new` if the condition holds, else `old`; where it pays, what only new arrays need is not computed otherwise."""
    return when(condition, new, old) if isinstance(new, Array) else where(condition, new, old)


def _updated(structure: Structure, result: Any, g: Any, states: dict[str, Value]) -> Any:
    """The update in what the rule returned; the next state goes into `states`."""
    definition = structure.definition
    if definition.state is None:
        return _shaped_like_leaf("update", result, g)
    update, after = _split(definition, result)
    names = dict(structure.state)
    for field, (sort, is_optional) in field_sorts(definition.state).items():
        value = getattr(after, field)
        if value is not None or not is_optional:
            _store_state(g.graph, names[field], sort, f"state field {field}", value, states)
            if sort is Array:
                key = f"state.{names[field]}"
                _check_shape(f"state field {field}", states[key], g.graph.shape_of_input(key))
    return _shaped_like_leaf("update", update, g)


def _split(definition: Definition, result: Any) -> tuple[Any, Any]:
    assert definition.state is not None
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], definition.state):
        return result
    raise TraceError(
        f"it must return the update and the next state, as in `return u, {definition.state.__name__}(...)`; "
        f"it returned {result!r}."
    )


def _shaped_like_leaf(what: str, value: Any, g: Any) -> Any:
    array = _as_array(what, value, g)
    _check_shape(what, array, g.graph.leaf.shape)
    return array


def _check_shape(what: str, array: Any, expected: tuple[int, ...]) -> None:
    shape = array.graph.shapes[array.index]
    if shape != expected:
        raise TraceError(f"the {what} has shape {shape} where {expected} is due.")


def _as_array(what: str, value: Any, like: Any) -> Any:
    if isinstance(value, Array):
        return value
    if isinstance(value, Scalar | int | float) and not isinstance(value, bool):
        return like.graph.emit("fill", (lift(like.graph, what, value).index,), Sort.ARRAY)
    remedy = ""
    if isinstance(value, tuple) and what == "update":
        remedy = " A rule that returns a state has a parameter `state`, annotated with its NamedTuple."
    elif hasattr(value, "ndim") and not isinstance(value, Value):
        remedy = " Arrays are made with zeros_like(p), full_like(p, number), or p itself."
    raise TraceError(f"the {what} is {value!r} where an Array shaped like the parameter is due.{remedy}")


def _load_state(graph: Graph, name: str, sort: type[Value]) -> Any:
    if sort is Array:
        return graph.input(f"state.{name}", Sort.ARRAY)
    if issubclass(sort, LeafPair | ModelPair):
        high: Any = graph.input(f"state.{name}.high", Sort.SCALAR)
        return high + graph.input(f"state.{name}.low", Sort.SCALAR)
    return graph.input(f"state.{name}", Sort.SCALAR)


def _store_state(graph: Graph, name: str, sort: type[Value], what: str, value: Any, states: dict[str, Value]) -> None:
    if sort is Array:
        states[f"state.{name}"] = _as_array(what, value, graph.input("p", Sort.ARRAY))
        return
    if isinstance(value, Array | Condition):
        remedy = "reduce it first, with leaf_sum" if isinstance(value, Array) else "write where(c, 1, 0)"
        raise TraceError(f"the {what} is declared {sort.__name__} and is {value!r}; {remedy}.")
    x: Any = lift(graph, f"the {what}", value)
    rounded: Any = graph.emit("single", (x.index,), Sort.SCALAR)
    if issubclass(sort, LeafPair | ModelPair):
        states[f"state.{name}.high"] = rounded
        is_finite = rounded - rounded == 0  # an infinite pair is infinite in both parts: inf - inf is NaN
        rest = where(is_finite, x - rounded, rounded)
        states[f"state.{name}.low"] = graph.emit("single", (rest.index,), Sort.SCALAR)
    else:
        states[f"state.{name}"] = rounded


def _trace_init(structures: tuple[Structure | Choice, ...], graph: Graph) -> Program:
    p: Any = graph.input("p", Sort.ARRAY)
    states: dict[str, Value] = {}
    for structure in walk_structures(structures, graph):
        definition, names = structure.definition, dict(structure.state)
        with tracing(f"rule {definition.name}", graph.leaf):
            initial = _initial(structure, graph, p)
            for field, sort in definition.fields.items():
                default = zeros_like(p) if sort is Array else 0.0
                value = getattr(initial, field) if initial is not None else default
                if value is not None or not field_sorts(definition.state)[field][1]:
                    _store_state(graph, names[field], sort, f"initial state field {field}", value, states)
    return graph.program(states)


def _initial(structure: Structure, graph: Graph, p: Any) -> Any:
    """What the state's own `init(p, hyperparameters it names)` returns, if it has one."""
    state = structure.definition.state
    if not hasattr(state, "init"):
        return None
    initial = ask_state(structure, graph, "init", p)
    if not isinstance(initial, state):
        raise TraceError(f"{state.__name__}.init must return {state.__name__}(...); it returned {initial!r}.")
    return initial


def ask_state(structure: Structure, graph: Graph, name: str, *given: Any) -> Any:
    """What a static method of the state returns, given the hyperparameters it names."""
    state = structure.definition.state
    method = getattr(state, name)
    hyper = {k: graph.input(v, Sort.SCALAR) for k, v in structure.hyper} | dict(structure.options)
    asked = list(inspect.signature(method).parameters.values())[len(given) :]
    unknown = [a.name for a in asked if a.name not in hyper and a.default is inspect.Parameter.empty]
    if unknown:
        first = list(inspect.signature(method).parameters)[: len(given)]
        raise TraceError(
            f"{state.__name__}.{name} asks for {', '.join(unknown)}; beside {', '.join(first)} it is given the rule's "
            f"hyperparameters it names: {', '.join(hyper) or 'there are none'}."
        )
    return method(*given, **{a.name: hyper[a.name] for a in asked if a.name in hyper})


def _trace_evaluated(structures: tuple[Structure | Choice, ...], graph: Graph) -> Program:
    """What the outermost state with a method `eval_params(state, p, hyperparameters it names)` makes of p.

    On the way in to it each state with a method `settled`, of the same arguments, says what p is where it has moved p
    for a while.
    """
    p: Any = graph.input("p", Sort.ARRAY)
    for structure in reversed(list(walk_structures(structures, graph))):
        definition, names = structure.definition, dict(structure.state)
        method = next((m for m in ("eval_params", "settled") if hasattr(definition.state, m)), None)
        if method:
            with tracing(f"rule {definition.name}", graph.leaf):
                loaded = {k: _load_state(graph, names[k], sort) for k, sort in definition.fields.items()}
                found = ask_state(structure, graph, method, definition.state(**loaded), p)
                p = _shaped_like_leaf("parameter to evaluate", found, p)
        if method == "eval_params":
            break
    return graph.program({"p": p}).keep(["p"])


def walk_structures(structures: Sequence[Structure | Choice], graph: Graph | None = None) -> Iterator[Structure]:
    """Every structure, those inside another before it; of a partition all, or the one for the graph's leaf."""
    for structure in structures:
        if isinstance(structure, Structure):
            yield from walk_structures(structure.inner, graph)
            yield structure
        else:
            chosen = structure.alternatives if graph is None else [structure.alternatives[graph.ask(structure.policy)]]
            for alternative in chosen:
                yield from walk_structures(alternative, graph)


# -- names of intermediate results, for printing -----------------------------------------------------------------------


def _call_and_watch(
    definition: Definition, graph: Graph, args: list[Any], kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Call the rule's function; also its local variables, whose names make the printed formulas readable.

    They are looked up whenever it computes something, so that no hook is set that a profiler or debugger would miss.
    """
    code: types.CodeType = definition.function.__code__
    local: dict[str, Any] = {}

    def look() -> None:
        frame: types.FrameType | None = sys._getframe()
        while frame is not None and frame.f_code is not code:
            frame = frame.f_back
        if frame is not None:
            local.update(frame.f_locals)

    before, graph.watch = graph.watch, look
    try:
        return definition.function(*args, **kwargs), local
    finally:
        graph.watch = before


def _label(graph: Graph, local: Mapping[str, Any]) -> None:
    for name, value in local.items():
        if isinstance(value, Value) and value.node.op not in ("input", "const"):
            graph.labels.setdefault(value.index, name)
