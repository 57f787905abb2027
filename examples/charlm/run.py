"""What a training run leaves behind, whichever framework it ran in: numpy arrays and plain numbers."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .weights import Named

OnUpdate = Callable[[int, float], None]  # called with (update, loss) after each update


@dataclass
class Run:
    framework: str
    loss: list[float] = field(default_factory=list)  # of each update's batch, before the update
    lr: list[float] = field(default_factory=list)  # the learning rate the optimizer itself held at that update
    seconds: list[float] = field(default_factory=list)  # per update, with its forward and backward pass
    gradients: list[Named] = field(default_factory=list)  # of the recorded updates, if they were asked for
    weights: Named = field(default_factory=dict)  # at the end
    held_out_loss: float = float("nan")  # at the end, on text never trained on

    @property
    def seconds_per_update(self) -> float:
        return float(np.median(self.seconds))  # the median, because JAX compiles within the first update


Predictor = Callable[[NDArray[np.int32]], NDArray[np.float32]]  # (1, context) tokens -> (1, context, vocabulary) logits
