"""What the demo found out, gathered in one object: the terminal and the report both only show it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .config import Config
from .replay import Agreement
from .run import Run
from .timing import Comparison


class Check(NamedTuple):
    """A promise of equality, and whether it held."""

    name: str
    detail: str
    passed: bool


@dataclass
class LearningRates:
    """The schedule as numpy evaluates it, and how many of each framework's values differ from that in any bit."""

    reference: NDArray[np.float64]
    torch_differing: int  # as float64, which is what torch's param_groups hold
    flax_differing: int  # as float32, which is what JAX can hold

    @property
    def check(self) -> Check:
        n = len(self.reference)
        return Check(
            "learning rate",
            f"{n} values each: {self.torch_differing} of PyTorch's (float64) and {self.flax_differing} of flax's "
            "(float32) differ from numpy's",
            n > 0 and self.torch_differing == self.flax_differing == 0,
        )


def agreement_check(agreement: Agreement) -> Check:
    return Check(
        "replay",
        f"{agreement.updates} updates, the same gradients through both: {agreement.total_differing:,} of "
        f"{agreement.total_words:,} words differ (parameters, first and second moment, step counts)",
        agreement.total_words > 0 and agreement.total_differing == 0,
    )


@dataclass
class Results:
    config: Config
    environment: dict[str, str]
    parameter_count: int
    torch: Run
    flax: Run
    learning_rates: LearningRates
    agreement: Agreement  # trainfn in PyTorch against trainfn in JAX
    baseline_agreement: Agreement  # torch.optim against optax, for contrast; nobody promised that they agree
    timings: list[Comparison]
    prompt: str
    torch_sample: str
    flax_sample: str
    seconds: float

    @property
    def checks(self) -> list[Check]:
        return [self.learning_rates.check, agreement_check(self.agreement)]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def loss_differences(self) -> NDArray[np.float64]:
        return np.abs(np.array(self.torch.loss) - np.array(self.flax.loss))
