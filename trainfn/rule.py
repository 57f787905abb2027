"""Rules: the algorithm boxes of papers, as plain functions, and what is made of them.

    class Moments(NamedTuple):
        m: Array
        v: Array

    @rule
    def adamw(step, state: Moments, g, p, *, lr=1e-3, ...):
        ...
        return update, Moments(m, v)

A rule's positional parameters say what it needs, by name:

    step    updates applied to this leaf before this one, from 0
    state   what the rule remembers, a NamedTuple whose annotations give the sort of each field; one annotated
            `Array | None` exists only where the rule returns a value for it
    g, p    the gradient (or what the previous link of a chain made of it) and the parameter
    value   the loss, supplied by the training loop
    weight  of how many losses the gradient is a sum, supplied by the training loop; 1 if it is a mean
    grad_scale, found_inf   what a gradient scaler says: the factor on g, and whether it overflowed (not 0)
    inner   for a rule around another: a function from a gradient to that rule's update.  `inner(g, p=..., step=...)`
            shows it another parameter or count of updates than its own; with `inner(g, when=condition)` it happens only
            if the condition of the leaf or the model holds: otherwise its state stays and its update is -0.0

It returns what to add to p and, if it has one, the next state.  Its keyword parameters are hyperparameters, except
those annotated `Static[...]`, and those given None or a bool or a string: these choose the program.  One whose default
is a number may be given None if it is annotated so, `Any | None`.

Calling a rule with hyperparameters gives a `Rule`; `chain` joins several into one.
"""

from __future__ import annotations

import importlib
import inspect
import operator
import pickle
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import count
from typing import Any, NamedTuple

from trainfn import hyperparameters
from trainfn.hyperparameters import inherited
from trainfn.policies import Policy
from trainfn.program import Program
from trainfn.trace import Array, Leaf, LeafPair, LeafScalar, ModelPair, ModelScalar, Value, exact
from trainfn.tracing import Choice, Structure, field_sorts, traces

# What a rule may ask for by name; of these the training loop supplies `EXTRAS`, with the value if it does not.
EXTRAS: Mapping[str, float | None] = {"value": None, "weight": 1.0, "grad_scale": None, "found_inf": None}
POSITIONAL = ("inner", "step", "state", "g", "p", *EXTRAS)
# Words of the program, of the adapters' states and of their parameter groups: no hyperparameter or state has them.
RESERVED = frozenset(
    {*POSITIONAL, "count", "update", "updates", "applied", "counted", "params", "param_names", "maximize", "initial_lr"}
)
_KINDS = {bool: "True or False", int: "a whole number", str: "a string"}  # what options must be, by their defaults
SORTS_OF_STATE = (Array, LeafScalar, ModelScalar, LeafPair, ModelPair)


class Field(NamedTuple):
    """One entry of a rule's state: its name in the whole rule and its sort."""

    name: str
    sort: type[Value]

    @property
    def is_array(self) -> bool:
        return self.sort is Array

    @property
    def is_pair(self) -> bool:
        return issubclass(self.sort, LeafPair | ModelPair)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The program inputs and outputs that hold it."""
        return (f"state.{self.name}.high", f"state.{self.name}.low") if self.is_pair else (f"state.{self.name}",)

    @property
    def is_of_model(self) -> bool:
        return issubclass(self.sort, ModelScalar)


@dataclass(frozen=True, eq=False, repr=False)
class Definition:
    """A rule as written: the function and what its signature says."""

    function: Callable[..., Any]
    name: str
    positional: tuple[str, ...]
    defaults: Mapping[str, Any]
    options: frozenset[str]
    optional: frozenset[str]  # hyperparameters that may be None, which chooses the program
    state: Any  # the NamedTuple class, or None
    check: Callable[..., None] | None = None

    @property
    def fields(self) -> Mapping[str, type[Value]]:
        return {k: sort for k, (sort, _) in field_sorts(self.state).items()} if self.state else {}

    @property
    def known_as(self) -> str:
        """Its name in the adapters' tables of words; "" for a user's rule, which may have the name of one of ours."""
        return self.name if self.function.__module__.partition(".")[0] == "trainfn" else ""

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.function.__doc__

    def __reduce__(self) -> Any:
        """Pickled by reference, as functions are: a copy would be another rule."""
        where = (self.function.__module__, self.function.__qualname__)
        try:
            is_found = _find(*where) is self
        except (ImportError, AttributeError):
            is_found = False
        if not is_found:
            raise pickle.PicklingError(
                f"rule {self.name} is not {'.'.join(where)}, where unpickling would look for it: define it at the top "
                "level of a module, under its own name."
            )
        return _find, where

    def __deepcopy__(self, memo: object) -> Definition:
        return self

    @property
    def __signature__(self) -> inspect.Signature:
        """What a call takes: for `help` and editors."""
        kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
        inner = [inspect.Parameter("inner", kind)] if "inner" in self.positional else []
        hyper = [inspect.Parameter(name, kind, default=default) for name, default in self.defaults.items()]
        return inspect.Signature([*inner, *hyper])

    def __repr__(self) -> str:
        return f"<rule {self.name}{self.__signature__}>"

    def __call__(self, *args: Any, **hyper: Any) -> Rule:
        """Bind hyperparameters; positional ones in the order of the definition, after the inner rule if it has one."""
        inner: Rule | None = None
        if "inner" in self.positional:
            if not args or not isinstance(args[0], Rule):
                raise TypeError(f"{self.name} stands around another rule: give that first, as in {self.name}(adamw()).")
            inner, args = args[0], args[1:]
        if args and isinstance(args[0], list | dict | Iterator):
            raise TypeError(
                f"{self.name} takes hyperparameters, not a model's parameters: give those to "
                f"trainfn_torch.Optimizer(params, {self.name}(...)), or trainfn_jax.transform({self.name}(...)).init."
            )
        names = list(self.defaults)
        if len(args) > len(names):
            raise TypeError(f"{self.name} takes {', '.join(names) or 'no hyperparameters'}; {len(args)} were given.")
        given = dict(zip(names, args, strict=False))
        twice = given.keys() & hyper.keys()
        if twice:
            raise TypeError(f"{self.name}: {', '.join(sorted(twice))} was given twice.")
        return Rule((self._bind({**given, **hyper}, inner),))

    def _bind(self, given: Mapping[str, Any], inner: Rule | None) -> Link:
        unknown = [name for name in given if name not in self.defaults]
        if unknown:
            raise TypeError(hyperparameters.unknown(self.name, unknown, self.defaults))
        values = {**self.defaults, **given}
        missing = [name for name, value in values.items() if value is inspect.Parameter.empty]
        if missing:
            raise TypeError(f"{self.name} needs {', '.join(missing)}.")
        options = {k: v for k, v in values.items() if k in self.options or v is None or isinstance(v, bool | str)}
        for name, value in options.items():
            if not isinstance(value, Hashable):
                raise TypeError(f"{self.name}: the option {name} must be hashable, and {value!r} is not.")
            default = self.defaults[name]
            if value is None and name in self.optional:
                continue
            is_number = not isinstance(default, bool | str | None) or (
                name in hyperparameters.DOMAINS and value is not None
            )
            if name not in self.options and is_number:
                hint = f" Of a text make one: float({value!r})." if isinstance(value, str) else ""
                raise TypeError(
                    f"{self.name}: {name} = {value!r} must be a number, a schedule or a leaf function.{hint}"
                )
            if type(default) in _KINDS and type(value) is not type(default):
                raise TypeError(f"{self.name}: the option {name} = {value!r} must be {_KINDS[type(default)]}.")
        hyper = {k: hyperparameters.check(self.name, k, v) for k, v in values.items() if k not in options}
        if self.check is not None:
            self.check(*([] if inner is None else [inner]), **options, **hyper)
        return Link(self, tuple(options.items()), hyper, inner)


@dataclass(frozen=True, eq=False)
class Link:
    """A definition with its options and hyperparameters, around an inner rule if it is a wrapper."""

    definition: Definition
    options: tuple[tuple[str, Hashable], ...]
    hyper: Mapping[str, Any]
    inner: Rule | None


@dataclass(frozen=True)
class Partition:
    """Several rules, of which each leaf has one: the entry of `rules` that the policy says."""

    policy: Policy
    rules: tuple[Rule, ...]


# Where a link stands in partitions, from the outermost: the policy and the entry that leads to it.
Path = tuple[tuple[Policy, int], ...]


@dataclass(frozen=True, eq=False)
class Rule:
    """One rule or a chain of them with hyperparameters: what an optimizer is made of.

    `hyper` maps each hyperparameter's name to its value (number, schedule, leaf function or a framework's scalar).
    Where two links have one of the same name, the last keeps the plain name and the earlier one's is prefixed, as in
    `clip_by_global_norm.eps`; one that is `inherited` is the earlier link's.  State is named likewise.  Rules of a
    partition never meet in one leaf: they share the names of their hyperparameters.
    """

    links: tuple[Link | Partition, ...]

    @cached_property
    def all_links(self) -> tuple[Link, ...]:
        """Every link, those inside of others before them, and those of all rules of a partition."""
        return tuple(link for link, _ in _walk(self.links))

    @property
    def own_links(self) -> tuple[Link, ...]:
        """The links that every leaf has, but for those inside of others."""
        return tuple(link for link in self.links if isinstance(link, Link))

    @cached_property
    def _paths(self) -> tuple[Path, ...]:
        return tuple(path for _, path in _walk(self.links))

    def _meet(self, i: int, j: int) -> bool:
        """Whether two links may stand in the program of one leaf."""
        entries = dict(self._paths[i])
        return all(entries.get(policy, k) == k for policy, k in self._paths[j])

    @cached_property
    def _hyper_names(self) -> dict[tuple[int, str], str]:
        entries = [(i, k) for i, link in enumerate(self.all_links) for k in link.hyper]
        is_inherited = {(i, k): self.all_links[i].hyper[k] is inherited for i, k in entries}
        own = [e for e in entries if not is_inherited[e]]
        names = _unique_names(own, self.all_links, lambda a, b: self._meet(a[0], b[0]))
        for i, key in (e for e in entries if is_inherited[e]):
            before = (j for j in range(i - 1, -1, -1) if self._meet(i, j))
            source = next((names[j, key] for j in before if (j, key) in names), None)
            if source is None:
                owner = self.all_links[i].definition.name
                raise TypeError(f"{owner} takes its {key} from a rule before it in a chain. There is none: give {key}.")
            names[i, key] = source
        return names

    @cached_property
    def _state_names(self) -> dict[tuple[int, str], str]:
        """Numbers of the model have other names than hyperparameters, beside which torch keeps them in its groups."""
        fields = [(i, k, sort) for i, link in enumerate(self.all_links) for k, sort in link.definition.fields.items()]
        hyper = set(self._hyper_names.values())
        taken = {(i, k): hyper for i, k, sort in fields if issubclass(sort, ModelScalar)}
        return _unique_names([(i, k) for i, k, _ in fields], self.all_links, self._need_two_fields, taken)

    def _need_two_fields(self, a: tuple[int, str], b: tuple[int, str]) -> bool:
        """Whether two entries of the state need two names: not where leaves have the same rule from two entries."""
        (i, key), (j, other) = a, b
        one, two = self.all_links[i].definition, self.all_links[j].definition
        is_same = one is two and key == other and not issubclass(one.fields[key], ModelScalar)
        return self._meet(i, j) or not is_same

    def state_name(self, i: int, key: str) -> str:
        """The name in the whole rule of a field of the `i`-th of `all_links`."""
        return self._state_names[i, key]

    @cached_property
    def hyper(self) -> dict[str, Any]:
        found: dict[str, list[tuple[Path, Any, Any]]] = {}
        for i, link in enumerate(self.all_links):
            for k, value in link.hyper.items():
                if value is not inherited:
                    entry = self._paths[i], value, link.definition.defaults[k]
                    found.setdefault(self._hyper_names[i, k], []).append(entry)
        return {name: _of_each_leaf(values) for name, values in found.items()}

    @cached_property
    def policies(self) -> tuple[Policy, ...]:
        """Those that say which leaf gets which rule, or which value of a hyperparameter."""
        of_rules = (policy for path in self._paths for policy, _ in path)
        of_values = (v for link in self.all_links for v in link.hyper.values() if isinstance(v, Policy))
        return tuple(dict.fromkeys((*of_rules, *of_values)))

    def check_policies(self, leaves: Iterable[Leaf]) -> None:
        """Raise unless every case of every policy is that of a leaf of this model, and every leaf has one rule."""
        leaves = list(leaves)
        for policy in self.policies:
            policy.check(leaves)
        if any(self._paths):
            for leaf in leaves:
                self.of_leaf(leaf)

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """The declared state, in order; what a leaf really has is `fields_of`."""
        return tuple(
            dict.fromkeys(
                Field(self._state_names[i, k], sort)
                for i, link in enumerate(self.all_links)
                for k, sort in link.definition.fields.items()
            )
        )

    def fields_of(self, leaf: Leaf) -> tuple[Field, ...]:
        """The state of one leaf: without the fields that these options, or this leaf's shape, leave None."""
        kept = self.program(leaf).output
        return tuple(f for f in self.fields if any(part in kept for part in f.inputs))

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """What the training loop must supply beyond gradients."""
        asked = {name for link in self.all_links for name in link.definition.positional}
        return tuple(name for name in EXTRAS if name in asked)

    @property
    def name(self) -> str:
        return " + ".join(link.definition.name for link in self.all_links)

    @cached_property
    def structure(self) -> tuple[Structure | Choice, ...]:
        return self._structures(self.links, count(), count())

    def _structures(
        self, links: Sequence[Link | Partition], numbers: Iterator[int], of_partitions: Iterator[int]
    ) -> tuple[Structure | Choice, ...]:
        made: list[Structure | Choice] = []
        for link in links:
            if isinstance(link, Partition):
                number = next(of_partitions)
                alternatives = tuple(self._structures(r.links, numbers, of_partitions) for r in link.rules)
                made.append(Choice(link.policy, number, alternatives))
            else:
                inner = self._structures(link.inner.links, numbers, of_partitions) if link.inner else ()
                made.append(self._structure(link, next(numbers), inner))
        return tuple(made)

    def _structure(self, link: Link, i: int, inner: tuple[Structure | Choice, ...]) -> Structure:
        return Structure(
            link.definition,
            link.options,
            tuple((type(value), exact(value)) for _, value in link.options),
            tuple((k, self._hyper_names[i, k]) for k in link.hyper),
            tuple((k, self._state_names[i, k]) for k in link.definition.fields),
            inner,
        )

    def of_leaf(self, leaf: Leaf) -> Rule:
        """The rule that one leaf has, partitions decided."""
        return Rule(tuple(_links_of(self.links, leaf)))

    def program(self, leaf: Leaf = Leaf()) -> Program:  # noqa: B008 - frozen
        """The traced update: outputs `update`, `p` (after it), `state.*`, and `applied` if it can be skipped."""
        return traces(self.structure).of(leaf).update

    def init_program(self, leaf: Leaf = Leaf()) -> Program:  # noqa: B008 - frozen
        """The traced initial state, from `p` and hyperparameters."""
        return traces(self.structure).of(leaf).init

    def eval_program(self, leaf: Leaf = Leaf()) -> Program:  # noqa: B008 - frozen
        """The traced parameter to evaluate, output `p`: of state, hyperparameters and `p`, which it is by default."""
        return traces(self.structure).of(leaf).evaluated

    def state_shapes(self, leaf: Leaf) -> dict[str, tuple[int, ...]]:
        """The shapes of a leaf's array states, by name, where they are not the leaf's."""
        program = self.init_program(leaf)
        if program.is_elementwise:
            return {}
        shapes = program.shapes(lambda name: leaf.shape)
        return {f.name: shapes[program.output[f.inputs[0]]] for f in self.fields_of(leaf) if f.is_array}

    def __reduce__(self) -> Any:
        return Rule, (self.links,)

    def __deepcopy__(self, memo: object) -> Rule:
        return self

    def __repr__(self) -> str:
        links = [_describe(link) for link in self.links]
        return links[0] if len(links) == 1 else f"chain({', '.join(links)})"

    def __getattr__(self, name: str) -> Any:
        if name in ("init", "update", "step"):
            raise AttributeError(
                f"a rule has no .{name}, it is a formula: trainfn_jax.transform(rule) makes an optax transformation of "
                "it, trainfn_torch.Optimizer(params, rule) an optimizer, and trainfn.reference runs it in numpy."
            )
        return object.__getattribute__(self, name)  # raises what it raised before

    def __str__(self) -> str:
        if any(self._paths):
            return "\n\n".join(f"for {case}\n{rule}" for case, rule in _of_each_case(self))
        program = self.program()
        return str(program.keep(name for name in program.output if name != "update"))


def chain(*rules: Rule) -> Rule:
    """One rule out of several: each takes what the one before made of the gradient; the last one's is the update."""
    for r in rules:
        _expect_rule("chain", r)
    if not rules:
        raise TypeError("chain needs at least one rule.")
    return Rule(tuple(link for r in rules for link in r.links))


def partition(cases: Mapping[Any, Rule], otherwise: Rule | None = None) -> Rule:
    """Another rule for each part of the model: each leaf has that of the one case it is, or `otherwise`.

        partition({"*embedding*": sgd(lr=0.1), lambda leaf: leaf.ndim == 2: muon(lr=0.02)}, otherwise=adamw(lr=3e-4))

    A case is a pattern of the leaf's name (`*` is anything, also dots and slashes), several patterns in a tuple, or a
    function of the leaf that says yes or no.  Reductions over the model are over the leaves that have the rule.
    Hyperparameters of one name are one, with a value for each leaf.  `trainfn.preview.leaves` shows who got what.

    A leaf that is two cases or none, and a case that no leaf is, are errors.  What gates or counts updates of the
    whole model (`skip_if_not_finite`, `accumulate`) stands around the partition.
    """
    rules = [*cases.values(), *([] if otherwise is None else [otherwise])]
    if not rules:
        raise ValueError("partition needs at least one case, or otherwise=.")
    for r in rules:
        _expect_rule("partition", r)
    policy = Policy(tuple(cases), tuple(range(len(cases))), len(cases) if otherwise is not None else None)
    return Rule((Partition(policy, tuple(rules)),))


def _expect_rule(what: str, r: Any) -> None:
    if not isinstance(r, Rule):
        raise TypeError(f"{what} takes rules with their hyperparameters, such as adamw(lr=1e-3), not {r!r}.{_hint(r)}")


def _hint(r: Any) -> str:
    """What is to be written instead of something that is taken for a rule."""
    if isinstance(r, Definition):
        return f" Write {r.name}() for its defaults."
    if isinstance(r, list | tuple) and not hasattr(r, "_fields"):
        return " Give each by itself, as in chain(*rules)."
    if hasattr(r, "init") and hasattr(r, "update"):
        return " trainfn_jax.chain takes transformations of optax."
    return ""


def names_in(whole: Rule, part: Rule, first: int) -> dict[str, str]:
    """What the state of a part of a rule is called in the whole, in which it begins with the `first` of all links."""
    return {name: whole.state_name(first + i, key) for (i, key), name in part._state_names.items()}


def resolve(rule: Rule, leaf: Leaf) -> dict[str, Any]:
    """Each hyperparameter's value for one leaf: leaf functions are asked; schedules stay schedules."""
    return {name: hyperparameters.resolve(rule.name, name, value, leaf) for name, value in rule.hyper.items()}


def numbers_of_model(rule: Rule, leaf: Leaf) -> frozenset[tuple[str, str]]:
    """Pairs of a state of the model and a hyperparameter it is computed from in the leaf's program."""
    of_model = tuple(name for f in rule.fields if f.is_of_model for name in f.inputs)
    return _reached(rule.program(leaf), of_model, tuple(rule.hyper)) if of_model else frozenset()


@lru_cache(maxsize=4096)
def _reached(program: Program, outputs: tuple[str, ...], hyper: tuple[str, ...]) -> frozenset[tuple[str, str]]:
    """Which of the outputs is computed from which of the inputs, but for what goes through a sum over the model."""
    reached: set[tuple[str, str]] = set()
    for name in outputs:
        stack, seen = [program.output[name]] if name in program.output else [], set[int]()
        while stack:
            i = stack.pop()
            node = program.nodes[i]
            if i not in seen and not node.is_reduction:
                seen.add(i)
                stack += node.args
                if node.op == "input" and node.static in hyper:
                    reached.add((name, str(node.static)))
    return frozenset(reached)


def check_agreement(rule: Rule, leaves: Iterable[tuple[Leaf, Mapping[str, Any]]]) -> None:
    """Raise if a number of the model would be another one as each leaf computes it.

    `leaves` are given with the values of their hyperparameters, equal if and only if they are the same number.
    """
    if not any(f.is_of_model for f in rule.fields):
        return
    known: dict[tuple[str, str], tuple[Leaf, Any]] = {}
    for leaf, values in leaves:
        for output, name in sorted(numbers_of_model(rule, leaf)):
            other, value = known.setdefault((output, name), (leaf, values[name]))
            if values[name] != value:
                raise ValueError(
                    f"{rule.name}: {name} is another number for leaf {leaf.name!r} than for leaf {other.name!r}, and "
                    f"{output.removeprefix('state.')}, which belongs to the whole model, is computed from it: give "
                    "every leaf the same."
                )


def check_weight(rule: Rule, weight: Any) -> None:
    """Raise if a loop says of how many losses the gradient is a sum and the rule would leave it one.

    A loss that no rule asks for changes nothing, so loops may supply it to every rule.
    """
    if weight is not None and "weight" not in rule.extras:
        raise ValueError(
            f"{rule.name} does not divide the gradient by its weight: put accumulate(..., k=1) around it, or supply "
            "the gradient of a mean, without a weight."
        )


# -- definitions -------------------------------------------------------------------------------------------------------


@typing.overload
def rule(function: Callable[..., Any]) -> Definition: ...
@typing.overload
def rule(*, check: Callable[..., None]) -> Callable[[Callable[..., Any]], Definition]: ...
def rule(function: Any = None, *, check: Callable[..., None] | None = None) -> Any:
    """Make a rule of a function; the module's docstring says what its signature means.

    `@rule(check=...)` makes one of which `check`, called with the inner rule if there is one and with hyperparameters
    and options by name, says what is wrong with them when they are given.

    What a rule does to numbers is seen by running it on numpy arrays, one leaf or several by name:

        from trainfn import reference

        params = {"w": numpy.ones(3, numpy.float32)}
        state = reference.init(myrule(lr=0.1), params)
        updates, state = reference.update(myrule(lr=0.1), state, grads, params)

    `print(myrule())` shows its formulas, `print(myrule().program(Leaf("w", (3, 4))))` those for a matrix.
    """
    if check is not None:
        return lambda function: replace(rule(function), check=check)
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"@rule makes a rule of a function, not of {function!r}.")
    name = function.__name__
    parameters = inspect.signature(function).parameters.values()
    positional = tuple(p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY)
    unknown = [n for n in positional if n not in POSITIONAL]
    if unknown:
        raise TypeError(
            f"rule {name}: {', '.join(unknown)} is nothing a rule can ask for, which is step, state, g, p; value, "
            "the loss, and weight; of a gradient scaler grad_scale and found_inf; around another rule inner. "
            "Hyperparameters stand after `*`."
        )
    hints = _hints(name, function)
    keywords = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    taken = sorted(RESERVED & keywords.keys())
    if taken:
        raise TypeError(f"rule {name}: {', '.join(taken)} is a word of its own and cannot name a hyperparameter.")
    options = frozenset(n for n in keywords if "static" in getattr(hints.get(n), "__metadata__", ()))
    optional = frozenset(n for n in keywords if type(None) in typing.get_args(hints.get(n)))
    state = hints.get("state") if "state" in positional else None
    if "state" in positional:
        _check_state(name, state, keywords)
    return Definition(function, name, positional, keywords, options, optional, state)


def _hints(name: str, annotated: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(annotated, include_extras=True)
    except NameError as error:
        error.add_note(
            f"while reading the annotations of rule {name}: what they name must be defined at the top level of the "
            "module, or leave out `from __future__ import annotations`"
        )
        raise


def _find(module: str, name: str) -> Any:
    """A definition by its place: what unpickling calls."""
    return operator.attrgetter(name)(importlib.import_module(module))


def _check_state(name: str, state: Any, keywords: Mapping[str, Any]) -> None:
    if not (isinstance(state, type) and hasattr(state, "_fields")):
        raise TypeError(f"rule {name}: annotate `state` with a NamedTuple of Array, LeafScalar or ModelScalar fields.")
    _hints(name, state)
    for field_name, (sort, _) in field_sorts(state).items():
        if sort not in SORTS_OF_STATE:
            allowed = ", ".join(s.__name__ for s in SORTS_OF_STATE)
            raise TypeError(f"rule {name}: state field {field_name} is annotated {sort}; it can be {allowed}.")
        if field_name in RESERVED or field_name in keywords:
            why = "names a hyperparameter too" if field_name in keywords else "is a word of its own"
            raise TypeError(f"rule {name}: {field_name} {why} and cannot name a state field.")


# -- names -------------------------------------------------------------------------------------------------------------


def _walk(links: Sequence[Link | Partition], path: Path = ()) -> Iterator[tuple[Link, Path]]:
    for link in links:
        if isinstance(link, Partition):
            for k, r in enumerate(link.rules):
                yield from _walk(r.links, (*path, (link.policy, k)))
        else:
            if link.inner is not None:
                yield from _walk(link.inner.links, path)
            yield link, path


def _links_of(links: Sequence[Link | Partition], leaf: Leaf) -> Iterator[Link]:
    for link in links:
        if isinstance(link, Partition):
            yield from _links_of(link.rules[link.policy.choice(leaf)].links, leaf)
        else:
            yield link if link.inner is None else replace(link, inner=link.inner.of_leaf(leaf))


def _of_each_case(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """The rules that leaves have of one with a partition, each with the case that the leaf is."""
    for i, link in enumerate(rule.links):
        if isinstance(link, Partition):
            some = [(case, r.links) for case, r in zip(link.policy.names, link.rules, strict=True)]
        elif link.inner is not None and any(link.inner._paths):
            some = [(case, (replace(link, inner=r),)) for case, r in _of_each_case(link.inner)]
        else:
            continue
        for case, links in some:
            yield case, Rule((*rule.links[:i], *links, *rule.links[i + 1 :]))
        return


Entry = tuple[int, str]


def _unique_names(
    entries: Sequence[Entry],
    links: Sequence[Link],
    clash: Callable[[Entry, Entry], bool],
    others: Mapping[Entry, set[str]] = types.MappingProxyType({}),
) -> dict[Entry, str]:
    """A name for each entry, which is none of the others; those that do not clash may have the same."""
    names: dict[Entry, str] = {}
    for entry in reversed(entries):
        i, key = entry
        owner = links[i].definition.name
        candidates = [key, f"{owner}.{key}", *(f"{owner}{n}.{key}" for n in range(2, len(links) + 2))]
        taken = {name for other, name in names.items() if clash(entry, other)} | others.get(entry, set())
        names[entry] = next(name for name in candidates if name not in taken)
    return names


def _of_each_leaf(values: Sequence[tuple[Path, Any, Any]]) -> Any:
    """One value of those that the rules of a partition give to hyperparameters of one name, each with its default."""
    distinct = {exact(float(x)) if hyperparameters.is_number(x) else id(x) for _, x, _ in values}
    first_path, first, default = values[0]
    if len(distinct) == 1 and not (first_path and hyperparameters.is_leaf_function(first)):
        return first
    # A leaf whose rule has no such hyperparameter has a number that nothing reads.
    numbers = (x for x in (*(value for _, value, _ in values), default) if hyperparameters.is_number(x))
    return OfEachLeaf(tuple((path, value) for path, value, _ in values), next(numbers, 1.0))


@dataclass(frozen=True)
class OfEachLeaf:
    """A leaf function: the value that the leaf's own rule has; `idle` for a leaf whose rule has none."""

    values: tuple[tuple[Path, Any], ...]
    idle: float

    def __call__(self, leaf: Leaf) -> Any:
        mine = (v for path, v in self.values if all(policy.choice(leaf) == k for policy, k in path))
        value: Any = next(mine, self.idle)
        return value(leaf) if hyperparameters.is_leaf_function(value) else value


def _describe(link: Link | Partition) -> str:
    if isinstance(link, Partition):
        return f"partition({link.policy.describe(link.rules)})"
    arguments = [f"{k}={v!r}" for k, v in link.hyper.items()] + [f"{k}={v!r}" for k, v in link.options]
    inner = [repr(link.inner)] if link.inner else []
    return f"{link.definition.name}({', '.join(inner + arguments)})"
