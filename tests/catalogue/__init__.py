"""Every rule and schedule with what the tests need to know of it: one row each, read by all tests.

A family of rules has a file; its `ROWS` are joined here.
"""

from tests.catalogue import adam, chains, classic, matrices, noise, norms, sign, wrappers
from tests.catalogue.row import Namesake as Namesake
from tests.catalogue.row import Row as Row
from tests.catalogue.schedules import SCHEDULES as SCHEDULES
from tests.catalogue.schedules import ScheduleRow as ScheduleRow

ROWS: tuple[Row, ...] = (
    *classic.ROWS,
    *adam.ROWS,
    *sign.ROWS,
    *norms.ROWS,
    *matrices.ROWS,
    *noise.ROWS,
    *chains.ROWS,
    *wrappers.ROWS,
)
BY_NAME = {row.name: row for row in ROWS}
EXACT = tuple(row for row in ROWS if not row.is_bounded)
ELEMENTWISE = tuple(row for row in ROWS if row.is_elementwise)

# The rows that every test runs on every execution.  Of the others some are left to `make test-long`
# (`tests/conftest.py`), because each is half a minute.
FIRST = frozenset(
    (
        "adagrad",
        "adagrad_optax",
        "adam",
        "adam_l2",
        "adamw",
        "adamw_clipped",
        "adamw_scheduled",
        "lion",
        "lion_clipped_by_value",
        "radam",
        "radam_torch",
        "rmsprop",
        "rmsprop_centered",
        "rmsprop_optax",
        "sgd",
        "sgd_dampened",
        "sgd_decoupled",
        "sgd_momentum",
        "sgd_nesterov",
    )
)
