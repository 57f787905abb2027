"""Training torch models: `Step`, one update in the right order, and `fit`, the whole run."""

from trainfn_torch.training.fit import fit as fit
from trainfn_torch.training.recompute import recompute as recompute
from trainfn_torch.training.step import Step as Step
