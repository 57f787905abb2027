"""The design note's algorithms run as printed there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

import trainfn as tf
from tests.executions import EXECUTIONS, run_reference
from tests.inputs import numbers

NOTE = Path(__file__).parents[1] / "docs" / "language.md"
HEADER = """
from typing import NamedTuple
from trainfn import Array, LeafPair, ModelPair, rule
from trainfn.verbs import *
"""


def _rules() -> dict[str, Any]:
    scope: dict[str, Any] = {"__name__": __name__}
    blocks = re.findall(r"```python\n(.*?)```", NOTE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    exec(compile(HEADER + "\n".join(blocks), str(NOTE), "exec", dont_inherit=True), scope)
    return scope


RULES = _rules()
globals().update({name: RULES[name] for name in ("Distance", "Fast", "Climb", "Factored", "Mean", "Sides")})


def _quadratic_descent(rule: tf.Rule, steps: int) -> float:
    """The distance to the minimum of |p - 1|^2 / 2, before over after."""
    from trainfn import reference

    params = {"p": numbers(1, (20,))}
    begin = float(np.linalg.norm(params["p"] - 1))
    state = reference.init(rule, params)
    for _ in range(steps):
        updates, state = reference.update(rule, state, {"p": params["p"] - 1}, params)
        params = {"p": params["p"] + updates["p"]}
    return begin / float(np.linalg.norm(params["p"] - 1))


def test_prodigy_finds_its_step_size() -> None:
    assert _quadratic_descent(RULES["prodigy"](), 300) > 5


def test_schedule_free_descends() -> None:
    assert _quadratic_descent(RULES["schedule_free_sgd"](), 100) > 5


def test_adafactor_and_muon_descend() -> None:
    assert _quadratic_descent(RULES["adafactor"](lr=0.1), 100) > 5
    assert _quadratic_descent(RULES["muon"](lr=0.1), 100) > 5


def test_muon_makes_the_singular_values_alike_everywhere() -> None:
    params = {"w": numbers(1, (12, 7)) * 0.0}
    gradient = numbers(2, (12, 7)).clip(-1, 1)
    for name in ("reference", "torch_single", "jax_jit"):
        (after,) = EXECUTIONS[name](RULES["muon"](lr=1.0), params, [{"w": gradient}])
        singular = np.linalg.svd(after["w/p"] / (12 / 7) ** 0.5, compute_uv=False)
        assert 0.3 < singular.min() < singular.max() < 1.3, name


def test_shampoo_is_what_numpy_makes_of_its_formula() -> None:
    params = {"w": numbers(1, (4, 3)).astype(float)}
    grads = [{"w": numbers(n, (4, 3), 1).astype(float)} for n in (2, 3)]
    p, L, R = params["w"], 1e-3 * np.eye(4), 1e-3 * np.eye(3)
    for after, g in zip(run_reference(RULES["shampoo"](every=1), params, grads), grads, strict=True):
        L, R = L + g["w"] @ g["w"].T, R + g["w"].T @ g["w"]
        roots = [(q / values**0.25) @ q.T for values, q in map(np.linalg.eigh, (L, R))]
        p = p - 0.1 * roots[0] @ g["w"] @ roots[1]
        np.testing.assert_allclose(after["w/p"], p, atol=1e-12)


def test_sam_climbs_as_far_as_asked_for_and_comes_back() -> None:
    params = {"a": numbers(1, (4, 3)), "b": numbers(2, (5,))}
    path = run_reference(RULES["sam"](tf.sgd(lr=0.0), rho=0.5), params, [params] * 2)
    moved = np.concatenate([np.ravel(path[0][f"{k}/p"] - p) for k, p in params.items()])
    np.testing.assert_allclose(np.linalg.norm(moved), 0.5, rtol=1e-5)
    np.testing.assert_allclose(path[1]["a/p"], params["a"], rtol=0, atol=1e-6)
    assert [int(after["count"]) for after in path] == [0, 1]


def test_all_executions_agree_on_them() -> None:
    from tests.bits import assert_same_bits

    shapes = {"a": (4, 3), "b": (5,)}
    params = {k: numbers(i, s) for i, (k, s) in enumerate(shapes.items())}
    grads = [{k: numbers(10 * n + i, s) for i, (k, s) in enumerate(shapes.items())} for n in range(1, 5)]
    sam, muon = RULES["sam"](tf.adamw()), RULES["muon"](steps=2)
    for rule in (RULES["prodigy"](d0=1e-2), RULES["schedule_free_sgd"](), sam, RULES["adafactor"](), muon):
        expected = run_reference(rule, params, grads)
        for name, execution in EXECUTIONS.items():
            for n, (ours, theirs) in enumerate(zip(expected, execution(rule, params, grads), strict=True)):
                assert_same_bits(ours, theirs, f"{rule.name} on {name}, step {n}")
