"""Programs as text: the formulas of a rule or schedule, each name of which stands for one value.

Where a value is rounded (`meet`, `stored`, `single`) is part of the contract and not of the formula, and so is that a
number is spread over an array (`fill`): none of these is printed.  `m` is a state as it was and `m'` as it will be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from trainfn.program import STATIC, Node, Program

_INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2), "pow": ("**", 4)}
_COMPARE = {"lt": "<", "le": "<=", "eq": "==", "and": "and", "or": "or"}
_SILENT = frozenset({"meet", "stored", "single", "fill"})
_NEGATION = 3
_ATOM = 9

Nodes = Sequence[Node]
Text = Callable[[int, int], str]  # a node's text, in parentheses if it binds less tightly than the level asked for


def cost_and_formulas(program: Program) -> Iterator[str]:
    """The formulas of each pass over the arrays, with the words it moves and the flops it takes."""
    names = _Names(program, {})
    last = len(program.phases) - 1
    for number, phase in enumerate(program.phases):
        yield f"pass {number + 1} of {last + 1}: {phase.words} words and {phase.flops} flops per parameter"
        inside = {*phase.scalars, *phase.elementwise, *phase.reductions}
        yield from (f"  {line}" for line in names.lines(inside, is_last=number == last))
    total = 4 * program.words
    yield f"in all: {program.words} words ({total} bytes in float32) and {program.flops} flops per parameter"


def formulas_of_numbers(program: Program, values: Mapping[str, object]) -> Iterator[str]:
    """The formulas of a program of scalars, with the numbers of those inputs that are known."""
    return _Names(program, values).lines(range(len(program.nodes)), is_last=True)


def brief(nodes: Nodes, index: int, depth: int = 3) -> str:
    """What one value is computed from, for an error message: inputs by name, what lies deeper as an ellipsis."""

    def text(left: int) -> Text:
        def at(i: int, level: int) -> str:
            name = _input(nodes, i)
            if name is not None:
                return name
            return _spell(nodes[i], level, text(left - 1)) if left or not nodes[i].args else "..."

        return at

    return text(depth)(index, 0)


@dataclass
class _Names:
    """What each value of a program is called: outputs first, then the rule's local variables, then t1, t2, ..."""

    program: Program
    values: Mapping[str, object]  # of inputs that are known

    def __post_init__(self) -> None:
        nodes = self.program.nodes
        self.names: dict[int, str] = {}
        self.copies: list[tuple[str, int]] = []  # outputs that are an input, a number, or what another output is
        self.taken = {self._of_input(str(n.static)) for n in nodes if n.op == "input"}
        for name, index in _outputs(self.program):
            self.taken.add(name)
            if index in self.names or not _is_computed(nodes, index):
                self.copies.append((name, index))
            else:
                self.names[index] = name
        for index, name in sorted(self.program.labels.items()):
            self._name(_unrounded(nodes, index), name)
        for index, count in enumerate(_use_counts(nodes)):
            if nodes[index].is_reduction or (count > 1 and nodes[index].op not in {*_SILENT, "neg"}):
                self._name(index, f"t{index}")

    def _name(self, index: int, name: str) -> None:
        if index in self.names or not _is_computed(self.program.nodes, index):
            return
        candidates = [name, *(f"{name}_{n}" for n in range(2, len(self.taken) + 3))]
        self.names[index] = next(c for c in candidates if c not in self.taken)
        self.taken.add(self.names[index])

    def lines(self, indices: Iterable[int], is_last: bool) -> Iterator[str]:
        for i in sorted(indices):
            if i in self.names:
                yield f"{self.names[i]} = {_spell(self.program.nodes[i], 0, self._text)}"
        for name, i in self.copies if is_last else ():
            if name != self._text(i, 0) + "'":  # else it stays what it was
                yield f"{name} = {self._text(i, 0)}"

    def _text(self, index: int, level: int) -> str:
        if index in self.names:
            return self.names[index]
        name = _input(self.program.nodes, index)
        if name is None:
            return _spell(self.program.nodes[index], level, self._text)
        value = self.values.get(name)
        return _number(value, level) if isinstance(value, float) else self._of_input(name)

    def _of_input(self, name: str) -> str:
        return name.removeprefix("state.")


def _outputs(program: Program) -> Iterator[tuple[str, int]]:
    """What is printed of each output: the next parameter and state with a prime, pairs as one number."""
    for name, index in program.outputs:
        if name == "p" or name.startswith("state."):
            if not name.endswith(".low"):  # what the rounding of the high half left
                yield name.removeprefix("state.").removesuffix(".high") + "'", _unrounded(program.nodes, index)
        else:
            yield name, _unrounded(program.nodes, index)


def _unrounded(nodes: Nodes, index: int) -> int:
    while nodes[index].op in _SILENT:
        index = nodes[index].args[0]
    return index


def _input(nodes: Nodes, index: int) -> str | None:
    """The name of an input; also of the sum of a pair's halves, which is how a pair is read."""
    node = nodes[index]
    if node.op == "input":
        return str(node.static)
    if node.op == "add" and all(nodes[a].op == "input" for a in node.args):
        high, low = (str(nodes[a].static) for a in node.args)
        stem = high.removesuffix(".high")
        return stem if (high, low) == (f"{stem}.high", f"{stem}.low") else None
    return None


def _is_computed(nodes: Nodes, index: int) -> bool:
    return nodes[index].op != "const" and _input(nodes, index) is None


def _use_counts(nodes: Nodes) -> list[int]:
    uses = [0] * len(nodes)
    for node in nodes:
        for arg in node.args:
            uses[arg] += 1
    return uses


def _spell(node: Node, level: int, text: Text) -> str:
    """One operation on the texts of what it reads."""
    if node.op == "const":
        assert isinstance(node.static, float)
        return _number(node.static, level)
    if node.op in _SILENT:
        return text(node.args[0], level)
    if node.op == "neg":
        return _wrap("-" + text(node.args[0], _NEGATION), _NEGATION, level)
    if node.op in _INFIX:
        sign, rank = _INFIX[node.op]
        is_power = node.op == "pow"  # a**b**c would be a**(b**c)
        left, right = text(node.args[0], rank + is_power), text(node.args[1], rank + 1)
        return _wrap(f"{left}{sign}{right}" if rank > 1 else f"{left} {sign} {right}", rank, level)
    if node.op in _COMPARE:
        left, right = text(node.args[0], _ATOM), text(node.args[1], _ATOM)
        return f"({left} {_COMPARE[node.op]} {right})"
    if node.op in STATIC:
        return f"{node.op}({', '.join([*(text(a, 0) for a in node.args), str(node.static)])})"
    name = f"{node.static}_{'dot' if len(node.args) > 1 else node.op}" if node.is_reduction else node.op
    return f"{name}({', '.join(text(a, 0) for a in node.args)})"


def _number(value: float, level: int) -> str:
    text = str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return _wrap(text, _NEGATION if text.startswith("-") else _ATOM, level)


def _wrap(text: str, rank: int, level: int) -> str:
    return f"({text})" if rank < level else text
