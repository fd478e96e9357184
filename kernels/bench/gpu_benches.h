// The GPU's part of tessera-kernels-bench, run by `--gpu` instead of the CPU's benchmarks.

#ifndef TESSERA_KERNELS_BENCH_GPU_BENCHES_H_
#define TESSERA_KERNELS_BENCH_GPU_BENCHES_H_

namespace tessera {

// Prints roofs and rows of GPU 0; 0, also where there is none.
int RunGpuBench();

}  // namespace tessera

#endif  // TESSERA_KERNELS_BENCH_GPU_BENCHES_H_
