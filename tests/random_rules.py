"""Random rules: compositions of the vocabulary that nobody would write, and that must mean the same everywhere.

A rule is drawn as a list of instructions, each an operation with numbers that say which of the latest values it takes.
Arrays meet scalars, flags and Python numbers in either order; scalars come from the step, hyperparameters, state and
reductions; conditions are masks, flags, and both together; random numbers are drawn by scalars that may be no words.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from hypothesis import strategies as st

import trainfn as tf
from trainfn import verbs

NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 0.1, 1e-8, 1e30, 1e-40, -1e-39)
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum")
UNARY = ("sqrt", "neg", "abs", "sign", "rounded")
CHANCE = ("uniform_like",)  # normal numbers are made of these, in many operations
CHOICES = ("where mask", "where flag", "where both")
SCALARS = ("combine", "compare", "of leaf", "of model")
WHOLE = ("row", "column", "product", "product if")

Instruction = tuple[str, int, int, int]
_INDEX = st.integers(0, 11)
_OPERATIONS = st.sampled_from(BINARY * 2 + UNARY + CHANCE + CHOICES * 2 + SCALARS * 2)
_ALONG_AXES = st.one_of(_OPERATIONS, st.sampled_from(WHOLE))


def _instructions(operations: st.SearchStrategy[str]) -> st.SearchStrategy[list[Instruction]]:
    return st.lists(st.tuples(operations, _INDEX, _INDEX, _INDEX), min_size=6, max_size=14)


class Arrays(NamedTuple):
    a: tf.Array
    b: tf.Array
    c: tf.Array
    d: tf.Array


class Everything(NamedTuple):
    a: tf.Array
    b: tf.Array
    c: tf.Array
    d: tf.Array
    own: tf.LeafScalar
    exact: tf.LeafPair
    shared: tf.ModelScalar


@st.composite
def rules(draw: st.DrawFn, along_axes: bool = False) -> tf.Rule:
    """A rule, with a state of arrays alone or of every sort."""
    instructions = draw(_instructions(_ALONG_AXES if along_axes else _OPERATIONS))
    numbers = [draw(st.sampled_from(NUMBERS)) for _ in range(3)]
    kind = draw(st.sampled_from([Arrays, Everything]))

    def drawn(step: Any, state: Any, g: Any, p: Any, *, lr: Any = 0.1, cut: Any = 0.7) -> Any:
        values = _Values(numbers, [state.a, state.b, state.c, state.d, p, g], [step, lr, cut])
        if kind is Everything:
            values.of_leaf += [state.exact, state.own]
        for instruction in instructions:
            values.follow(*instruction)
        *last, update = (_spread(x, p) for x in values.arrays[-5:]) if along_axes else values.arrays[-5:]
        if kind is Arrays:
            return update, Arrays(*last)
        own, exact = values.of_leaf[-1], values.of_leaf[-2]
        return update, Everything(*last, own, exact, 0.5 * state.shared + values.of_model[-1])

    drawn.__annotations__["state"] = kind
    return tf.rule(drawn)()


class _Values:
    """What a rule has computed so far: arrays; scalars that may differ between leaves, and those that may not."""

    def __init__(self, numbers: list[float], arrays: list[Any], of_model: list[Any]) -> None:
        self.numbers, self.arrays, self.of_model = numbers, arrays, of_model
        self.of_leaf = list(of_model)
        self.flags = [of_model[0] < 2.0]

    def follow(self, op: str, i: int, j: int, k: int) -> None:
        if op in BINARY:
            x, y = _latest(self.arrays, i), self._operand(j, k)
            self.arrays.append(_binary(op, x, y) if k % 2 else _binary(op, y, x))
        elif op in UNARY:
            self.arrays.append(_unary(op, _latest(self.arrays, i)))
        elif op in CHANCE:
            x = _latest(self.arrays, i)
            self.arrays.append(x * verbs.uniform_like(self.arrays[0], j, _latest(self.of_leaf, k)))
        elif op in CHOICES:
            self._choose(op, i, j, k)
        elif op in WHOLE:
            self._work_along(op, i, j, k)
        else:
            self._compute(op, i, j, k)

    def _operand(self, j: int, k: int) -> Any:
        """An array, a scalar or a Python number."""
        if j % 3 == 0:
            return _latest(self.of_leaf, k)
        return _latest(self.numbers, k) if j % 3 == 1 else _latest(self.arrays, j)

    def _choose(self, op: str, i: int, j: int, k: int) -> None:
        x, y, flag = _latest(self.arrays, i), self._operand(j, k), _latest(self.flags, k)
        mask = x < self._operand(k, j)
        condition = {"where mask": mask, "where flag": flag, "where both": (mask & flag) | ~(x <= 0.0)}[op]
        self.arrays.append(verbs.where(condition, x, y) if i % 2 else verbs.where(condition, y, x))

    def _work_along(self, op: str, i: int, j: int, k: int) -> None:
        """A row or column of sums or maxima, or a product of three matrices, shaped like the leaf.

        Leaves of fewer axes get another array, so that all have as many sums over the model.
        """
        x, y = (_spread(_latest(self.arrays, n), self.arrays[0]) for n in (i, j))
        if x.ndim < 2:
            self.arrays.append((WHOLE.index(op) + 0.3) * x - (k + 0.1) * y)
            return
        if op in ("row", "column"):
            verb = (verbs.axis_sum, verbs.axis_max, verbs.axis_mean)[k % 3]
            self.arrays.append(verb(x, -1 if op == "row" else 0))
            return
        precision = ("high", "highest")[k % 2]
        product = verbs.matmul(verbs.matmul(x, verbs.transpose(y), precision), x, precision)
        is_chosen = op == "product if"
        self.arrays.append(verbs.when(_latest(self.flags, k), product, y) if is_chosen else product)

    def _compute(self, op: str, i: int, j: int, k: int) -> None:
        x = _latest(self.arrays, i)
        if op == "compare":
            self.flags.append(_latest(self.of_leaf, i) < _latest(self.numbers, j))
        elif op == "of leaf":
            self.of_leaf.append((verbs.leaf_sum, verbs.leaf_max, verbs.leaf_norm)[j % 3](x))
        elif op == "of model":
            self._share((verbs.global_sum, verbs.global_max, verbs.global_norm)[j % 3](x))
        else:
            a, b = _latest(self.of_model, i), _latest(self.of_model, j)
            self._share((a + b, a * b, a / b, verbs.sqrt(abs(a)), abs(a) ** 0.7, verbs.floor(-a), a - 0.3)[k % 7])

    def _share(self, x: Any) -> None:
        self.of_model.append(x)
        self.of_leaf.append(x)


def _latest(values: list[Any], i: int) -> Any:
    """Most often the last one: what nothing reads is not in the program."""
    return values[-1 - i * i // 12 % len(values)]


def _spread(x: Any, like: Any) -> Any:
    """x in the shape of the leaf."""
    return verbs.where(abs(like) < math.inf, x, x + 1.0)


def _binary(op: str, x: Any, y: Any) -> Any:
    if op in ("maximum", "minimum"):
        return getattr(verbs, op)(x, y)
    return {"add": lambda: x + y, "sub": lambda: x - y, "mul": lambda: x * y, "div": lambda: x / y}[op]()


def _unary(op: str, x: Any) -> Any:
    return -x if op == "neg" else getattr(verbs, op)(x)
