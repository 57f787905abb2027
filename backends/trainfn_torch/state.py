"""State of a rule as torch keeps it: made when a parameter is first updated, checked when somebody else made it.

Of a parameter: tensors like it, 0-d float32 tensors for scalars, two elements for pairs.  Of the model: one 0-d tensor
for each ModelScalar and for the count of updates, the same object in every parameter group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from trainfn.interpret import Call, run
from trainfn.lowering import lower
from trainfn.rule import Field, Rule
from trainfn.trace import Leaf
from trainfn_torch.names import Names
from trainfn_torch.scalars import TABLE, load
from trainfn_torch.single import arrays, widen
from trainfn_torch.tensors import plain, real

# The group's key for the number of updates applied to the model, which schedules read.
UPDATES = "updates"


def initial(
    rule: Rule, names: Names, leaf: Leaf, p: torch.Tensor, hyper: Mapping[str, Any], dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    """The state of one parameter before its first update, by torch's names, `step` first as in torch."""
    dtype = p.dtype if dtype is None or p.is_complex() or p.dtype == torch.float64 else dtype
    fields = [f for f in rule.fields_of(leaf) if not f.is_of_model]
    zeros = [f for f in fields if f.is_array and _is_zero(rule, leaf, f)]
    values = _run(rule, leaf, p, hyper, [f for f in fields if f not in zeros])
    state = {"step": scalar(0.0, p)}
    for f in fields:
        if f in zeros:  # memory that the system hands out as zeros is written by nobody before the first step
            state[names.state[f.name]] = torch.zeros_like(
                p, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format
            )
        else:
            state[names.state[f.name]] = _array(values[f.inputs[0]], p, dtype) if f.is_array else _number(f, values, p)
    return state


def initial_of_model(
    rule: Rule, leaf: Leaf, p: torch.Tensor, hyper: Mapping[str, Any], fields: list[Field]
) -> dict[str, torch.Tensor]:
    """Those fields of the model's state that this leaf's program has, by the core's names."""
    values = _run(rule, leaf, p, hyper, fields)
    return {f.name: _number(f, values, p) for f in fields if f.inputs[0] in values}


def evaluated(
    rule: Rule,
    names: Names,
    leaf: Leaf,
    p: torch.Tensor,
    state: Mapping[str, Any],
    model: Mapping[str, torch.Tensor],
    hyper: Mapping[str, Any],
) -> torch.Tensor:
    """The parameter to evaluate, as the state has it."""
    program = lower(rule.eval_program(leaf))
    inputs = {"p": widen(plain(real(p))), "step": load(state["step"]), **{name: load(x) for name, x in hyper.items()}}
    for f in rule.fields_of(leaf):
        x = model[f.name] if f.is_of_model else state[names.state[f.name]]
        parts = [widen(plain(real(x)), like=p)] if f.is_array else map(load, x) if f.is_pair else [load(x)]
        inputs |= dict(zip(f.inputs, parts, strict=True))
    return _array(run([Call(program, inputs, arrays(real(p)))], TABLE)[0]["p"], p, p.dtype)


def _is_zero(rule: Rule, leaf: Leaf, f: Field) -> bool:
    """Whether an array begins as zeros whatever the parameter is."""
    program = lower(rule.init_program(leaf))
    node = program.nodes[program.output[f.inputs[0]]]
    return node.op == "fill" and repr(program.nodes[node.args[0]].static) == "0.0"


def scalar(value: float, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float32, device=plain(like).device)


def _run(rule: Rule, leaf: Leaf, p: torch.Tensor, hyper: Mapping[str, Any], fields: list[Field]) -> dict[str, Any]:
    program = lower(rule.init_program(leaf).keep(name for f in fields for name in f.inputs))
    inputs = {name: load(x) for name, x in hyper.items()}
    if "p" in [str(n.static) for n in program.nodes if n.op == "input"]:
        inputs["p"] = widen(plain(real(p)))
    return run([Call(program, inputs, arrays(real(p)))], TABLE)[0]


def _array(value: torch.Tensor, p: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if value.shape != plain(real(p)).shape:
        return value.to(dtype, copy=True)
    array = torch.empty_like(p, dtype=dtype, requires_grad=False, memory_format=torch.preserve_format)
    plain(real(array)).copy_(value)
    return array


def _number(f: Field, values: Mapping[str, Any], p: torch.Tensor) -> torch.Tensor:
    parts = [torch.as_tensor(values[name], dtype=torch.float32, device=plain(p).device) for name in f.inputs]
    return torch.stack(parts) if f.is_pair else parts[0]


def check(rule: Rule, names: Names, leaf: Leaf, state: Mapping[str, Any], p: torch.Tensor, where: str) -> None:
    """Whether a state that somebody else made is one of this rule for this parameter."""
    fields = {names.state[f.name]: f for f in rule.fields_of(leaf) if not f.is_of_model}
    missing = [name for name in fields if name not in state]
    unknown = [name for name in state if name not in fields and name != "step"]
    if missing or unknown:
        raise ValueError(
            f"the state of {where} does not belong to {rule.name}: it has {', '.join(map(str, state)) or 'nothing'}, "
            f"and the rule keeps {', '.join(['step', *fields])}. Load a state that this rule saved, or use the "
            "rule that saved this one."
        )
    shapes = rule.state_shapes(leaf)
    for name, f in fields.items():
        value, shape = state[name], shapes.get(f.name, tuple(p.shape))
        if not f.is_array:
            check_numbers(f, name, value, f"the state of {where}")
        elif not isinstance(value, torch.Tensor):
            raise TypeError(f"the state of {where}: {name} must be a tensor, not {type(value).__name__}.")
        elif value.shape != shape:
            raise ValueError(
                f"the state of {where}: {name} has shape {tuple(value.shape)} where {shape} is due; "
                "was it saved by another model?"
            )
        elif value.layout is not torch.strided or not _holds(value.dtype, p.dtype):
            raise TypeError(
                f"the state of {where}: {name} is a {value.layout} tensor of dtype {value.dtype}, which cannot be the "
                f"state of a parameter of dtype {p.dtype}."
            )


def _holds(saved: torch.dtype, p: torch.dtype) -> bool:
    return saved.is_complex if p.is_complex else saved.is_floating_point


def check_numbers(f: Field, name: str, value: Any, where: str) -> None:
    """Whether a saved value is one number, or two for a pair."""
    if not isinstance(value, torch.Tensor | int | float):
        raise TypeError(f"{where}: {name} must be a number or a tensor, not {type(value).__name__}.")
    size = value.numel() if isinstance(value, torch.Tensor) else 1
    if size != (2 if f.is_pair else 1):
        due = "two numbers" if f.is_pair else "one number"
        raise ValueError(f"{where}: {name} has shape {tuple(torch.as_tensor(value).shape)} where {due} is due.")


def count_of(value: Any, what: str) -> float:
    """A saved counter as a number; on a device that would wait, so it is asked only when a state comes in."""
    try:
        count = float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{what} must be one number, a count of updates: {error}") from None
    if not 0.0 <= count < math.inf:
        raise ValueError(f"{what} = {count} must be a count of updates.")
    return count
