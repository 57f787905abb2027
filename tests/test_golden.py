"""Every execution follows every rule's committed trajectory, but for rules of the class *bounded*.

For 1,000 steps on a few rows, and on the others for 100 unless it is a long run.
"""

from __future__ import annotations

import pytest

from tests import golden
from tests.catalogue import EXACT, Row
from tests.conftest import SLOWLY
from tests.executions import EXECUTIONS


def test_every_row_has_its_hashes() -> None:
    assert golden.read().keys() == {row.name for row in EXACT}, golden.HOW


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("row", EXACT, ids=lambda row: row.name)
def test_golden_trajectory(row: Row, execution: str, pytestconfig: pytest.Config) -> None:
    is_whole = row.name in SLOWLY or pytestconfig.getoption("--long")
    steps = golden.STEPS[-1 if is_whole else -2]
    expected = [x for n, x in zip(golden.STEPS, golden.expected(row.name), strict=True) if n <= steps]
    assert golden.hashes(golden.run(EXECUTIONS[execution], row.rule(), steps, row.dtype)) == expected, (
        f"{row.name} on {execution} left its trajectory in tests/golden.json. If its formula was meant to change: "
        f"{golden.HOW}"
    )
