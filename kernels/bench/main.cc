// tessera-kernels-bench: speed of the CPU kernels. Not a test; figures are in kernels/README.md.

#include "benchmark/benchmark.h"
#include "kernels/bench/benches.h"

int main(int argc, char** argv) {
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
