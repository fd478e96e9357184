// tessera-kernels-bench: speed of the CPU kernels, or with --gpu of the GPU's. Not a test; figures
// are in kernels/README.md.

#include <string_view>

#include "benchmark/benchmark.h"
#include "kernels/bench/benches.h"
#include "kernels/bench/gpu_benches.h"

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--gpu") return tessera::RunGpuBench();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  tessera::RegisterMatMul();
  tessera::RegisterAttention();
  tessera::RegisterRows();
  tessera::RegisterSampling();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
