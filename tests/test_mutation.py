"""Would the tests notice?  Every constant of every traced program is changed, every pair of operands swapped, and
every minimum made a maximum.

Each such mutant must leave the golden trajectory within ten steps, or that of the rule itself where there is no golden
one, for rules of the class *bounded*.  Those that do not are listed in `SURVIVORS`, under the
name that the failing test gives them, with the reason why they compute the same thing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

import trainfn as tf
from tests import golden
from tests.catalogue import ROWS, Row
from tests.executions import steps_of_reference
from trainfn.program import DECOMPOSITIONS, PRODUCTS, Node, Program, Sort

COMMUTATIVE = {"add", "mul", "eq", "and", "or"}  # bit for bit
OTHER = {"minimum": "maximum", "maximum": "minimum"}  # symmetric but for two zeros of unlike sign

# What survives, and why it may.
_SQUARED = "a norm does not ask for the sign of a difference"
_FLOAT16 = "it is of float16; `tests/test_rounding.py` runs both dtypes"
_SIZE = "only the size of Adam's update is asked for"
_NO_ZERO_LEAF = "no leaf or gradient of the golden runs is zero; `tests/test_norms.py` has one"
_RELATIVE_STEP = "1 / sqrt(t) is above 1e-2 for 10,000 steps; the row `adafactor` has a larger lr"
_TINY = "of no golden run is a sum of squares below 1e-30; `tests/test_rules.py` takes cube roots of such"
_EVERY_UPDATE = "every is 1: all updates are due"
_NOT_RENEWED = "bases are made anew after a thousand updates; the row `soap` does so after two"
_FINITE = "golden gradients are finite; `tests/test_guard.py` and `tests/test_loss_scale.py` have others"
SURVIVORS = {
    "adamw_guarded const69: -0 changed": _FINITE,
    "adamw_loss_scaled maximum29: minimum instead": _FINITE,
    "adamw_loss_scaled const31: 3.40282e+38 changed": _FINITE,
    "adamw_loss_scaled const94: -0 changed": _FINITE,
    "madgrad const30: 1.15292e+18 changed": _TINY,
    "madgrad const72: 9.53674e-07 changed": _TINY,
    "dog sub20: operands swapped": _SQUARED,
    "dog_learning_rate sub12: operands swapped": _SQUARED,
    "dowg sub11: operands swapped": _SQUARED,
    "sgd_trusted const18: 1 changed": _NO_ZERO_LEAF,
    "lars const22: 1 changed": _NO_ZERO_LEAF,
    "lars_separate const24: 1 changed": _NO_ZERO_LEAF,
    "rprop sign8: left out": "only the sign of the product is asked for, which underflow alone changes",
    "adabelief sub21: operands swapped": "the difference is squared",
    "acprop sub21: operands swapped": "the difference is squared",
    "sgd_on_plateau maximum42: minimum instead": "what falls below its floor is at its floor, however often it fell",
    "sgd_sam const34: -0 changed": "the inner rule's update is not used in a call in which it does not happen",
    "sgd_sam const37: 1 changed": "it is asked only whether it is above 0",
    "adam_accumulated abs10: left out": "golden gradients are finite; `tests/test_wrappers.py` has infinite ones",
    "adam_accumulated sub83: operands swapped": "sums of these weights are exact in one float32: the difference is 0",
    "adam_grams sub18: operands swapped": _SIZE,
    "adam_grams neg34: left out": _SIZE,
    "adamw_stochastic lt53: operands swapped": _FLOAT16,
    "adamw_stochastic const55: 0.000610352 changed": _FLOAT16,
    "adamw_stochastic const58: 5.96046e-08 changed": _FLOAT16,
    "adamw_stochastic maximum60: minimum instead": _FLOAT16,
    "adamw_stochastic sub74: operands swapped": "only the size of the difference is asked for",
    "came sub62: operands swapped": "the difference is squared",
    "adafactor_paper of b sqrt35: left out": _RELATIVE_STEP,
    "adafactor_paper of b div36: operands swapped": _RELATIVE_STEP,
    "adafactor_paper sqrt54: left out": _RELATIVE_STEP,
    "adafactor_paper div55: operands swapped": _RELATIVE_STEP,
    "shampoo of b sub19: operands swapped": _EVERY_UPDATE,
    "shampoo of b const20: 0.5 changed": _EVERY_UPDATE,
    "shampoo sub24: operands swapped": _EVERY_UPDATE,
    "shampoo const25: 0.5 changed": _EVERY_UPDATE,
    "adagrad_shampoo of b neg21: left out": "the inner update's length alone is asked for",
    "adagrad_shampoo neg23: left out": "the inner update's length alone is asked for",
    "soap_in_its_first_bases orthogonal81: left out": _NOT_RENEWED,
    "soap_in_its_first_bases orthogonal86: left out": _NOT_RENEWED,
}


@dataclass(frozen=True, eq=False)
class Mutant(tf.Rule):
    """A rule of which one program, that of some leaves, was tampered with."""

    intact: Program | None = None
    mutated: Program | None = None

    def program(self, leaf: tf.Leaf = tf.Leaf()) -> Program:  # noqa: B008
        program = super().program(leaf)
        if program != self.intact:
            return program
        assert self.mutated is not None
        return self.mutated


def mutations(program: Program) -> Iterator[tuple[str, Program]]:
    """Programs one change away from this one, each with a name for the change."""
    for i, node in enumerate(program.nodes):
        for what, changed in _changes(node):
            nodes = (*program.nodes[:i], changed, *program.nodes[i + 1 :])
            yield f"{node.op}{i}: {what}", replace(program, nodes=nodes)


def _changes(node: Node) -> Iterator[tuple[str, Node]]:
    if node.op == "const":
        assert isinstance(node.static, float)
        yield f"{node.static:g} changed", replace(node, static=node.static + 1.0 if math.isfinite(node.static) else 0.0)
    elif node.op in ("where", "when"):
        condition, x, y = node.args
        yield "branches swapped", replace(node, args=(condition, y, x))
    elif node.op in OTHER:
        yield f"{OTHER[node.op]} instead", replace(node, op=OTHER[node.op])
    elif len(node.args) == 2 and node.args[0] != node.args[1] and _has_order(node):
        yield "operands swapped", replace(node, args=node.args[::-1])
    elif node.op in {"neg", "sqrt", "abs", "sign", *DECOMPOSITIONS}:
        yield "left out", Node("meet" if node.sort is Sort.ARRAY else "single", node.args, node.sort)


def _has_order(node: Node) -> bool:
    return node.op not in COMMUTATIVE | PRODUCTS and not node.is_reduction  # shapes do not fit the other way round


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_mutant_is_noticed(row: Row) -> None:
    rule = row.rule()

    given = golden.given(rule, golden.STEPS[0], row.dtype)
    expected = list(golden.digests(steps_of_reference(rule, *given)))
    assert row.is_bounded or expected[-1] == golden.expected(row.name)[0]

    def is_noticed(intact: Program, mutated: Program) -> bool:
        steps = golden.digests(steps_of_reference(Mutant(rule.links, intact, mutated), *given))
        return any(actual != due for actual, due in zip(steps, expected, strict=True))

    programs = {rule.program(tf.Leaf(name, shape)): name for name, shape in reversed(golden.SHAPES.items())}
    unnoticed = []
    for program, leaf in programs.items():
        assert not is_noticed(program, program)
        for name, mutated in mutations(program):
            key = f"{row.name} {name}" if leaf == "w" else f"{row.name} of {leaf} {name}"
            if not is_noticed(program, mutated):
                unnoticed += [] if key in SURVIVORS else [f"    {key!r}: {_difference(mutated, program)}"]
    assert not unnoticed, "\n".join(["No golden trajectory noticed that", *unnoticed, REMEDY])


REMEDY = """\
Add a row to tests/catalogue/ that notices it. If none could, because the changed program computes the same, make each
of these a key of SURVIVORS in tests/test_mutation.py; the argument is its value."""


def _difference(mutated: Program, program: Program) -> str:
    """The formulas that are others now."""
    formulas = str(program).splitlines()
    return "; ".join(line.strip() for line in str(mutated).splitlines() if line not in formulas)
