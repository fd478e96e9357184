// Norm, activation and rope of one token, and the sampler's passes over a large vocabulary.

#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/bench/benches.h"

namespace tessera {
namespace {

constexpr int64_t kVocabulary = 128 << 10;

void AddResidualNorm(benchmark::State& state) {
  Bench bench(cpu::BestIsa(), 1);
  const TensorView residual = bench.NewRandom(DType::kBFloat16, {1, state.range(0)});
  const TensorView sum = bench.New(DType::kFloat32, {1, state.range(0)});
  const TensorView weight = bench.NewRandom(DType::kBFloat16, {state.range(0)});
  const TensorView out = bench.New(DType::kBFloat16, {1, state.range(0)});
  for (auto _ : state) {
    bench.ops().AddResidualNorm(bench.context(), out, residual, sum, TensorView(), weight, 1e-5f);
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

// Logits in [-10, 10): a flat row, the hard case for Draw.
TensorView Logits(Bench& bench) {
  const TensorView logits = bench.NewRandom(DType::kFloat32, {1, kVocabulary});
  for (int64_t i = 0; i < kVocabulary; ++i) logits.as<float>()[i] *= 10;
  return logits;
}

void ArgMax(benchmark::State& state) {
  Bench bench(cpu::BestIsa(), 1);
  const TensorView logits = Logits(bench);
  std::vector<Candidate> best;
  for (auto _ : state) bench.ops().ArgMax(bench.context(), best, logits, 0);
}

void MassHistogram(benchmark::State& state) {
  Bench bench(cpu::BestIsa(), 1);
  const TensorView logits = Logits(bench);
  std::vector<uint32_t> count(256);
  std::vector<uint64_t> mass(256);
  for (auto _ : state) {
    bench.ops().MassHistogram(bench.context(), count, mass, logits, {1}, {0}, 3, {10.0f}, {1.0f});
  }
}

void Draw(benchmark::State& state) {
  Bench bench(cpu::BestIsa(), 1);
  const TensorView logits = Logits(bench);
  std::vector<Candidate> best;
  DrawRow row{.inv_temperature = 1.0f, .threshold = -1e30f, .seed = 7};
  for (auto _ : state) {
    ++row.position;
    bench.ops().Draw(bench.context(), best, logits, 0, {row});
  }
}

}  // namespace

void RegisterRows() {
  benchmark::RegisterBenchmark("AddResidualNorm/bfloat16", AddResidualNorm)->Arg(2048)->Arg(8192);
  benchmark::RegisterBenchmark("GatedSilu/bfloat16", GatedSilu)->Arg(8192);
  benchmark::RegisterBenchmark("ArgMax/V131072", ArgMax);
  benchmark::RegisterBenchmark("MassHistogram/V131072", MassHistogram);
  benchmark::RegisterBenchmark("Draw/V131072", Draw);
}

}  // namespace tessera
