"""The fused execution: a whole optimizer step in a few calls, each over all tensors, by compiled kernels.

Leaves that share a program and dtypes form one group, whatever their hyperparameters, shapes and step counts; a step
costs one call per pass and group.  What a kernel is told about tensors (addresses, sizes) is kept from step to step in
a plan, which the batch of leaves holds.  Each step checks, of every tensor it is handed, that type, dtype, device,
shape, strides and lazy bits are those the plan was made for, and reads its address anew; nothing is assumed of a tensor
because it was there before.  With many small tensors this is what a step costs.

Kernels read and write memory directly, so they take plain tensors only (`trainfn_torch.memory`).  A gradient in another
layout is copied into the parameter's.  Where memory turns out to be shared between leaves, or cannot be told apart, the
step is done by `single`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch

from trainfn.interpret import LEAVES_DISAGREE, members
from trainfn.lowering import lower
from trainfn.program import GLOBAL, Program, Sort
from trainfn_torch import memory, single
from trainfn_torch.kernels import cpu, cuda
from trainfn_torch.kernels.compiler import CannotBuild, load
from trainfn_torch.kernels.printer import FORMATS, Kernel, device_source, host_source
from trainfn_torch.leaf import Batch, LeafUpdate, check_shapes
from trainfn_torch.memory import (
    FORMAT_OF,
    Refused,
    apart,
    check_read,
    copied,
    metadata_check,
    must_be_copied,
    not_scalar,
    readable,
)
from trainfn_torch.warn import warn_once

# As many tensors as the processor's nearest caches hold while they are looked at.
_STRETCH = 250


def accepts(leaf: LeafUpdate) -> bool:
    """Whether the kernels take this leaf as it is stored, and can be built; warns once if they cannot be."""
    if refusal(leaf) is not None:
        return False
    try:
        program = _kept(leaf.program)
        _built(_kernel(program, _leaf_formats(leaf, program)), leaf.p.device)
    except CannotBuild as error:
        warn_once(f"trainfn updates parameters by the slower foreach execution, because {error}")
        return False
    return True


@torch.no_grad()
def step(batch: Batch, updates: torch.Tensor | None) -> bool | torch.Tensor:
    """Carry out an update of these leaves in place; returns whether it was applied."""
    leaves = batch.leaves
    grads = [leaf.g for leaf in leaves]
    plan: _Plan | None = batch.kept
    try:
        if plan is None or not plan.look_at(grads):
            plan = batch.kept = None
            plan = _Plan(leaves)
            if not plan.look_at(grads):
                raise Refused("the tensors changed meanwhile")
            batch.kept = plan
        return plan.run(updates)
    except Refused:
        check_shapes(leaves)
        return single.step(batch, updates)


def refusal(leaf: LeafUpdate) -> str | None:
    """Why the kernels do not take this leaf; None if they do."""
    if not leaf.program.is_elementwise:
        return "its program works along axes or multiplies matrices"
    return _refusal(leaf, _kept(leaf.program))


def _refusal(leaf: LeafUpdate, program: Program) -> str | None:
    if program.is_random and not leaf.p.is_contiguous():
        return "its random numbers come in the order of indices, and its elements lie in another in memory"
    return memory.refusal(leaf, *_state_names(program))


# -- programs --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _kept(program: Program) -> Program:
    """What a step stores, in primitives: the update by itself is not asked for."""
    return lower(program.keep(name for name in program.output if name != "update"))


@lru_cache(maxsize=1024)
def _state_names(program: Program) -> tuple[tuple[str, ...], dict[str, int]]:
    """Fields of the state as the optimizer stores them: names of arrays; names and lengths of scalars."""
    named = [(str(n.static), n.sort) for n in program.nodes if n.op == "input"]
    named += [(name, program.nodes[i].sort) for name, i in program.outputs]
    states = [(name.removeprefix("state."), sort) for name, sort in named if name.startswith("state.")]
    arrays = tuple(dict.fromkeys(name for name, sort in states if sort is Sort.ARRAY))
    scalars = {_field_and_offset(name)[0]: 1 for name, sort in states if sort is Sort.SCALAR}
    scalars |= {_field_and_offset(name)[0]: 2 for name, sort in states if sort is Sort.SCALAR and _is_half(name)}
    return arrays, scalars


def _is_half(name: str) -> bool:
    return name.endswith((".high", ".low"))


def _field_and_offset(name: str) -> tuple[str, int]:
    """Where a scalar of the program is stored: the field, and how many bytes into it (pairs hold high, low)."""
    if name.endswith(".high"):
        return name.removesuffix(".high"), 0
    return (name.removesuffix(".low"), 4) if name.endswith(".low") else (name, 0)


# -- plans -----------------------------------------------------------------------------------------------------------


@dataclass
class _Group:
    """Leaves of one kernel, by their positions in the step's list."""

    kernel: Kernel
    device: torch.device
    members: list[int]
    hyper: list[Mapping[str, Any]]  # one for each different mapping, in order
    hyper_of: list[int]
    sizes: list[int]
    launcher: Any = None

    @cached_property
    def states(self) -> tuple[str, ...]:
        """Fields of the state, arrays first."""
        arrays = [n.removeprefix("state.") for n in self.kernel.buffers if n.startswith("state.")]
        return (*arrays, *_state_names(self.kernel.program)[1])

    def written(self, leaves: Sequence[LeafUpdate]) -> Iterator[list[torch.Tensor]]:
        """All tensors of the group's leaves but the gradients, column by column: p, the state, the step."""
        members = [leaves[i] for i in self.members]
        yield [leaf.p for leaf in members]
        for name in self.states:
            yield [leaf.state[name] for leaf in members]
        yield [leaf.step for leaf in members]

    def write_addresses(self, written: np.ndarray[Any, Any] | None, grads: np.ndarray[Any, Any]) -> None:
        """`written` has a row for each column of the tensors written, or is None if they are where they were."""
        launcher, kernel = self.launcher, self.kernel
        launcher.buffers[:, kernel.buffers["g"]] = grads[self.members]
        if written is not None:
            row = {name: i for i, name in enumerate(("p", *(f"state.{name}" for name in self.states)))}
            for name in kernel.buffers.keys() - {"g"}:
                launcher.buffers[:, kernel.buffers[name]] = written[row[name]]
            for i, name in enumerate(kernel.scalar_states):
                stored, offset = _field_and_offset(name)
                launcher.scalar_states[:, i] = written[row[stored]] + np.uint64(offset)
            launcher.steps[:] = written[-1]
        launcher.addresses_changed()

    def read_hyperparameters(self) -> None:
        try:
            self.launcher.set_hyperparameters([[x[name] for name in self.kernel.hypers] for x in self.hyper])
        except KeyError as error:
            raise KeyError(f"the rule reads {error}, which was not given; given: {sorted(self.hyper[0])}") from None


class _Plan:
    """Everything about a step that stays while the optimizer's tensors stay what they are."""

    def __init__(self, leaves: Sequence[LeafUpdate]) -> None:
        programs = _lowered(leaves)
        for i, leaf in enumerate(leaves):
            problem = _refusal(leaf, programs[i])
            if problem is not None:
                raise Refused(f"leaf {i} of {len(leaves)}: {problem}")
        self.groups = _make_groups(leaves, programs)
        _check_agreement(self.groups)
        _make_launchers(self.groups)
        is_shared = len(self.groups) == 1 or self.groups[0].launcher.shares_totals
        self._to_combine = {} if is_shared else _scopes(self.groups)
        self._elements = float(sum(group.launcher.elements for group in self.groups))
        columns = [list(group.written(leaves)) for group in self.groups]
        self._shapes = [(len(c), len(group.members)) for c, group in zip(columns, self.groups, strict=True)]
        self._written = _stretches(list(chain.from_iterable(chain.from_iterable(columns))))
        self._checks = [metadata_check(stretch) for stretch in self._written]
        grads = _stretches([leaf.g for leaf in leaves])
        self._checks_of_grads = [metadata_check(stretch) for stretch in grads]
        # Gradients to be copied: into the parameter's layout, and out of lazy negation.
        self._to_copy = {i: leaf.p for i, leaf in enumerate(leaves) if must_be_copied(leaf.g, leaf.p)}
        self._copies: list[torch.Tensor] = []
        self._addresses: tuple[list[int], list[int]] = ([], [])
        self._intervals = np.empty((0, 2), np.uint64)

    def look_at(self, grads: list[torch.Tensor]) -> bool:
        """Whether this plan is one for these gradients, and its own tensors are still what they were; where all are."""
        written: list[int] = []
        for same, stretch in zip(self._checks, self._written, strict=True):
            if not same(stretch):
                return False
            written += map(torch.Tensor.data_ptr, stretch)
        for same, stretch in zip(self._checks_of_grads, _stretches(grads), strict=True):
            if not same(stretch):
                return False
        self._copies = [copied(grads[i], p) for i, p in self._to_copy.items()]
        for i, g in zip(self._to_copy, self._copies, strict=True):
            grads[i] = g
        self._take_down(written, list(map(torch.Tensor.data_ptr, grads)))
        return True

    def _take_down(self, written: list[int], grads: list[int]) -> None:
        """Write addresses into the tables where they are others than before."""
        if (written, grads) == self._addresses:
            return
        moved = written != self._addresses[0]
        self._addresses = [], []  # if something below raises, all is written again
        table, table_of_grads, start = np.array(written, np.uint64), np.array(grads, np.uint64), 0
        for group, shape in zip(self.groups, self._shapes, strict=True):
            end = start + shape[0] * shape[1]
            group.write_addresses(table[start:end].reshape(shape) if moved else None, table_of_grads)
            start = end
        if moved:
            self._intervals = apart([x for group in self.groups for x in _intervals(group)])
        check_read([_interval(group, "g") for group in self.groups], self._intervals)
        self._addresses = written, grads

    def run(self, updates: torch.Tensor | None) -> bool:
        """Carry out the step on what was last looked at."""
        if updates is not None and not_scalar(self._written[0][0], "the count of updates", updates, 1):
            raise Refused("the count of updates is not where the parameters are")
        for group in self.groups:
            group.read_hyperparameters()
            group.launcher.gather(self._elements)
        is_applied = self._run_levels(updates)
        self._copies = []
        for stretch in self._written if is_applied else ():
            torch.autograd.graph.increment_version(stretch)
        return is_applied

    def _run_levels(self, updates: torch.Tensor | None) -> bool:
        """All passes; the last one of every group, which writes, once it is known that the step is applied."""
        levels = max(group.launcher.levels for group in self.groups)
        for level in range(levels):
            for group in self.groups:
                if level < group.launcher.levels:
                    group.launcher.evaluate(level)
            for group in self.groups:
                if level < group.launcher.levels - 1:
                    group.launcher.run_pass(level)
            for scope, groups in self._to_combine.items():
                _combine(groups, scope, level)
        if not all(group.launcher.is_applied() for group in self.groups):
            return False
        for group in self.groups:
            group.launcher.run_pass(group.launcher.levels - 1)
        for i, group in enumerate(self.groups):
            group.launcher.finish(0 if updates is None or i > 0 else updates.data_ptr())
        return True


def _stretches(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    return [tensors[i : i + _STRETCH] for i in range(0, len(tensors), _STRETCH)]


def _lowered(leaves: Sequence[LeafUpdate]) -> list[Program]:
    known: dict[int, Program] = {}
    for leaf in leaves:
        if id(leaf.program) not in known:
            known[id(leaf.program)] = _kept(leaf.program)
    return [known[id(leaf.program)] for leaf in leaves]


def _make_groups(leaves: Sequence[LeafUpdate], programs: Sequence[Program]) -> list[_Group]:
    members: dict[tuple[int, tuple[tuple[str, str], ...], torch.device], list[int]] = {}
    canonical: dict[Program, int] = {}
    by_identity: dict[int, int] = {}
    for i, (leaf, program) in enumerate(zip(leaves, programs, strict=True)):
        if id(program) not in by_identity:
            by_identity[id(program)] = canonical.setdefault(program, i)
        key = by_identity[id(program)], _leaf_formats(leaf, program), leaf.p.device
        members.setdefault(key, []).append(i)
    return [_make_group(leaves, programs[key[0]], key[1], which) for key, which in members.items()]


def _leaf_formats(leaf: LeafUpdate, program: Program) -> tuple[tuple[str, str], ...]:
    arrays, _ = _state_names(program)
    states = ((f"state.{name}", FORMAT_OF[leaf.state[name].dtype]) for name in arrays)
    return ("p", FORMAT_OF[leaf.p.dtype]), ("g", FORMAT_OF[readable(leaf.g, leaf.p)]), *states


def _make_group(
    leaves: Sequence[LeafUpdate], program: Program, formats: tuple[tuple[str, str], ...], members: list[int]
) -> _Group:
    hyper = {id(leaves[i].hyper): leaves[i].hyper for i in members}
    position = {identity: k for k, identity in enumerate(hyper)}
    hyper_of = [position[id(leaves[i].hyper)] for i in members]
    sizes = [leaves[i].p.numel() for i in members]
    device = leaves[members[0]].p.device
    return _Group(_kernel(program, formats), device, members, list(hyper.values()), hyper_of, sizes)


def _make_launchers(groups: Sequence[_Group]) -> None:
    reductions = sum(r.is_global for r in groups[0].kernel.reductions)
    shared = {group.device: _shared(group.device, reductions) for group in groups}
    for group in groups:
        tables = group.sizes, group.hyper_of, len(group.hyper)
        group.launcher = _launcher(group.kernel, group.device, shared[group.device], *tables)


def _shared(device: torch.device, reductions: int) -> cuda.Shared | None:
    return cuda.Shared(reductions, device) if device.type == "cuda" else None


def _launcher(kernel: Kernel, device: torch.device, shared: Any, *tables: Any) -> Any:
    if device.type == "cuda":
        return cuda.Launcher(kernel, _built(kernel, device), device, shared, *tables)
    return cpu.Launcher(kernel, _built(kernel, device), *tables)


@lru_cache(maxsize=1024)
def _kernel(program: Program, formats: tuple[tuple[str, str], ...]) -> Kernel:
    return Kernel(program, formats)


@lru_cache(maxsize=1024)
def _built(kernel: Kernel, device: torch.device) -> Any:
    if device.type == "cuda":
        return cuda.load(device_source(kernel), device)
    return load(host_source(kernel))


# -- checks ----------------------------------------------------------------------------------------------------------


def _intervals(group: _Group) -> Iterator[np.ndarray[Any, Any]]:
    """[begin, end) of what a group writes."""
    for name in group.kernel.buffers.keys() - {"g"}:
        yield _interval(group, name)
    # One scalar tensor may belong to several leaves: state of the whole model.
    scalars = np.array(sorted(set(group.launcher.scalar_states.reshape(-1).tolist())), np.uint64)
    for x in (scalars, group.launcher.steps):
        yield np.stack([x, x + np.uint64(4)], axis=1)


def _interval(group: _Group, name: str) -> np.ndarray[Any, Any]:
    """[begin, end) of an array of each leaf."""
    width = np.uint64(FORMATS[group.kernel.format[name]])
    begin = group.launcher.buffers[:, group.kernel.buffers[name]]
    if np.any(begin % width):
        raise Refused(f"{name} begins in the middle of a number")
    return np.stack([begin, begin + np.array(group.sizes, np.uint64) * width], axis=1)


def _check_agreement(groups: Sequence[_Group]) -> None:
    """Reductions over several leaves must be the same ones in each of these, and are on one device."""
    scopes, devices = _scopes(groups), {group.device for group in groups}
    flags = {"applied", "counted"} & {name for group in groups for name in group.kernel.program.output}
    if (scopes or flags) and len(devices) > 1:
        raise Refused("the leaves need each other and are on several devices")
    if scopes.keys() - {GLOBAL} and any(device.type == "cuda" for device in devices):
        raise Refused("reductions over some of the leaves are not made on devices")
    for scope, some in scopes.items():
        kinds = [[(r.level, g.kernel.op(r)) for r in g.kernel.reductions if r.scope == scope] for g in some]
        if any(kind != kinds[0] for kind in kinds):
            raise ValueError(LEAVES_DISAGREE)


def _scopes(groups: Sequence[_Group]) -> dict[str, list[_Group]]:
    """The groups that each reduction over several leaves goes over."""
    programs = [group.kernel.program for group in groups]
    scopes = sorted({scope for program in programs for scope in program.scopes})
    return {scope: [groups[k] for k in members(programs, scope)] for scope in scopes}


def _combine(groups: Sequence[_Group], scope: str, level: int) -> None:
    """Give every group the totals of these leaves; the k-th reduction over them is the same one in each."""
    tables = [
        (g.launcher.totals, [k for k, r in enumerate(g.kernel.reductions) if r.scope == scope and r.level == level])
        for g in groups
    ]
    if not tables[0][1]:
        return
    reductions = [r for r in groups[0].kernel.reductions if r.scope == scope and r.level == level]
    parts = np.array([totals[which] for totals, which in tables])
    for k, r in enumerate(reductions):
        with np.errstate(invalid="ignore"):  # infinities of both signs
            total = np.max(parts[:, k]) if r.is_max else np.sum(parts[:, k])  # the sums are exact; NaN wins
        for totals, which in tables:
            totals[which[k]] = total
