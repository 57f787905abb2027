"""A lowered program as C text, the same for the CPU and for CUDA.

For each level of a program (its scalars, then a pass over the arrays up to the next reductions) two functions are
printed: `scalars_N`, which evaluates float64 scalars from and into the slots of a row, and `element_N`, which takes
one element of each array it reads, and its index where random numbers are drawn, and gives one of each it writes or
reduces.  What a primitive is, is said in `arithmetic.h`; around the elements `host.h` or `device.h` put a loop.
Nothing here knows any rule.

A row holds what leaves with the same scalars share: `slots` (float64: counts, hyperparameters, scalar state, results
of reductions, scalars a later level needs) and `meets` (scalars rounded to the arrays' dtype, where they meet).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from trainfn.program import DRAWS, Node, Phase, Program, Sort

FORMATS: Mapping[str, int] = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}

# The first slots of every row.
STEP, COUNT_LEAF, COUNT_GLOBAL, FIRST_HYPER = range(4)
_COUNTS = {"step": STEP, "count.leaf": COUNT_LEAF, "count.global": COUNT_GLOBAL}


@dataclass(frozen=True)
class Reduction:
    """How one reduction is accumulated: `kind` names it in the text below."""

    node: int
    level: int
    kind: str
    scope: str | None  # of which leaves, as in the program
    slot: int

    @property
    def is_global(self) -> bool:
        return self.scope is not None

    @property
    def is_max(self) -> bool:
        return self.kind != "sum"


# For each kind of reduction: the type of its accumulator, where it starts, and how it becomes a double.
_ACCUMULATORS = {
    "sum": ("double", "0.0", "{}"),
    "max": ("ordinal", "ordered((real)-INFINITE)", "of_ordered({})"),
    "size": ("ordinal", "0", "of_size({})"),
    "square": ("ordinal", "0", "square_of_size({})"),
    "product": ("i64", "0", "of_size_of_product({})"),
}


@dataclass(frozen=True)
class Kernel:
    """A lowered program with the dtype each array is stored in: what one compiled text does.

    formats: `p`, `g` and `state.*` to names of FORMATS, in the order of the buffer table.
    """

    program: Program
    formats: tuple[tuple[str, str], ...]
    _slot_of: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def buffers(self) -> dict[str, int]:
        return {name: i for i, (name, _) in enumerate(self.formats)}

    @cached_property
    def format(self) -> dict[str, str]:
        return dict(self.formats)

    @property
    def is_double(self) -> bool:
        return self.format["p"] == "float64"

    @property
    def phases(self) -> tuple[Phase, ...]:
        return self.program.phases

    # -- rows of scalars -------------------------------------------------------------------------------------------

    @cached_property
    def scalar_states(self) -> tuple[str, ...]:
        """Names of the scalars kept from step to step, as the program spells them."""
        read = [n for n in self.program.inputs(Sort.SCALAR) if n.startswith("state.")]
        written = [n for n, i in self.program.outputs if self._is_scalar(i) and n.startswith("state.")]
        return tuple(dict.fromkeys(read + written))

    @cached_property
    def hypers(self) -> tuple[str, ...]:
        """Names of all other scalars the program is given, beyond the step and the counts."""
        states = set(self.scalar_states)
        return tuple(n for n in self.program.inputs(Sort.SCALAR) if n not in _COUNTS and n not in states)

    @cached_property
    def slots(self) -> dict[int, int]:
        """Slot of each scalar node that outlives its level."""
        named = dict(_COUNTS)
        for name in self.hypers + self.scalar_states:
            named[name] = len(named)
        slots: dict[int, int] = {}
        free = len(named)
        for i, node in enumerate(self.program.nodes):
            if node.op == "input" and not node.sort.is_elementwise:
                slots[i] = named[str(node.static)]
            elif node.is_reduction or i in self._kept:
                slots[i] = free
                free += 1
        return slots

    @cached_property
    def slot_count(self) -> int:
        return max([FIRST_HYPER + len(self.hypers) + len(self.scalar_states), *(s + 1 for s in self.slots.values())])

    @cached_property
    def _kept(self) -> frozenset[int]:
        """Scalars read by elements as they are, at a level later than their own, or by whoever takes the outputs."""
        nodes, levels = self.program.nodes, self.program.levels
        kept = {i for _, i in self.program.outputs if self._is_scalar(i)}
        for i, node in enumerate(nodes):
            for a in node.args:
                if self._is_scalar(a) and nodes[a].op != "const":
                    is_later = not node.sort.is_elementwise and not node.is_reduction and levels[i] > levels[a]
                    if is_later or _takes_scalars(node):
                        kept.add(a)
        return frozenset(kept)

    def _is_scalar(self, index: int) -> bool:
        return not self.program.nodes[index].sort.is_elementwise

    @cached_property
    def meets(self) -> dict[int, int]:
        """For each scalar that enters array arithmetic, where the row keeps it rounded."""
        sources = [n.args[0] for n in self.program.nodes if n.op in ("meet", "fill")]
        return {source: k for k, source in enumerate(dict.fromkeys(sources))}

    @cached_property
    def reductions(self) -> tuple[Reduction, ...]:
        nodes = self.program.nodes
        return tuple(
            Reduction(i, level, self._kind(nodes[i]), nodes[i].scope, self.slots[i])
            for level, phase in enumerate(self.phases)
            for i in phase.reductions
        )

    def op(self, reduction: Reduction) -> str:
        """What a reduction computes, in the program's words."""
        return self.program.nodes[reduction.node].op

    def _kind(self, node: Node) -> str:
        if node.op != "max_abs":
            return "max" if node.op == "max" else "sum"
        if len(node.args) == 1:
            return "size"
        return "square" if node.args[0] == node.args[1] else "product"

    @cached_property
    def has_row_for_each_tensor(self) -> bool:
        """Whether leaves with equal steps and hyperparameters may have different scalars."""
        return bool(self.scalar_states) or self.program.is_random or any(not r.is_global for r in self.reductions)

    def flag_slot(self, name: str) -> int:
        """Slot of the flag `applied` or `counted`; -1 if it always holds."""
        return self.slots[self.program.output[name]] if name in self.program.output else -1

    @cached_property
    def applied_level(self) -> int:
        return self.program.levels[self.program.output["applied"]] if "applied" in self.program.output else -1

    @cached_property
    def stored_scalars(self) -> tuple[int, ...]:
        """For each scalar state the slot of its next value; -1 if it stays."""
        output = self.program.output
        return tuple(self.slots[output[n]] if n in output else -1 for n in self.scalar_states)

    def writes(self, phase: Phase) -> tuple[str, ...]:
        return tuple(n for n in phase.writes if n in self.buffers)

    def has_pass(self, phase: Phase) -> bool:
        """Whether anything is read or written at this level."""
        return bool(phase.reductions or self.writes(phase))

    def text(self) -> str:
        """The printed program, to stand between `arithmetic.h` and a driver."""
        return "\n".join(_text(self)) + "\n"


def host_source(kernel: Kernel) -> str:
    """A whole C translation unit for the CPU."""
    text = [kernel.text(), *_host_passes(kernel), header("host.h")]
    return "\n".join([*host_head(kernel.is_double), header("arithmetic.h"), header("environment.h"), *text])


def host_head(is_double: bool) -> list[str]:
    """What `arithmetic.h` asks for, on a processor that can flush by itself, or not."""
    return [
        f"#define REAL_IS_DOUBLE {int(is_double)}",
        "#if defined(__x86_64__) || defined(__i386__)",
        "#define FLUSHED_BY_HARDWARE 1",
        "#else",
        "#define FLUSHED_BY_HARDWARE 0",
        "#endif",
    ]


def plain_head(is_double: bool) -> list[str]:
    """What `arithmetic.h` asks for where subnormal numbers are flushed by hand."""
    return [f"#define REAL_IS_DOUBLE {int(is_double)}", "#define FLUSHED_BY_HARDWARE 0"]


def device_source(kernel: Kernel) -> str:
    """A whole CUDA C++ translation unit, which is C as well for `emulate.h`."""
    text = [header("arithmetic.h"), kernel.text(), header("device.h"), *_device_kernels(kernel)]
    return "\n".join([*plain_head(kernel.is_double), *text]) + "\n"


def header(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


# -- sizes and tables ------------------------------------------------------------------------------------------------


def _text(kernel: Kernel) -> Iterator[str]:
    yield from _sizes(kernel)
    for level, phase in enumerate(kernel.phases):
        yield from _scalars(kernel, level, phase)
        if kernel.has_pass(phase):
            yield from _element(kernel, level, phase)


def _sizes(kernel: Kernel) -> Iterator[str]:
    sizes = {
        "BUFFERS": len(kernel.formats),
        "SLOTS": kernel.slot_count,
        "MEETS": len(kernel.meets),
        "HYPERS": len(kernel.hypers),
        "SCALAR_STATES": len(kernel.scalar_states),
        "REDUCTIONS": len(kernel.reductions),
        "LEVELS": len(kernel.phases),
        "APPLIED": kernel.flag_slot("applied"),
        "COUNTED": kernel.flag_slot("counted"),
        "APPLIED_LEVEL": kernel.applied_level,
        "ROW_FOR_EACH_TENSOR": int(kernel.has_row_for_each_tensor),
        "STEP": STEP,
        "COUNT_LEAF": COUNT_LEAF,
        "COUNT_GLOBAL": COUNT_GLOBAL,
        "FIRST_HYPER": FIRST_HYPER,
    }
    yield "enum { " + ", ".join(f"{name} = {size}" for name, size in sizes.items()) + " };"
    yield "typedef struct { int level, is_max, is_signed_max, is_global, total, slot; } Reduction;"
    over_model = [r for r in kernel.reductions if r.is_global]
    rows = [
        f"{{{r.level}, {int(r.is_max)}, {int(r.kind == 'max')}, {int(r.is_global)}, "
        f"{over_model.index(r) if r.is_global else -1}, {r.slot}}}"
        for r in kernel.reductions
    ] or ["{-1, 0, 0, 0, 0, 0}"]
    yield f"TABLE Reduction reductions[] = {{{', '.join(rows)}}};"
    yield f"TABLE int stored_scalars[] = {{{', '.join(map(str, kernel.stored_scalars)) or '-1'}}};"


# -- scalars ---------------------------------------------------------------------------------------------------------


def _scalars(kernel: Kernel, level: int, phase: Phase) -> Iterator[str]:
    nodes = kernel.program.nodes
    computed = [i for i in phase.scalars if nodes[i].op not in ("input", "const")]
    inside = set(computed)
    met = {source: k for source, k in kernel.meets.items() if kernel.program.levels[source] == level}
    read = {a for i in computed for a in nodes[i].args} | set(met)
    yield "/* Inlined into a loop, a few powers would take the compiler longer than all else. */"
    yield f"FUNCTION void scalars_{level}(double *s, real *k) {{"
    for i in sorted(read - inside):
        if nodes[i].op != "const":
            flag = nodes[i].sort is Sort.FLAG
            yield f"    const {'int' if flag else 'double'} v{i} = s[{kernel.slots[i]}]{' != 0.0' if flag else ''};"
    for i in computed:
        yield f"    const {'int' if nodes[i].sort is Sort.FLAG else 'double'} v{i} = {call('s', nodes[i], nodes)};"
    for i in phase.scalars:
        if i in kernel._kept and nodes[i].op != "input":
            yield f"    s[{kernel.slots[i]}] = {_name(i, nodes)};"
    for source, k in met.items():
        flag = nodes[source].sort is Sort.FLAG
        yield f"    k[{k}] = {f'(real){_name(source, nodes)}' if flag else f'meet({_name(source, nodes)})'};"
    yield "    (void)s, (void)k;"
    yield "}"


def call(prefix: str, node: Node, nodes: tuple[Node, ...]) -> str:
    of_conditions = node.op == "where" and node.sort in (Sort.FLAG, Sort.MASK)
    suffix = ("_flag" if prefix == "s" else "_mask") if of_conditions else ""
    arguments = [_name(a, nodes) for a in node.args] + (["index"] if node.op in DRAWS else [])
    return f"{prefix}_{node.op}{suffix}({', '.join(arguments)})"


def _name(index: int, nodes: tuple[Node, ...]) -> str:
    node = nodes[index]
    return _literal(node.static) if node.op == "const" else f"v{index}"


def _literal(value: object) -> str:
    assert isinstance(value, float)
    if math.isnan(value):
        return "NOT_A_NUMBER"
    if math.isinf(value):
        return "INFINITE" if value > 0 else "(-INFINITE)"
    return f"({value.hex()})" if math.copysign(1.0, value) < 0 else value.hex()


# -- elements --------------------------------------------------------------------------------------------------------

# Operations that pass on bits without looking whether they are those of a subnormal number.
_MOVES = frozenset({"where", "neg", "abs", "stored", "rounded"})


def _element(kernel: Kernel, level: int, phase: Phase) -> Iterator[str]:
    """One element: met scalars, grids and loaded values come in, values to be stored and summands go out."""
    nodes = kernel.program.nodes
    parameters = [*(f"{kind_of(nodes[i])} v{i}" for i in _incoming(kernel, phase))]
    parameters += [f"double v{i}" for i in _wide(kernel, phase)]
    parameters += ["i64 index"] if _has_draws(kernel, phase) else []
    parameters += [f"real *to_{_identifier(name)}" for name in kernel.writes(phase)]
    parameters += [f"{_ACCUMULATORS[r.kind][0]} *to_{r.node}" for r in _reductions_of(kernel, level)]
    yield f"INLINE void element_{level}({', '.join(parameters)}) {{"
    for i in phase.elementwise:
        if nodes[i].op in ("stored", "rounded"):
            yield f"    const real v{i} = STORED({kernel.format['p']}, v{nodes[i].args[0]});"
        elif nodes[i].op not in ("input", "meet", "fill"):
            yield f"    const {kind_of(nodes[i])} v{i} = {call('a', nodes[i], nodes)};"
    for name in kernel.writes(phase):
        yield f"    *to_{_identifier(name)} = v{kernel.program.output[name]};"
    for r in _reductions_of(kernel, level):
        yield f"    *to_{r.node} = {_summand(r, nodes)};"
    yield "}"


def kind_of(node: Node) -> str:
    return "int" if node.sort is Sort.MASK else "real"


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _incoming(kernel: Kernel, phase: Phase) -> list[int]:
    return [i for i in phase.elementwise if kernel.program.nodes[i].op in ("input", "meet", "fill")]


def _wide(kernel: Kernel, phase: Phase) -> list[int]:
    """Scalars that elements take as they are: the grids of reductions, and what random numbers are drawn by."""
    nodes = kernel.program.nodes
    takers = [nodes[i] for i in (*phase.reductions, *phase.elementwise) if _takes_scalars(nodes[i])]
    arguments = [a for node in takers for a in node.args]
    return [a for a in dict.fromkeys(arguments) if not nodes[a].sort.is_elementwise]


def _takes_scalars(node: Node) -> bool:
    return node.is_reduction or node.op in DRAWS


def _has_draws(kernel: Kernel, phase: Phase) -> bool:
    return any(kernel.program.nodes[i].op in DRAWS for i in phase.elementwise)


def _reductions_of(kernel: Kernel, level: int) -> list[Reduction]:
    return [r for r in kernel.reductions if r.level == level]


def _summand(r: Reduction, nodes: tuple[Node, ...]) -> str:
    node = nodes[r.node]
    factors = [f"v{a}" for a in node.args if nodes[a].sort.is_elementwise]
    product = " , ".join(f"(double){f}" for f in factors)
    wide = f"DOUBLE_MUL({product})" if len(factors) == 2 else product
    if r.kind == "max":
        return f"ordered({factors[0]})"
    if r.kind in ("size", "square"):
        return f"size_of({factors[0]})"
    if r.kind == "product":
        return f"size_of_product({wide})"
    coarse, *fine = [_name(a, nodes) for a in node.args if not nodes[a].sort.is_elementwise]
    is_product = len(factors) == 2
    high = f"product_on_grid({product}, {coarse})" if is_product else f"on_grid({product}, {coarse})"
    if not fine:
        return high
    rest = f"product_plus({product}, -{high})" if is_product else f"DOUBLE_SUB({product}, {high})"
    return f"on_grid({rest}, {fine[0]})"


# -- the loop on the host --------------------------------------------------------------------------------------------


def _host_passes(kernel: Kernel) -> Iterator[str]:
    for level, phase in enumerate(kernel.phases):
        if kernel.has_pass(phase):
            yield from _host_pass(kernel, level, phase)
    names = ", ".join(f"scalars_{n}" for n in range(len(kernel.phases)))
    yield f"static void (*const scalars[])(double *, real *) = {{{names}}};"
    passes = ", ".join(f"pass_{n}" if kernel.has_pass(f) else "0" for n, f in enumerate(kernel.phases))
    yield (
        "static void (*const passes[])(char *const *, i64, i64, const real *, const double *, double *) = "
        f"{{{passes}}};"
    )


def _host_pass(kernel: Kernel, level: int, phase: Phase) -> Iterator[str]:
    writes, reductions = kernel.writes(phase), _reductions_of(kernel, level)
    yield "/* Not inlined: its arithmetic must stay behind the change of the floating-point environment. */"
    yield f"FUNCTION void pass_{level}(char *const *buffers, i64 from, i64 n, const real *k,"
    yield "                   const double *s, double *parts) {"
    yield from (f"    {line}" for line in _pointers(kernel, phase, writes))
    yield from (f"    {line}" for line in _invariants(kernel, phase))
    for r in reductions:
        kind, start, _ = _ACCUMULATORS[r.kind]
        yield f"    {kind} total_{r.node} = {start};"
    yield _simd(reductions)
    yield "    for (i64 i = 0; i < n; ++i) {"
    yield from (f"        {line}" for line in _loads(kernel, phase))
    yield from (f"        real new_{_identifier(name)};" for name in writes)
    yield from (f"        {_ACCUMULATORS[r.kind][0]} part_{r.node};" for r in reductions)
    yield f"        {_call_element(kernel, level, phase, 'from + i')}"
    for name in writes:
        yield f"        STORE({kernel.format[name]}, {_identifier(name)}, i, new_{_identifier(name)});"
    yield from (f"        {_accumulate(r)}" for r in reductions)
    yield "    }"
    for k, r in enumerate(kernel.reductions):
        if r.level == level:
            yield f"    parts[{k}] = {_ACCUMULATORS[r.kind][2].format(f'total_{r.node}')};"
    yield "    (void)k, (void)s, (void)parts;"
    yield "}"


def _call_element(kernel: Kernel, level: int, phase: Phase, index: str) -> str:
    nodes = kernel.program.nodes
    arguments = [_name(i, nodes) for i in _incoming(kernel, phase) + _wide(kernel, phase)]
    arguments += [index] if _has_draws(kernel, phase) else []
    arguments += [f"&new_{_identifier(name)}" for name in kernel.writes(phase)]
    arguments += [f"&part_{r.node}" for r in _reductions_of(kernel, level)]
    return f"element_{level}({', '.join(arguments)});"


def _accumulate(r: Reduction) -> str:
    total, part = f"total_{r.node}", f"part_{r.node}"
    return f"{total} = {f'{part} > {total} ? {part} : {total}' if r.is_max else f'DOUBLE_ADD({total}, {part})'};"


def _pointers(kernel: Kernel, phase: Phase, writes: tuple[str, ...], start: str = " + from") -> Iterator[str]:
    for name, position in kernel.buffers.items():
        if name in phase.reads or name in writes:
            kind = f"stored_{kernel.format[name]}"
            const = "" if name in writes else "const "
            yield f"{const}{kind} *__restrict__ {_identifier(name)} = ({const}{kind} *)buffers[{position}]{start};"


def _invariants(kernel: Kernel, phase: Phase) -> Iterator[str]:
    nodes = kernel.program.nodes
    for i in _incoming(kernel, phase):
        if nodes[i].op != "input":
            where = f"k[{kernel.meets[nodes[i].args[0]]}]"
            mask = nodes[i].sort is Sort.MASK
            yield f"const {kind_of(nodes[i])} v{i} = {where}{' != 0' if mask else ''};"
    for i in _wide(kernel, phase):
        if nodes[i].op != "const":
            yield f"const double v{i} = s[{kernel.slots[i]}];"


def _loads(kernel: Kernel, phase: Phase, suffix: str = "", index: str = "i") -> Iterator[str]:
    nodes = kernel.program.nodes
    for i in _incoming(kernel, phase):
        if nodes[i].op == "input":
            name = str(nodes[i].static)
            load = "LOAD_MOVED" if _is_moved(kernel, phase, i) else "LOAD"
            yield f"const real v{i} = {load}({kernel.format[name]}, {_identifier(name)}{suffix}, {index});"


def _is_moved(kernel: Kernel, phase: Phase, index: int) -> bool:
    """Whether an input's bits may reach memory, or a maximum, without passing through arithmetic.

    A maximum of sizes only sets the grid of a sum, whose summands are flushed.
    """
    nodes = kernel.program.nodes
    written = {kernel.program.output[name] for name in kernel.writes(phase)}
    by_bits = {a for r in phase.reductions if nodes[r].op == "max" for a in nodes[r].args}
    users = [nodes[i] for i in phase.elementwise if index in nodes[i].args]
    return index in written or index in by_bits or any(n.op in _MOVES for n in users)


def _simd(reductions: list[Reduction]) -> str:
    """Tells the compiler that iterations are independent, up to sums and maxima that may be formed in any order."""
    clauses = [f"reduction({'max' if r.is_max else '+'} : total_{r.node})" for r in reductions]
    return " ".join(["#pragma omp simd", *clauses])


# -- kernels for the device ------------------------------------------------------------------------------------------


def _device_kernels(kernel: Kernel) -> Iterator[str]:
    for level, phase in enumerate(kernel.phases):
        yield f"EVALUATE({level})"
        if kernel.has_pass(phase):
            yield from _device_pass(kernel, level, phase)


def _device_pass(kernel: Kernel, level: int, phase: Phase) -> Iterator[str]:
    """One chunk of one tensor for each block; each thread takes four neighbours at a time, as one vector if it can."""
    writes, reductions = kernel.writes(phase), _reductions_of(kernel, level)
    used = {name: _identifier(name) for name in kernel.buffers if name in phase.reads or name in writes}
    yield f"KERNEL void pass_{level}(const Context c) {{"
    if writes:
        yield "    if (*c.skip) return;"
    yield "    const Chunk chunk = c.chunks[blockIdx.x];"
    yield "    const i64 size = c.sizes[chunk.tensor];"
    yield "    const i64 end = size < chunk.begin + CHUNK ? size : chunk.begin + CHUNK;"
    yield "    char *const *buffers = c.buffers + chunk.tensor * BUFFERS;"
    yield "    const real *k = c.meets + chunk.tensor * MEETS;"
    yield "    const double *s = c.slots + chunk.tensor * SLOTS;"
    yield from (f"    {line}" for line in _pointers(kernel, phase, writes, ""))
    yield from (f"    {line}" for line in _invariants(kernel, phase))
    for r in reductions:
        yield f"    {_ACCUMULATORS[r.kind][0]} total_{r.node} = {_ACCUMULATORS[r.kind][1]};"
    aligned = " && ".join(f"IS_ALIGNED({kernel.format[name]}, {x})" for name, x in used.items()) or "1"
    yield f"    const int is_aligned = {aligned};"
    yield "    for (i64 i = chunk.begin + 4 * (i64)threadIdx.x; i < end; i += 4 * (i64)blockDim.x) {"
    yield "        const int count = end - i < 4 ? (int)(end - i) : 4;"
    for name, x in used.items():
        kind = kernel.format[name]
        yield f"        four_{kind} {x}_4;"
        if name in phase.reads:
            yield f"        if (is_aligned && count == 4) {x}_4 = *(const four_{kind} *)({x} + i);"
            yield "        else UNROLLED for (int j = 0; j < 4; ++j)"
            yield f"            {x}_4.at[j] = j < count ? {x}[i + j] : (stored_{kind})0;"
    yield "        UNROLLED for (int j = 0; j < 4; ++j) {"
    yield from (f"            {line}" for line in _loads(kernel, phase, "_4.at", "j"))
    yield from (f"            real new_{_identifier(name)};" for name in writes)
    yield from (f"            {_ACCUMULATORS[r.kind][0]} part_{r.node};" for r in reductions)
    yield f"            {_call_element(kernel, level, phase, 'i + j')}"
    for name in writes:
        yield f"            STORE({kernel.format[name]}, {_identifier(name)}_4.at, j, new_{_identifier(name)});"
    for r in reductions:
        yield f"            if (j < count) {_accumulate(r)}"
    yield "        }"
    for name in writes:
        x, kind = _identifier(name), kernel.format[name]
        yield f"        if (is_aligned && count == 4) *(four_{kind} *)({x} + i) = {x}_4;"
        yield "        else UNROLLED for (int j = 0; j < 4; ++j)"
        yield f"            if (j < count) {x}[i + j] = {x}_4.at[j];"
    yield "    }"
    for position, r in enumerate(kernel.reductions):
        if r.level == level:
            part = _ACCUMULATORS[r.kind][2].format(f"total_{r.node}")
            yield f"    merge(&c, chunk.tensor, {position}, {part});"
    yield "    (void)k, (void)s;"
    yield "}"
