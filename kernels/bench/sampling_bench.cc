// The sampler's passes over a large vocabulary, for one row and for a batch. Flat logits are the
// hard case for Draw: nothing can be passed over.

#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/bench/benches.h"

namespace tessera {
namespace {

constexpr int64_t kVocabulary = 128 << 10;
constexpr int kRowsMax = 64;

// A batch of rows, uniform in [-spread, spread).
class SamplingBench {
 public:
  SamplingBench(benchmark::State& state, float spread)
      : bench_(cpu::BestIsa(), 1), num_rows_(state.range(0)) {
    rows_.logits = bench_.NewRandom(DType::kFloat32, {num_rows_, kVocabulary});
    float* const logits = rows_.logits.as<float>();
    for (int64_t i = 0; i < rows_.logits.size(); ++i) logits[i] *= spread;
    for (int64_t r = 0; r < num_rows_; ++r) rows_.row.push_back(static_cast<int32_t>(r));
  }
  Ops& ops() { return bench_.ops(); }
  const ExecContext& context() const { return bench_.context(); }
  LogitRows& rows() { return rows_; }
  // A mask that lets every second token through, for all rows.
  void Mask() {
    rows_.masks = bench_.New(DType::kInt32, {1, kVocabulary / 32});
    for (int64_t i = 0; i < rows_.masks.size(); ++i) rows_.masks.as<uint32_t>()[i] = 0x55555555u;
    rows_.mask.assign(num_rows_, 0);
  }

 private:
  Bench bench_;
  const int64_t num_rows_;
  LogitRows rows_;
};

void TopLogits(benchmark::State& state, int n, bool masked) {
  SamplingBench bench(state, 10.0f);
  if (masked) bench.Mask();
  std::vector<Candidate> best;
  for (auto _ : state) bench.ops().TopLogits(bench.context(), best, bench.rows(), n);
}

void MassHistogram(benchmark::State& state, int digit) {
  SamplingBench bench(state, 10.0f);
  const size_t rows = bench.rows().row.size();
  std::vector<uint32_t> count(rows * 256);
  std::vector<uint64_t> mass(rows * 256);
  const std::vector<uint32_t> prefix(rows, 0xc1000000u);  // of logits in [8, 32)
  const std::vector<float> max(rows, 10.0f), inv_temperature(rows, 1.0f);
  for (auto _ : state) {
    bench.ops().MassHistogram(bench.context(), count, mass, bench.rows(), prefix, digit, max,
                              inv_temperature);
  }
}

void Draw(benchmark::State& state, float spread) {
  SamplingBench bench(state, spread);
  std::vector<Candidate> best;
  std::vector<DrawRow> draws(bench.rows().row.size(), {.threshold = -1e30f, .seed = 7});
  for (auto _ : state) {
    for (DrawRow& draw : draws) ++draw.position;
    bench.ops().Draw(bench.context(), best, bench.rows(), draws);
  }
}

// A row of token rules that touch a thousand tokens, there and back.
void EditLogits(benchmark::State& state) {
  SamplingBench bench(state, 10.0f);
  std::vector<LogitPlace> places;
  for (int32_t r = 0; r < static_cast<int32_t>(bench.rows().row.size()); ++r) {
    for (int32_t i = 0; i < 1000; ++i) places.push_back({r, i * 131});
  }
  std::vector<float> values;
  for (auto _ : state) {
    bench.ops().GatherLogits(bench.context(), values, bench.rows().logits, places);
    bench.ops().ScatterLogits(bench.context(), bench.rows().logits, places, values);
  }
}

}  // namespace

void RegisterSampling() {
  static_assert(kVocabulary % 32 == 0);
  const auto add = [](const char* name, auto function, auto... arguments) {
    benchmark::RegisterBenchmark(name, function, arguments...)->Arg(1)->Arg(kRowsMax);
  };
  add("TopLogits/V131072/n1", TopLogits, 1, false);
  add("TopLogits/V131072/n20", TopLogits, 20, false);
  add("TopLogits/V131072/n1/masked", TopLogits, 1, true);
  add("MassHistogram/V131072/digit3", MassHistogram, 3);
  add("MassHistogram/V131072/digit2", MassHistogram, 2);
  add("Draw/V131072/spread10", Draw, 10.0f);
  add("Draw/V131072/spread100", Draw, 100.0f);
  add("GatherScatterLogits/1000", EditLogits);
}

}  // namespace tessera
