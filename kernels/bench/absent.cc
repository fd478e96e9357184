// Stands in for the GPU's rows in a build without CUDA.

#include <cstdio>

#include "kernels/bench/gpu_benches.h"

namespace tessera {

int RunGpuBench() {
  std::printf("no GPU rows: this build has no CUDA backend; build with `cmake --preset cuda`\n");
  return 0;
}

}  // namespace tessera
