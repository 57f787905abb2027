"""One short file for each way to train: `python -m examples.training.NAME`, of which each runs in seconds.

own_loop_torch   a loop of one's own, float16 with loss scaling in the rule, or with torch's GradScaler
trainer_torch    `fit`: log, evaluation, early stopping, checkpoints, resuming
ddp              `fit` in two processes: torchrun --nproc-per-node 2 -m examples.training.ddp
flax_linen       `fit` of a linen module with batch statistics and dropout
flax_nnx         `fit` of an nnx module
crossing         a run that begins in torch, goes on in JAX, and ends in torch
"""
