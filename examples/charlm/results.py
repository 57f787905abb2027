"""What the demo found out, gathered in one object: the terminal and the report both only show it."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bits import Agreement
from .config import Config
from .run import Run
from .timing import Comparison


class Check(NamedTuple):
    """A promise of equality, and whether it held."""

    name: str
    detail: str
    passed: bool


@dataclass
class LearningRates:
    """The schedule as numpy evaluates it, and how many of each framework's values differ from it in any bit."""

    reference: NDArray[np.float64]
    torch_differing: int  # as float64, which is what torch's param_groups hold
    flax_differing: int  # as float32, which is what JAX can hold

    @property
    def check(self) -> Check:
        n = len(self.reference)
        return Check(
            "learning rate",
            f"{n} values each; {self.torch_differing} of PyTorch's (float64) and {self.flax_differing} of "
            "flax's (float32) differ from numpy's",
            n > 0 and self.torch_differing == self.flax_differing == 0,
        )


@dataclass
class Replay:
    """The recorded gradients, replayed."""

    torch_flax: Agreement  # trainfn in PyTorch against trainfn in JAX: parameters and state
    flax_numpy: Agreement  # trainfn in JAX against trainfn in numpy: updates, parameters and state
    baseline: Agreement  # torch.optim against optax, for contrast; nobody promised that they agree

    @property
    def checks(self) -> list[Check]:
        return [
            _agreement_check("PyTorch = JAX", self.torch_flax, "parameters, moments and step counts"),
            _agreement_check("JAX = numpy", self.flax_numpy, "updates, parameters, moments and step counts"),
        ]


def _agreement_check(name: str, agreement: Agreement, what: str) -> Check:
    return Check(
        name,
        f"{agreement.updates} updates with the same gradients; {agreement.total_differing:,} of "
        f"{agreement.total_words:,} words differ ({what})",
        agreement.total_words > 0 and agreement.total_differing == 0,
    )


@dataclass
class Results:
    config: Config
    environment: dict[str, str]
    parameter_count: int
    vocabulary_size: int
    torch: Run
    flax: Run
    learning_rates: LearningRates
    replay: Replay
    timings: list[Comparison]
    prompt: str
    torch_sample: str
    flax_sample: str
    seconds: float

    @property
    def checks(self) -> list[Check]:
        return [self.learning_rates.check, *self.replay.checks]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def loss_differences(self) -> NDArray[np.float64]:
        return loss_differences(self.torch, self.flax)


def loss_differences(a: Run, b: Run) -> NDArray[np.float64]:
    return np.abs(np.array(a.loss) - np.array(b.loss))
