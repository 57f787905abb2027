"""Settings shared by all tests: derandomised Hypothesis profiles and one thread count."""

from __future__ import annotations

import os

# Two threads, set before torch or XLA start theirs: the suite runs two workers.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from hypothesis import HealthCheck, settings

# Derandomised: a suite that fails fails again.  `--hypothesis-profile=explore` looks further.
_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}
settings.register_profile("suite", derandomize=True, max_examples=40, database=None, **_COMMON)  # type: ignore[arg-type]
settings.register_profile("explore", max_examples=1000, **_COMMON)  # type: ignore[arg-type]
settings.load_profile("suite")
