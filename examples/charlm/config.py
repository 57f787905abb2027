"""Every number of the experiment, in one immutable object that is passed to whoever needs it."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Config:
    """The defaults train each model in well under a minute on two CPU cores."""

    seed: int = 0

    # The model: a pre-LayerNorm GPT.
    context: int = 32  # characters it sees at once
    width: int = 96  # numbers per character inside
    heads: int = 4
    layers: int = 2

    # Training.
    batch: int = 32  # sequences per update
    updates: int = 600
    warmup: int = 60
    peak_lr: float = 6e-3
    floor_lr: float = 6e-4
    b2: float = 0.99  # shorter memory than the usual 0.999: the whole run is a few hundred updates
    weight_decay: float = 0.1
    max_norm: float = 1.0

    # What the demo does besides training.
    recorded: int = 30  # updates, evenly spread over the run, whose gradients are kept for the replay
    timed_pairs: int = 40  # interleaved pairs of timings for each comparison
    sample_length: int = 400
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} must be a multiple of heads={self.heads}")
        if not 0 < self.recorded <= self.updates:
            raise ValueError(f"recorded={self.recorded} must lie between 1 and updates={self.updates}")

    def is_recorded(self, update: int) -> bool:
        """Whether the gradients of an update are kept."""
        number, left = divmod(update, self.updates // self.recorded)
        return left == 0 and number < self.recorded

    @property
    def replayed(self) -> "Config":
        """The same recipe for the recorded updates: its schedule from warm-up to floor in as many steps."""
        warmup = max(1, self.warmup * self.recorded // self.updates)
        return replace(self, updates=self.recorded, warmup=warmup)
