/* A grid of blocks of 256 threads, as loops. */
KERNEL void launch(void (*kernel)(const Context), i64 blocks, i64 threads, const Context *c) {
    blockDim.x = (unsigned)threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(*c);
}
