"""A step's parameters ready for execution, and kept as long as they stay what they were.

Users and wrappers may exchange anything between steps: gradients always, now and then parameters' memory, state
entries, whole groups.  A step therefore looks at every object again; it does so in lists at C speed, and makes a plan
anew only if some object is another one.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, count
from operator import attrgetter, is_, is_not
from types import ModuleType
from typing import Any

import torch

from trainfn.program import Program
from trainfn.rule import Rule
from trainfn_torch import executions
from trainfn_torch.leaf import LeafUpdate
from trainfn_torch.names import Names
from trainfn_torch.tensors import has_numbers, is_plain, is_sharded, placed_like, plain, real

_STRIDED = {torch.strided}
_fresh_ages = count(1)


class Slot:
    """One parameter with its gradient and state, as an execution takes it."""

    def __init__(
        self,
        program: Program,
        p: torch.Tensor,
        state: dict[str, Any],
        hyper: dict[str, Any],
        names: Names,
        model: Mapping[str, torch.Tensor],
        shapes: Mapping[str, tuple[int, ...]],
        stream: float,
        preferred: str | None,
    ) -> None:
        self.p, self.program, self.state, self.hyper = p, program, state, hyper
        self.is_plain = is_plain(p) and not p.is_complex()
        self.is_sharded = is_sharded(p)
        # A shard is updated as any tensor is, unless the execution must know of which whole it is one.
        self._is_shown = self.is_sharded and (program.has_reductions or program.is_random)
        assert p.grad is not None
        kept = {name.removesuffix(".high") for name in program.output}
        shared = {name: x for name, x in model.items() if f"state.{name}" in kept}
        own = {names.field[name]: self._view(x) for name, x in state.items() if name != "step"}
        self.leaf = LeafUpdate(
            program=program,
            p=self._view(p),
            g=self.gradient(p.grad),
            state={**own, **shared},
            step=state["step"],
            hyper=ChainMap({"stream.leaf": stream}, hyper) if program.is_random else hyper,
            model=frozenset(shared),
            shapes=shapes,
        )
        self._values = list(state.values())
        self._memory = self._look()
        self.execution: ModuleType = executions.choose(self.leaf, preferred)

    def _view(self, x: torch.Tensor) -> torch.Tensor:
        return real(x) if self._is_shown else plain(real(x))

    def is_still(self, program: Program, state: dict[str, Any], hyper: dict[str, Any]) -> bool:
        """Whether this is the slot of these objects, and of the same memory."""
        return (
            program is self.program
            and state is self.state
            and hyper is self.hyper
            and _are_same(list(state.values()), self._values)
            and not self.has_moved()
        )

    def has_moved(self) -> bool:
        """Whether the parameter or its state is in other memory, or laid out otherwise, than its views say."""
        return self._look() != self._memory

    def _look(self) -> list[tuple[Any, ...]]:
        tensors = (plain(x) for x in (self.p, *self._values) if isinstance(x, torch.Tensor))
        return [(x.data_ptr() if has_numbers(x) else 0, x.shape, x.stride(), x.dtype) for x in tensors]

    def gradient(self, g: torch.Tensor) -> torch.Tensor:
        return self._view(placed_like(g, self.p))


class Plan:
    """The slots of a step.

    rules: the rule each group runs.
    params, grads: of all groups, in order; the gradient may be None.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        params: Sequence[torch.Tensor],
        grads: Sequence[torch.Tensor | None],
        slots: Sequence[Slot],
        state: Mapping[torch.Tensor, dict[str, Any]],
    ) -> None:
        self._rules, self._params = list(rules), list(params)
        self._given = list(map(_is_given, grads))
        self.slots = list(slots)
        self._leaves = [slot.leaf for slot in slots]
        self._states = list(state.values())
        self._kept = [slot.state for slot in slots]
        self._entries = list(chain.from_iterable(map(dict.values, self._kept)))
        self._odd = [slot for slot in slots if not slot.is_plain]
        self.sharded = [slot.p for slot in slots if slot.is_sharded]
        self._batches = executions.batches([(slot.leaf, slot.execution) for slot in slots])
        _tell_ages(slots)

    def fits(
        self,
        rules: Sequence[Rule],
        params: Sequence[torch.Tensor],
        grads: Sequence[torch.Tensor | None],
        state: Mapping[torch.Tensor, dict[str, Any]],
    ) -> bool:
        """Whether this plan is one for these objects."""
        return (
            _are_same(rules, self._rules)
            and _are_same(params, self._params)
            and list(map(_is_given, grads)) == self._given
            and set(map(_layout, filter(_is_given, grads))) <= _STRIDED
            and _are_same(list(state.values()), self._states)
            and _are_same(list(chain.from_iterable(map(dict.values, self._kept))), self._entries)
            and not any(slot.has_moved() for slot in self._odd)
        )

    def run(self, grads: Sequence[torch.Tensor | None], updates: torch.Tensor) -> None:
        """One update with these gradients."""
        present = [g for g in grads if g is not None]
        for leaf, g in zip(self._leaves, present, strict=True):
            leaf.g = g
        for slot in self._odd:
            slot.leaf.g = slot.gradient(slot.leaf.g)
        executions.run(self._batches, updates)
        if self.sharded:  # they were written through their shards, which autograd does not see
            torch.autograd.graph.increment_version(self.sharded)


_layout = attrgetter("layout")
_is_given = partial(is_not, None)


def _are_same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


def _tell_ages(slots: Sequence[Slot]) -> None:
    """Mark which leaves have equal steps, where no host may ask at every step.

    Leaves of one plan are updated together: those that were of equal age before are so afterwards, and differ from
    leaves that rest.  Of a new leaf the step is read, this once.
    """
    ages: dict[Any, int] = {}
    for slot in slots:
        leaf = slot.leaf
        if leaf.step.device.type != "cpu" and has_numbers(leaf.step):
            before: Any = leaf.age or ("new", float(leaf.step))
            leaf.age = ages[before] = ages.get(before) or next(_fresh_ages)
