"""Every execution follows every rule's committed trajectory for 1,000 steps."""

from __future__ import annotations

import pytest

from tests import golden
from tests.catalogue import BY_NAME, ROWS
from tests.executions import EXECUTIONS

EXPECTED = golden.read()


def test_every_row_has_its_hashes() -> None:
    assert EXPECTED.keys() == BY_NAME.keys()


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_golden_trajectory(row, execution: str) -> None:  # type: ignore[no-untyped-def]
    assert golden.hashes(golden.run(EXECUTIONS[execution], row.rule())) == EXPECTED[row.name]
