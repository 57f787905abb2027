"""Tracing: running a rule once on symbols, to record what it computes.

A rule is an ordinary Python function.  Called with the handles below instead of numbers, every operator and verb
appends a node to a graph, and equal nodes are appended once.  What cannot be recorded - branching on a value, asking
for it as a number, handing it to numpy - is refused with the verb that says the same thing.
"""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn, TypeAlias, TypeVar

from trainfn.program import WHOLE, Node, Program, Sort, shape_of

T = TypeVar("T")
Static: TypeAlias = Annotated[T, "static"]  # an option that chooses the program


class TraceError(TypeError):
    """A rule or schedule did something with a traced value that a program cannot express."""

    where = ""  # the rule or schedule, once it is known

    def __str__(self) -> str:
        message = super().__str__()
        return f"{self.where}: {message}" if self.where else message


class NoSuchMethod(TraceError, AttributeError):
    """A rule called a method of arrays; rules use verbs.  An AttributeError too, which is what `hasattr` asks for."""


@contextmanager
def tracing(what: str, leaf: Leaf | None = None) -> Iterator[None]:
    """Errors inside say which rule or schedule they are about."""
    try:
        yield
    except TraceError as error:
        error.where = error.where or what
        raise
    except Exception as error:
        if f"{__name__}." not in str(error):
            of_leaf = f" for leaf {leaf.name!r} of shape {leaf.shape}" if leaf else ""
            error.add_note(f"while tracing {what}{of_leaf}")
            raise
        refusal = TraceError(_of_a_library(str(error)))
        refusal.where = what
        raise refusal from error


def _of_a_library(message: str) -> str:
    """For a library's complaint about the class of a handle.

    JAX asks a value it does not know nothing that would say which function was called, but its message names it.
    """
    found = re.search(r"<function _*(?:reduce_)?(\w+)|^(\w+) requires|passed to (\w+) at", message)
    remedy = _remedy(next(filter(None, found.groups()))) if found else "Use the verbs of trainfn.verbs."
    first = message.partition("\n")[0]
    return f"a function of another library was given what has no numbers while a rule is traced. {remedy} ({first})"


@dataclass(frozen=True)
class Leaf:
    """What is known of one tensor of the model before any number is: its name and its shape.

    is_pairs: whether it is a complex tensor, seen as pairs of real numbers along a last axis.
    """

    name: str = ""
    shape: tuple[int, ...] = ()
    is_pairs: bool = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def answer(leaf: Leaf, question: Any) -> Any:
    """A fact of the leaf, or what a policy chooses, which is asked about the tensor that the user knows."""
    if isinstance(question, str):
        return getattr(leaf, question)
    return question.choice(Leaf(leaf.name, leaf.shape[:-1]) if leaf.is_pairs else leaf)


class Graph:
    """The nodes recorded so far, each once."""

    def __init__(self, leaf: Leaf | None = None, states: Mapping[str, tuple[int, ...]] | None = None) -> None:
        self.leaf = leaf
        self.shapes: list[tuple[int, ...]] = []  # of each node's value, where there is a leaf
        self._states = states or {}  # shapes of array states that are not shaped like the leaf
        self.facts: dict[Any, Any] = {}  # what was asked about the leaf, and answered
        self.nodes: list[Node] = []
        self.labels: dict[int, str] = {}
        self.gates: list[Flag] = []  # unless all hold, nothing happens
        self.unrounded: Value | None = None  # the update, where it is added to the parameter as it is
        self.counts: list[Flag] = []  # unless all hold, no counter advances
        self.some = ""  # of which leaves the part that is traced is: "" is all, else those of a rule in a partition
        self.watch: Callable[[], None] | None = None  # called whenever something is computed
        self._index: dict[Node, int] = {}

    def emit(self, op: str, args: tuple[int, ...], sort: Sort, static: Hashable = None) -> Value:
        node = Node(op, args, sort, static)
        # 0.0 == -0.0 and 1 == True, but they are different constants.
        key = Node(op, args, sort, exact(static))
        index = self._index.get(key)
        if index is None:
            if self.leaf is not None:
                self.shapes.append(self._shape(node))
                if op in WHOLE:  # which fit together, or not, by what the leaf's shape is
                    self.ask("shape")
            index = self._index[key] = len(self.nodes)
            self.nodes.append(node)
        if self.watch is not None:
            self.watch()
        return _HANDLES[sort](self, index)

    def ask(self, question: Any) -> Any:
        """What is known of the leaf: one of its facts, by name, or what a policy chooses; the program depends on it."""
        assert self.leaf is not None
        return self.facts.setdefault(question, answer(self.leaf, question))

    def _shape(self, node: Node) -> tuple[int, ...]:
        try:
            return shape_of(node, [self.shapes[a] for a in node.args], self.shape_of_input)
        except ValueError as error:
            raise TraceError(f"{error}.") from None

    def shape_of_input(self, name: str) -> tuple[int, ...]:
        assert self.leaf is not None
        return self._states.get(name, self.leaf.shape)

    def input(self, name: str, sort: Sort) -> Value:
        return self.emit("input", (), sort, name)

    def constant(self, value: float) -> Value:
        return self.emit("const", (), Sort.SCALAR, float(value))

    def program(self, outputs: Mapping[str, Value]) -> Program:
        return Program(tuple(self.nodes), tuple((n, v.index) for n, v in outputs.items()), dict(self.labels))


def exact(static: Hashable) -> Hashable:
    """A key that tells 0.0 from -0.0, which are equal."""
    return static.hex() if isinstance(static, float) else static


class Value:
    """A handle on a node.  Arithmetic on handles records nodes."""

    __slots__ = ("graph", "index")
    __hash__ = object.__hash__

    def __init__(self, graph: Graph, index: int) -> None:
        self.graph = graph
        self.index = index

    @property
    def node(self) -> Node:
        return self.graph.nodes[self.index]

    @property
    def sort(self) -> Sort:
        return self.node.sort

    def __repr__(self) -> str:
        from trainfn.formulas import brief

        return f"<traced {self.sort.value} {brief(self.graph.nodes, self.index)}>"

    # -- what a program cannot express, and what to write instead ---------------------------------------------------

    def __bool__(self) -> NoReturn:
        option = "" if self.sort.is_elementwise else f" {_AS_OPTION}"
        raise TraceError(
            f"`if`, `and`, `or`, `not`, `min` or `max` was used on {self!r}, whose numbers are not known while a rule "
            "is traced. Write where(condition, a, b) for a branch, &, | and ~ for logic, minimum and maximum for "
            f"min and max.{option}"
        )

    def __float__(self) -> NoReturn:
        raise TraceError(
            f"{self!r} has no number while a rule is traced, so float(...) and the functions of `math` cannot take it. "
            "Keep it as it is, and use the verbs sqrt, exp, log, cos, floor of trainfn.verbs."
        )

    def __int__(self) -> NoReturn:
        raise TraceError(f"{self!r} has no number while a rule is traced: int(...) cannot take it. Use the verb floor.")

    def __index__(self) -> NoReturn:
        raise TraceError(
            f"{self!r} was used as an index or a loop bound, which must be known while a rule is traced. {_AS_OPTION}"
        )

    def __iter__(self) -> NoReturn:
        raise TraceError(f"{self!r} cannot be iterated over: a rule sees a whole leaf at once.")

    def __len__(self) -> NoReturn:
        raise TraceError(f"len({self!r}) is not defined: use the leaf's .shape or .size.")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NoSuchMethod(f"{self!r} has no .{name}: rules use functions. {_remedy(name)}")

    def __getitem__(self, index: object) -> NoReturn:
        raise TraceError(f"{self!r} cannot be indexed: a rule sees a whole leaf at once. Select with where.")

    def __setitem__(self, index: object, value: object) -> NoReturn:
        raise TraceError(f"{self!r} cannot be changed: make a new value, as in g = where(g > 1, 1, g).")

    def __format__(self, spec: str) -> str:
        if spec:
            raise TraceError(f"{self!r} has no number to format as {spec!r} while a rule is traced.")
        return repr(self)

    def __matmul__(self, other: object) -> NoReturn:
        raise TraceError(
            "@ is not a verb: write matmul(x, y), or for the sum of products leaf_dot(x, y) or global_dot(x, y)."
        )

    def __round__(self, digits: object = None) -> NoReturn:
        raise TraceError("round is not a verb: for a Scalar write floor(x + 0.5).")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        operation = _UFUNC_OPERATORS.get(ufunc.__name__)
        if method == "__call__" and operation and not kwargs and _are_numbers(inputs):
            return operation(*(x if isinstance(x, Value) else float(x) for x in inputs))
        return self._refuse("numpy", ufunc.__name__)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> NoReturn:
        self._refuse("numpy", function.__name__)

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._refuse("numpy", "asarray")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        culprit = next(x for x in _flat([*args, *(kwargs or {}).values()]) if isinstance(x, Value))
        culprit._refuse("torch", function.__name__)

    def _refuse(self, library: str, name: str) -> NoReturn:
        raise TraceError(
            f"{library}.{name} was called on {self!r}, which has no numbers while a rule is traced. {_remedy(name)}"
        )


def _flat(values: Any) -> Iterator[Any]:
    for x in values:
        if isinstance(x, list | tuple):
            yield from _flat(x)
        else:
            yield x


def _remedy(name: str) -> str:
    """What to write instead of a function of a library or a method of its arrays."""
    from trainfn import verbs

    stem = name.strip("_")  # torch's x.mul_(y)
    if stem in _INSTEAD:
        return _INSTEAD[stem]
    same = _SAME.get(stem, stem)
    if same in _OPERATORS:
        return f"Write {_OPERATORS[same]}; an array from outside the rule cannot take part."
    if same in verbs.__all__:
        return f"Use trainfn.verbs.{same}."
    return f"There is no verb for it; the verbs are {', '.join(verbs.__all__)}."


class Number(Value):
    """What arithmetic is defined on: an Array or a Scalar."""

    __slots__ = ()

    def __add__(self, other: Operand) -> Any:
        return emit("add", self, other)

    def __radd__(self, other: Operand) -> Any:
        return emit("add", other, self)

    def __sub__(self, other: Operand) -> Any:
        return emit("sub", self, other)

    def __rsub__(self, other: Operand) -> Any:
        return emit("sub", other, self)

    def __mul__(self, other: Operand) -> Any:
        return emit("mul", self, other)

    def __rmul__(self, other: Operand) -> Any:
        return emit("mul", other, self)

    def __truediv__(self, other: Operand) -> Any:
        return emit("div", self, other)

    def __rtruediv__(self, other: Operand) -> Any:
        return emit("div", other, self)

    def __pow__(self, other: Operand) -> Any:
        return emit("pow", self, other)

    def __rpow__(self, other: Operand) -> Any:
        return emit("pow", other, self)

    def __neg__(self) -> Any:
        return emit("neg", self)

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return emit("abs", self)

    def __lt__(self, other: Operand) -> Any:
        return emit("lt", self, other)

    def __le__(self, other: Operand) -> Any:
        return emit("le", self, other)

    def __gt__(self, other: Operand) -> Any:
        return emit("lt", other, self)

    def __ge__(self, other: Operand) -> Any:
        return emit("le", other, self)

    def __eq__(self, other: object) -> Any:
        return emit("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return emit("not", emit("eq", self, other))

    __hash__ = object.__hash__

    def __mod__(self, other: Operand) -> NoReturn:
        raise TraceError("% is not a verb: of Scalars write x - y * floor(x / y); Arrays have no remainder.")

    def __floordiv__(self, other: Operand) -> NoReturn:
        raise TraceError("// is not a verb: of Scalars write floor(x / y); Arrays have no floor.")

    def _refuse_logic(self, *_: object) -> NoReturn:
        raise TraceError(f"logic was used on {self!r}, which is a number: compare it first, as in x > 0.")

    __rmod__, __rfloordiv__ = __mod__, __floordiv__
    __and__ = __rand__ = __or__ = __ror__ = __xor__ = __rxor__ = __invert__ = _refuse_logic


class Array(Number):
    """A tensor, shaped like the leaf unless it was summed along an axis or made of matrix products.

    In a state: shaped as it is at first, and kept in the parameter's dtype.
    """

    __slots__ = ()

    @property
    def shape(self) -> tuple[int, ...]:
        self.graph.ask("shape")
        return self.graph.shapes[self.index]

    @property
    def ndim(self) -> int:
        self.graph.ask("ndim")
        return len(self.graph.shapes[self.index])

    @property
    def size(self) -> int:
        shape = self.graph.shapes[self.index]
        is_leafs = self.graph.leaf is not None and shape == self.graph.leaf.shape
        self.graph.ask("size" if is_leafs else "shape")
        return math.prod(shape)

    @property
    def name(self) -> str:
        """The leaf's name in the model, as the user's framework spells it."""
        return self.graph.ask("name")  # type: ignore[no-any-return]


class Scalar(Number):
    """One float64 number."""

    __slots__ = ()


class Condition(Value):
    """The result of a comparison: for `where`, `&`, `|` and `~`."""

    __slots__ = ()

    def __and__(self, other: Condition) -> Any:
        return emit("and", self, other)

    def __or__(self, other: Condition) -> Any:
        return emit("or", self, other)

    def __invert__(self) -> Any:
        return emit("not", self)

    __rand__, __ror__ = __and__, __or__

    def _refuse_arithmetic(self, *_: object) -> NoReturn:
        raise TraceError(
            f"arithmetic or a comparison was used on {self!r}, which is a condition: turn it into numbers with "
            "where(c, 1, 0), and combine conditions with &, | and ~."
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse_arithmetic
    __pow__ = __rpow__ = __neg__ = __abs__ = __xor__ = __rxor__ = _refuse_arithmetic
    __lt__ = __le__ = __gt__ = __ge__ = _refuse_arithmetic
    __eq__ = __ne__ = _refuse_arithmetic
    __hash__ = object.__hash__


class Mask(Condition):
    """A condition for each element."""

    __slots__ = ()


class Flag(Condition):
    """One condition for the whole leaf."""

    __slots__ = ()


class LeafScalar(Scalar):
    """In a state: one number per leaf, stored as float32 and widened on load."""

    __slots__ = ()


class ModelScalar(Scalar):
    """In a state: one number for the whole model, stored as float32 and widened on load."""

    __slots__ = ()


class LeafPair(LeafScalar):
    """A `LeafScalar` stored as two float32 numbers, high and low, where 24 bits are too few."""

    __slots__ = ()


class ModelPair(ModelScalar):
    """A `ModelScalar` stored as two float32 numbers, high and low, where 24 bits are too few."""

    __slots__ = ()


Operand: TypeAlias = "Number | float"

_HANDLES: dict[Sort, type[Value]] = {
    Sort.ARRAY: Array,
    Sort.MASK: Mask,
    Sort.SCALAR: Scalar,
    Sort.FLAG: Flag,
}
_SIGNS = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "lt": "<", "le": "<=", "eq": "==", "neg": "-"}
_COMPARISONS = frozenset({"lt", "le", "eq"})
_LOGIC = frozenset({"and", "or", "not"})
_SCALAR_ONLY = {
    "pow": "For a power of an Array write square(x) or sqrt(x), or products of them.",
    "exp": "It is a function of Scalars.",
    "log": "It is a function of Scalars.",
    "cos": "It is a function of Scalars.",
    "floor": "It is a function of Scalars.",
    "exponent": "It is a function of Scalars.",
    "pow2": "It is a function of Scalars.",
    "single": "It is a function of Scalars.",
}
_UFUNC_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {  # for np.float64(2) * g, of which numpy asks us first
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "true_divide": operator.truediv,
    "power": operator.pow,
    "float_power": operator.pow,
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
}
_OPERATORS = {
    "add": "x + y",
    "subtract": "x - y",
    "multiply": "x * y",
    "divide": "x / y",
    "negative": "-x",
    "power": "x**y of Scalars",
    "less": "x < y",
    "less_equal": "x <= y",
    "greater": "x > y",
    "greater_equal": "x >= y",
    "equal": "x == y",
    "logical_and": "x & y of conditions",
    "logical_or": "x | y of conditions",
    "logical_not": "~x of a condition",
}
# Other libraries' names for verbs and operators,
_SAME = {
    "absolute": "abs",
    "amax": "leaf_max",
    "clamp": "clip",
    "div": "divide",
    "dot": "leaf_dot",
    "fabs": "abs",
    "max": "leaf_max",
    "mul": "multiply",
    "neg": "negative",
    "norm": "leaf_norm",
    "ones_like": "full_like",
    "pow": "power",
    "sub": "subtract",
    "sum": "leaf_sum",
    "true_divide": "divide",
    "vdot": "leaf_dot",
}
# and what is written without one.
_AS_WRITTEN = "A rule computes with values as they are: leave it out."
_INSTEAD = {
    "mean": "Write leaf_sum(x) / x.size.",
    "T": "Write transpose(x).",
    "mT": "Write transpose(x).",
    "min": "Write -leaf_max(-x).",
    "amin": "Write -leaf_max(-x).",
    "var": "Write leaf_sum(square(x - mean)) / x.size with mean = leaf_sum(x) / x.size.",
    "std": "Write sqrt(leaf_sum(square(x - mean)) / x.size) with mean = leaf_sum(x) / x.size.",
    "rsqrt": "Write 1 / sqrt(x).",
    "reciprocal": "Write 1 / x.",
    "isnan": "Write x != x.",
    "lerp": "Write (1 - w) * x + w * y.",
    "addcmul": "Write x + value * y * z.",
    "addcdiv": "Write x + value * y / z.",
    "item": "A Scalar is used as it is; its number is not known while a rule is traced.",
    "numel": "Write x.size.",
    "floor_divide": "Of Scalars write floor(x / y).",
    "remainder": "Of Scalars write x - y * floor(x / y).",
    "dtype": "A rule computes in float32, or in float64 for float64 leaves, and does not ask.",
    "real": "Rules see real numbers.",
    **dict.fromkeys(("astype", "clone", "copy", "data", "detach", "device", "float", "numpy", "to"), _AS_WRITTEN),
}
_AS_OPTION = "A parameter that chooses the program is declared as an option: `name: Static[int] = 5`."


def _are_numbers(inputs: tuple[Any, ...]) -> bool:
    return all(isinstance(x, Value) or getattr(x, "ndim", 0) == 0 for x in inputs)


def emit(op: str, *operands: Any) -> Value:
    """Record `op` on handles and Python numbers; elementwise if any operand is, the scalars rounded to meet it."""
    graph = next(x.graph for x in operands if isinstance(x, Value))
    values = [lift(graph, _spoken(op), x) for x in operands]
    _check_sorts(op, values)
    elementwise = any(v.sort.is_elementwise for v in values)
    if elementwise and op in _SCALAR_ONLY:
        array = next(v for v in values if v.sort.is_elementwise)
        raise TraceError(f"{_spoken(op)} was used on {array!r}. {_SCALAR_ONLY[op]}")
    if elementwise and op == "div" and not values[1].sort.is_elementwise:
        op, values[1] = "mul", emit("div", 1.0, values[1])  # the reciprocal, rounded once
    if elementwise:
        values = [meet(v) for v in values]
    boolean = op in _COMPARISONS or op in _LOGIC or (op == "where" and isinstance(values[1], Condition))
    sort = (Sort.MASK if boolean else Sort.ARRAY) if elementwise else (Sort.FLAG if boolean else Sort.SCALAR)
    return graph.emit(op, tuple(v.index for v in values), sort)


def meet(value: Value) -> Value:
    """A value as it enters array arithmetic: a Scalar rounded once to the arrays' dtype, everything else as it is."""
    if value.sort is Sort.SCALAR:
        return value.graph.emit("meet", (value.index,), Sort.ARRAY)
    if value.sort is Sort.FLAG:
        return value.graph.emit("meet", (value.index,), Sort.MASK)
    return value


def lift(graph: Graph, op: str, operand: Any) -> Value:
    if isinstance(operand, Value):
        if operand.graph is not graph:
            raise TraceError(
                f"{operand!r} belongs to another trace: a value was kept from one call of a rule to the next. "
                "What a rule remembers belongs into its state."
            )
        return operand
    if isinstance(operand, bool):
        raise TraceError(
            f"{op} was given the Python bool {operand}: decide with `if` while tracing, or compare values."
        )
    if getattr(operand, "ndim", 0) != 0:
        raise TraceError(
            f"{op} was given an array of shape {operand.shape} from outside the rule. A rule computes with its step, "
            "state, gradient, parameter, hyperparameters and Python numbers only."
        )
    if not isinstance(operand, numbers.Real):
        raise TraceError(
            f"{op} was given {operand!r} ({type(operand).__name__}), which is neither a traced value nor a number."
            f"{_hint(operand)}"
        )
    return graph.constant(float(operand))


def _hint(operand: Any) -> str:
    if type(operand).__name__ == "Schedule":
        return " In a rule give the schedule as a hyperparameter; in a schedule call it with the step."
    return " Write it as a Python number." if hasattr(operand, "item") else ""


def _check_sorts(op: str, values: list[Value]) -> None:
    if op in _LOGIC:
        wrong = next((v for v in values if not isinstance(v, Condition)), None)
        if wrong is not None:
            raise TraceError(f"logic was used on {wrong!r}, which is a number: compare it first, as in x > 0.")
        return
    if op == "where":
        if not isinstance(values[0], Condition):
            raise TraceError(f"where needs a condition first, such as x > 0, and was given {values[0]!r}.")
        values = values[1:]
        if all(isinstance(v, Condition) for v in values):
            return
    wrong = next((v for v in values if isinstance(v, Condition)), None)
    if wrong is not None:
        raise TraceError(
            f"{_spoken(op)} was used on {wrong!r}, which is a condition: turn it into numbers with where(c, 1, 0)."
        )


def _spoken(op: str) -> str:
    """An operation as the rule wrote it."""
    return _SIGNS.get(op, op)
