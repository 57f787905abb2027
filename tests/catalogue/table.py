"""`python -m tests.catalogue.table` writes docs/catalogue.md: every rule and schedule on one page.

All of it follows from the catalogue, but for what namesakes move and how long they take: that is kept in
benchmarks/catalogue.json, which `python -m benchmarks.catalogue` writes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import trainfn as tf
from benchmarks.catalogue import LAYER, read
from tests.catalogue import ROWS, SCHEDULES, Row, ScheduleRow
from tests.catalogue.calls import call, call_of_schedule
from tests.catalogue.names import absent, of_optax, of_peers, of_torch, of_transformers
from trainfn.lowering import lower
from trainfn.program import AXIS, COSTLY, PRODUCTS, Program, Sort
from trainfn_torch import pieces

PAGE = Path(__file__).parents[2] / "docs" / "catalogue.md"
MATRIX = tf.Leaf("", LAYER[0])  # the leaf for which states and words are counted
TORCH_TARGET, OPTAX_TARGET = 1.15, 1.05

HEAD = """# Catalogue

`python -m tests.catalogue.table` wrote this page from `tests/catalogue/`, which the tests run row by row, and from
`benchmarks/catalogue.json`. Each row is one configuration. What to write in place of a name of torch, optax or another
library is at [the end](#names-elsewhere).

## Rules

Calls are in the words of `trainfn`, with what differs from the rule's defaults. `over_debias`, in
`tests/catalogue/adam.py`, puts eps where pytorch_optimizer has it, before the bias is taken out: leave it away for the
paper's.

- **Class**: what [the contract](contract.md) promises. *exact*: equal bits. *reductions*: equal bits, with sums or
  maxima over leaves, the model or axes, or matrix products. *bounded*: decompositions of matrices, and libraries' own
  products, which each rounds its own way.
- **State**: bytes for each float32 parameter of a 512 x 768 matrix, without numbers of a leaf or of the model.

{rules}
### What a step costs

- **Words** moved to or from memory for each parameter by a step. Ours is counted in the program, as the fused kernels
  run it, or the compiled pieces of a rule that works along axes; `-` where it multiplies matrices. Of torch's foreach
  implementations, and pytorch_optimizer's, every operation counts what it reads and writes. Under jit both are XLA's
  count of the compiled update.
- **Time** of a step over the namesake's: the median over interleaved pairs with its 95 % interval, and in parentheses
  what it may be at most: {torch:g} times our words over theirs in torch, {optax:g} under jit. A median above that is
  **bold**; [benchmarks/NOTES.md](../benchmarks/NOTES.md) says why, as far as that is known. A transformer of 148
  tensors and 25 M parameters, or, where a step sums along axes or multiplies matrices, 20 tensors of 4 M.

{machine}

{costs}"""

SCHEDULES_HEAD = """
## Schedules

All are exact: the same 64 bits everywhere. Besides there are two state machines, of a metric: `reduce_on_plateau`, as
torch's ReduceLROnPlateau, and `greedy`, GreedyLR ([arXiv:2512.14527v1](https://arxiv.org/abs/2512.14527v1)).

{schedules}
"""

NAMES_HEAD = """## Names elsewhere

What stands for a name of another library in `trainfn`, with that library's defaults unless it has arguments here, and
the drop-in that takes its arguments. An argument that upstream leaves open has an example here, lr=0.001 among others;
schedules of torch are over a base lr of 1. A bare name says what to look at. `AveragedModel` begins as a copy at its
first update, which the averages here do when the optimizer is made. transformers' functions
`get_cosine_schedule_with_warmup` and so on are `get_scheduler("cosine")` and so on.
"""


def page() -> str:
    """The whole page."""
    data = read()
    measured = f"Measured on: {data['machine']}." if data["machine"] else "Nothing is measured yet."
    costs = ("rule", "words: ours, torch's", "under jit: ours, optax's", "time in torch", "time under jit")
    head = HEAD.format(
        torch=TORCH_TARGET,
        optax=OPTAX_TARGET,
        machine=measured,
        rules=_table(("rule", "call", "paper", "namesakes", "class", "state"), map(_rule, ROWS)),
        costs=_table(costs, (_cost(row, data["rows"].get(row.name, {})) for row in ROWS)),
    )
    schedules = _table(("schedule", "call", "paper", "namesakes"), map(_schedule, SCHEDULES))
    return f"{head}{SCHEDULES_HEAD.format(schedules=schedules)}{NAMES_HEAD}{''.join(_names())}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# -- rules -------------------------------------------------------------------------------------------------------------


def _rule(row: Row) -> Sequence[str]:
    rule = row.as_used()
    return (
        f"`{row.name}`",
        f"`{call(rule)}`",
        "; ".join(dict.fromkeys(c for link in rule.all_links if (c := citation(link.definition)) != "-")) or "-",
        ", ".join(_namesakes(row)) or "-",
        "bounded" if row.is_bounded else class_of(rule.program(MATRIX)),
        f"{state_bytes(rule):.3g}",
    )


def _cost(row: Row, known: dict[str, Any]) -> Sequence[str]:
    rule = row.as_used()
    # The namesakes are counted with what the row's own tests need, which is another rule where leaves are larger.
    moved, times = ({}, {}) if row.for_small else (known.get("words", {}), known.get("times", {}))
    ours, theirs = words(rule), moved.get("torch")
    target = TORCH_TARGET * ours / theirs if ours and theirs else None
    return (
        f"`{row.name}`",
        ", ".join(map(_number, (ours, theirs) if theirs else (ours,))),
        ", ".join(map(_number, moved.get("jax", [None]))),
        _time(times.get("torch"), target),
        _time(times.get("jax"), OPTAX_TARGET),
    )


def _namesakes(row: Row) -> Iterator[str]:
    for prefix, other in (("torch.optim", row.torch), ("optax", row.optax), ("pytorch_optimizer", row.peer)):
        if other is not None:
            name = " + ".join([*(link for link, _ in other.before), other.name])
            yield f"{prefix}.{other.around[0]} around {name}" if other.around else f"{prefix}.{name}"


def class_of(program: Program) -> str:
    """What is promised of a program's bits in float32."""
    if program.is_bounded:
        return "bounded"
    has_sums = program.has_reductions or any(node.op in AXIS | PRODUCTS for node in program.nodes)
    return "reductions" if has_sums else "exact"


def state_bytes(rule: tf.Rule) -> float:
    """Bytes of array state for each float32 parameter."""
    shapes = rule.state_shapes(MATRIX)
    arrays = [f.name for f in rule.fields_of(MATRIX) if f.is_array]
    return sum(4 * math.prod(shapes.get(name, MATRIX.shape)) / MATRIX.size for name in arrays)


def words(rule: tf.Rule) -> float | None:
    """Words that a step moves for each parameter, fused or in pieces; None where it multiplies matrices."""
    program = rule.program(MATRIX)
    kept = lower(program.keep(name for name in program.output if name != "update"))
    if kept.is_elementwise:
        return kept.words
    if any(node.op in COSTLY for node in kept.nodes):
        return None
    shapes = {f"state.{name}": shape for name, shape in rule.state_shapes(MATRIX).items()}
    names = dict.fromkeys(("p", *kept.inputs(Sort.ARRAY)))
    stored = tuple((name, "float32", shapes.get(name, MATRIX.shape)) for name in names)
    return pieces.elements_moved(kept, stored) / MATRIX.size


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3g}"


def _time(measured: Sequence[float] | None, target: float | None) -> str:
    if measured is None:
        return "-"
    median, low, high, *_ = measured
    ratio = f"{median:.2f}x"
    if target is not None and round(median, 2) > round(target, 2):  # as they are read
        ratio = f"**{ratio}**"
    return f"{ratio} [{low:.2f}, {high:.2f}]" + (f" ({target:.2f}x)" if target else "")


# -- schedules ---------------------------------------------------------------------------------------------------------


def _schedule(row: ScheduleRow) -> Sequence[str]:
    named = [f"{prefix}.{other[0]}" for prefix, other in (("torch", row.torch), ("optax", row.optax)) if other]
    if row.name.startswith("huggingface_"):
        named.append(f'transformers "{row.name.removeprefix("huggingface_")}"')
    return (
        f"`{row.name}`",
        f"`{call_of_schedule(row.schedule)}`",
        citation(row.schedule.function),
        ", ".join(named) or "-",
    )


# -- names elsewhere ---------------------------------------------------------------------------------------------------


def _names() -> Iterator[str]:
    for title, entries in (
        ("torch", of_torch()),
        ("optax", of_optax()),
        ("pytorch_optimizer", of_peers()),
        ("transformers", of_transformers()),
    ):
        rows = (
            (f"`{e.name}`", ", ".join(f"`{x}`" for x in e.calls), f"`{e.drop_in}`" if e.drop_in else "-")
            for e in entries
        )
        yield f"\n### {title}\n\n{_table((title, 'trainfn', 'drop-in'), rows)}"
    rows = ((f"`{e.name}`", e.drop_in) for e in absent())
    yield f"\n### Not here\n\n{_table(('name', 'use'), rows)}"


# -- papers ------------------------------------------------------------------------------------------------------------

# Authors, then an arXiv number, or where and in which year it appeared.
_CITATION = re.compile(
    r"(?P<authors>(?:[A-ZÀ-Ý][\w'-]+(?:, (?=[A-ZÀ-Ý])| & | et al\.)?)+), "
    r"(?:arXiv:(?P<arxiv>\d{4}\.\d{4,5}(?:v\d+)?)|(?P<place>[A-Z][^():;]*?\b(?:19|20)\d\d)\b)"
)


def citation(x: Any) -> str:
    """The first citation in a docstring, as a link if it is on arXiv; "-" if there is none."""
    text = " ".join((x.__doc__ or "").split())
    found = _CITATION.search(text)
    if found is None:
        return "-"
    if found["arxiv"]:
        return f"{found['authors']}, [arXiv:{found['arxiv']}](https://arxiv.org/abs/{found['arxiv']})"
    return f"{found['authors']}, {found['place']}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
