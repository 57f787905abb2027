"""Every execution behind one interface: run a rule for some steps and give back all it left behind, each step.

A trajectory is a list, one entry a step, of flat dictionaries: `leaf/p`, `leaf/step`, `leaf/<field>`, `count`, and
`<field>` for model-wide scalars, as numpy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import trainfn as tf
from trainfn import reference

Arrays = Mapping[str, np.ndarray[Any, Any]]
Trajectory = list[dict[str, Any]]
Execution = Callable[[tf.Rule, Arrays, Sequence[Arrays]], Trajectory]


def run_reference(rule: tf.Rule, params: Arrays, grads: Sequence[Arrays]) -> Trajectory:
    """numpy."""
    state = reference.init(rule, params)
    trajectory = []
    for g in grads:
        updates, state = reference.update(rule, state, g, params)
        params = {name: _add(p, updates[name]) for name, p in params.items()}
        trajectory.append(_snapshot(params, state))
    return trajectory


def _add(p: Any, u: Any) -> Any:
    """p + u as every framework computes it: in the compute dtype, flushed, and rounded to the parameter's."""
    with np.errstate(all="ignore"):
        total = reference.load(p) + reference.load(u)
        return np.asarray(reference.load(total)).astype(p.dtype)


def _snapshot(params: Arrays, state: reference.State) -> dict[str, Any]:
    flat: dict[str, Any] = {"count": np.int64(state.count)}
    flat |= {k: np.float32(v) for k, v in state.model.items()}
    for leaf, p in params.items():
        flat[f"{leaf}/p"] = p
        flat[f"{leaf}/step"] = np.int64(state.steps[leaf])
        flat |= {
            f"{leaf}/{k}": v if isinstance(v, np.ndarray) else np.float32(v) for k, v in state.leaves[leaf].items()
        }
    return flat


EXECUTIONS: dict[str, Execution] = {"reference": run_reference}
