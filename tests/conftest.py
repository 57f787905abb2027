"""Settings shared by all tests: derandomised Hypothesis profiles, one thread count, and what `--long` adds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

# Set before torch or XLA start their threads: the suite runs two workers of two threads, so a thread that has nothing
# to do is to sleep, and the linear algebra of numpy needs no threads of its own.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest
from hypothesis import HealthCheck, settings

# Derandomised: a suite that fails fails again.  `--hypothesis-profile=explore` looks further.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("suite", derandomize=True, max_examples=30, database=None, **_COMMON)  # type: ignore[arg-type]
settings.register_profile("explore", max_examples=1000, **_COMMON)  # type: ignore[arg-type]
settings.load_profile("suite")


# -- what is left to `make test-long` ----------------------------------------------------------------------------------

# Of rows beyond `tests.catalogue.FIRST`: tests, and the executions they are left out on; None is all of them.
LONG: Mapping[str, frozenset[str] | None] = {
    "test_golden_trajectory": frozenset(
        ("reference", "torch_single", "torch_foreach", "jax_eager", "jax_jit", "jax_jit_with_gradient")
    ),
    # In JAX these rows are compared at all magnitudes, at fewer sizes.
    "test_same_bits": frozenset(("torch_single", "torch_foreach", "jax_eager", "jax_jit", "jax_jit_with_gradient")),
    "test_same_bits_at_all_magnitudes": frozenset(("torch_single", "torch_foreach", "jax_jit_with_gradient")),
    "test_float64_is_bounded": frozenset(
        ("torch_single", "torch_foreach", "jax_eager", "jax_jit", "jax_jit_with_gradient")
    ),
    "test_float32": None,
    "test_every_rule": None,
    "test_low_precision": None,
    "test_dtypes": None,
    "test_ptx_of_rules_is_clean": None,
}


# Tests of training loops that take long, of what others run on less.
WHOLE = frozenset(
    (
        "test_eight_devices_train_one_model",
        "test_resuming_anywhere_ends_in_the_same_bits[nnx]",
        "test_several_batches_in_one_call",
        "test_wandb_offline",
    )
)

# A thousand steps are some seconds on each execution: of the first rows these take them, others a hundred.
SLOWLY = frozenset(("adamw", "adamw_clipped"))
# What else of the first rows only these take.
SLOW = frozenset(
    (
        ("test_same_bits", "torch_single"),
        ("test_same_bits", "jax_eager"),
        ("test_same_bits_at_all_magnitudes", "jax_jit_with_gradient"),
    )
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="every row of the catalogue on every execution, by every test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    left_out = [item for item in items if _is_long(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def _is_variant(row: Any) -> bool:
    """Whether a row has a rule with other options, which the rule's first row has at all magnitudes."""
    from tests.catalogue import FIRST

    return row.name not in FIRST and getattr(row.make, "name", row.name) != row.name


def _is_long(item: pytest.Item) -> bool:
    from tests.catalogue import FIRST, Row

    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    row, name = parameters.get("row"), getattr(item, "originalname", "")
    if item.name in WHOLE:
        return True
    if not isinstance(row, Row) or name not in LONG:
        return False
    execution, executions = parameters.get("execution"), LONG[name]
    if name == "test_same_bits_at_all_magnitudes" and _is_variant(row):
        return True
    if row.name in FIRST:
        return row.name not in SLOWLY and (name, execution) in SLOW
    if not row.is_elementwise:  # in torch foreach is single, and one run of each rule's first row is enough
        is_first = row.name == getattr(row.make, "name", "")
        if not is_first and (name == "test_golden_trajectory" or execution != "torch_fused"):
            return True
    return executions is None or execution in executions
