"""trainfn for PyTorch: any rule as a `torch.optim.Optimizer`, any schedule on torch's numbers."""

from trainfn_torch import convert as convert
from trainfn_torch import lr_scheduler as lr_scheduler
from trainfn_torch import optim as optim
from trainfn_torch.optimizer import Optimizer as Optimizer
from trainfn_torch.scalars import evaluate as evaluate
from trainfn_torch.scalars import evaluate_schedule as evaluate_schedule
