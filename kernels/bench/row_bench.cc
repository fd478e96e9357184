// Norm and activation of one token.

#include "benchmark/benchmark.h"
#include "kernels/bench/benches.h"

namespace tessera {
namespace {

void AddResidualNorm(benchmark::State& state) {
  Bench bench(cpu::BestIsa(), 1);
  const TensorView residual = bench.NewRandom(DType::kBFloat16, {1, state.range(0)});
  const TensorView sum = bench.New(DType::kFloat32, {1, state.range(0)});
  const TensorView weight = bench.NewRandom(DType::kBFloat16, {state.range(0)});
  const TensorView out = bench.New(DType::kBFloat16, {1, state.range(0)});
  for (auto _ : state) {
    bench.ops().AddResidualNorm(bench.context(), out, residual, sum, TensorView(),
                                {.weight = weight, .eps = 1e-5f});
  }
}

void GatedSilu(benchmark::State& state) {
  Bench bench(cpu::BestIsa(), 1);
  const TensorView gate_up = bench.NewRandom(DType::kBFloat16, {1, 2 * state.range(0)});
  const TensorView out = bench.New(DType::kBFloat16, {1, state.range(0)});
  for (auto _ : state) {
    bench.ops().GatedActivation(bench.context(), out, gate_up, Activation::kSilu);
  }
}

}  // namespace

void RegisterRows() {
  benchmark::RegisterBenchmark("AddResidualNorm/bfloat16", AddResidualNorm)->Arg(2048)->Arg(8192);
  benchmark::RegisterBenchmark("GatedSilu/bfloat16", GatedSilu)->Arg(8192);
}

}  // namespace tessera
