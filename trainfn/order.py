"""When the nodes of a program are computed one by one, and when the memory of each value can be let go.

Nodes come pass by pass, in the order in which they were written, but for arrays that only a `when` needs: those are its
branch, computed with it if its flag holds.  An example, of ARRAYs and one FLAG, whose outputs are 5 and 7:

    0 g    1 due    2 root    3 mul(0, 0)    4 sqrt(3)    5 when(1, 4, 2)    6 mul(0, 5)    7 when(1, 6, 0)

`together` is {5: (5,), 7: (7,)}: one flag decides both, but 6, which 7 may choose, reads 5.  If it read 4 instead, both
would be decided under the last one, {7: (5, 7)}.  `branches` is {5: (3, 4), 7: (6,)}: nothing but 4 reads 3, nothing
but 5 reads 4, and in updates that are not due no square root is taken.  `due(0)` is all else, (0, 1, 2, 5, 7).
`spent` says that the memory of 3 can go after 4, of 2 after 5, and of 0 and 1 after 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache

from trainfn.program import DECOMPOSITIONS, RANDOM, Program


@lru_cache(maxsize=4096)
def order_of(program: Program) -> Order:
    """The order of a program's nodes, kept with what was found of it."""
    return Order(program)


class Order:
    """When each node of a program is computed."""

    def __init__(self, program: Program) -> None:
        self._nodes, self._levels = program.nodes, program.levels
        self._outputs = set(program.output.values())

    # -- what waits ------------------------------------------------------------------------------------------------

    @cached_property
    def together(self) -> Mapping[int, tuple[int, ...]]:
        """Nodes `when` of one flag that can be decided at once, under the last of them: nothing before it reads any.

        So a branch is computed once for all that a flag decides, such as a state and the update made of it.
        """
        open_: dict[int, list[int]] = {}
        together: list[list[int]] = []
        for i in self._whens:
            flag = self._nodes[i].args[0]
            some = open_.get(flag, [])
            is_read = any(reader <= i for m in some for reader in self._readers[m])
            if not some or is_read or self._levels[some[0]] != self._levels[i]:
                some = open_[flag] = []
                together.append(some)
            some.append(i)
        return {some[-1]: tuple(some) for some in together}

    @cached_property
    def _whens(self) -> tuple[int, ...]:
        return tuple(i for i, node in enumerate(self._nodes) if node.op == "when")

    @cached_property
    def _readers(self) -> Mapping[int, set[int]]:
        """For each node those that read it, and what never comes for an output."""
        readers: dict[int, set[int]] = {i: set() for i in range(len(self._nodes))}
        for i, node in enumerate(self._nodes):
            for a in node.args:
                readers[a].add(i)
        for i in self._outputs:
            readers[i].add(len(self._nodes))
        return readers

    @cached_property
    def _decided_with(self) -> Mapping[int, int]:
        """For each `when` the one it is decided under."""
        return {i: last for last, some in self.together.items() for i in some}

    @cached_property
    def branches(self) -> Mapping[int, tuple[int, ...]]:
        """For each decision the arrays that nothing but its values needs: computed with it, if its flag holds.

        What only a decision in the branch of another needs is in the inner one's.
        """
        branches: dict[int, list[int]] = {i: [] for i in self.together}
        for i, when in sorted(self._computed_with.items()):
            if self._decided_with.get(i, i) == i:
                branches[when].append(i)
        return {when: tuple(branch) for when, branch in branches.items()}

    @cached_property
    def _computed_with(self) -> Mapping[int, int]:
        """For each node of a branch the decision it is computed with, the innermost one."""
        computed_with: dict[int, int] = {}
        for last, decided in sorted(self.together.items(), reverse=True):  # inner ones come later, with the last word
            branch, kept = {*decided}, {self._nodes[i].args[2] for i in decided}
            for i in reversed(range(last)):
                some = self.together.get(self._decided_with.get(i, i), (i,))
                is_only_for_it = all(self._readers[m] <= branch and m not in kept for m in some)
                if i == some[-1] and is_only_for_it and self._can_wait(i):
                    branch.update(some)
                    computed_with.update(dict.fromkeys(some, last))
        return computed_with

    def _can_wait(self, index: int) -> bool:
        """Whether a node is an array that this leaf alone computes: Scalars that meet arrays do so once for all."""
        node = self._nodes[index]
        has_reader = bool(self._readers[index])
        return node.sort.is_elementwise and bool(node.args) and has_reader and node.op not in {"meet", "fill", *RANDOM}

    def decomposes(self, when: int) -> bool:
        """Whether a matrix is decomposed in a branch, or in one inside of it."""
        branch = self.branches[when]
        return any(self._nodes[i].op in DECOMPOSITIONS or (i in self.branches and self.decomposes(i)) for i in branch)

    # -- what comes when --------------------------------------------------------------------------------------------

    def due(self, level: int) -> tuple[int, ...]:
        """The nodes of a level that are computed by themselves: no reductions, and nothing that waits for a `when`."""
        return self._due.get(level, ())

    @cached_property
    def _due(self) -> Mapping[int, tuple[int, ...]]:
        due: dict[int, list[int]] = {}
        for i, node in enumerate(self._nodes):
            waits = i in self._computed_with or self._decided_with.get(i, i) != i
            if not node.is_reduction and not waits:
                due.setdefault(self._levels[i], []).append(i)
        return {level: tuple(nodes) for level, nodes in due.items()}

    @cached_property
    def spent(self) -> tuple[tuple[int, ...], ...]:
        """For each node the values that nothing reads after it, passes run in order: their memory can be let go.

        They stand where it stands, in the same branch or in none; what a branch reads from outside goes with its
        `when`.
        """
        last_reader: dict[int, int] = {}
        kept = set(self._outputs)
        for i, node in enumerate(self._nodes):
            decided = self._decided_with.get(i, i)
            for value in node.args:
                if self._computed_with.get(value) == decided:  # it is what the branch is computed for
                    kept.add(value)
                else:
                    reader = self._beside(value, decided)
                    last_reader[value] = max(last_reader.get(value, reader), reader, key=self._position)
        spent: list[list[int]] = [[] for _ in self._nodes]
        for value, reader in last_reader.items():
            if value not in kept:
                spent[reader].append(value)
        return tuple(map(tuple, spent))

    def _beside(self, value: int, reader: int) -> int:
        """The node that stands where a value does and reads it, be it in its branch."""
        while self._computed_with.get(reader) != self._computed_with.get(value):
            reader = self._computed_with[reader]
        return reader

    def _position(self, index: int) -> tuple[int, bool, int]:
        """The order in which nodes that stand in one place are computed."""
        is_reduction = self._nodes[index].is_reduction
        return 0 if index in self._computed_with else self._levels[index] - is_reduction, is_reduction, index
