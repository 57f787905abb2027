"""Programs as machine code: one printed text, run on the CPU and on CUDA devices.

`printer` writes a lowered program as C; `arithmetic.h` says what each primitive is on each processor, `host.h` and
`device.h` walk over the tensors.  `compiler` builds and keeps CPU kernels, `cpu` and `cuda` run them.
"""
