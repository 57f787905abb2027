"""Every execution follows every rule's committed trajectory for 1,000 steps, but for rules of the class *bounded*."""

from __future__ import annotations

import pytest

from tests import golden
from tests.catalogue import EXACT
from tests.executions import EXECUTIONS


def test_every_row_has_its_hashes() -> None:
    assert golden.read().keys() == {row.name for row in EXACT}, golden.HOW


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("row", EXACT, ids=lambda row: row.name)
def test_golden_trajectory(row, execution: str) -> None:  # type: ignore[no-untyped-def]
    expected = golden.expected(row.name)
    assert golden.hashes(golden.run(EXECUTIONS[execution], row.rule(), dtype=row.dtype)) == expected, (
        f"{row.name} on {execution} left its trajectory in tests/golden.json. If its formula was meant to change: "
        f"{golden.HOW}"
    )
