"""A character language model trained in PyTorch and in flax by one trainfn recipe.

Read in this order: `config` (every number of the experiment), `recipe` (the optimizer, written once),
`model_torch` and `model_flax` (the same transformer twice), `weights` (how the names and layouts of one
correspond to the other's), `train_torch` and `train_flax` (a training loop each), `replay` (are the two
optimizers the same, bit by bit?), and `demo`, which runs it all and writes a report.
"""

import os

# Worker threads that wait for work should sleep, not spin: torch's would otherwise take the cores from XLA's, and
# on a busy machine from each other (measured: 2 threads on 2 busy cores, 360 ms an update spinning, 65 ms sleeping).
# OpenMP reads this when torch is imported, so it has to stand here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
