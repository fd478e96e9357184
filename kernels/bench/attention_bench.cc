// Paged attention of a layer with 32 query heads, 8 KV heads of 64 or 128: one decode token against
// a long cache, and the prefill of a prompt in one chunk.

#include <numeric>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/bench/benches.h"

namespace tessera {
namespace {

constexpr int64_t kHeads = 32;
constexpr int64_t kKvHeads = 8;
constexpr int64_t kBlockSize = 16;

// The last `queries` tokens of a sequence of `length`.
void Attention(benchmark::State& state, int64_t queries, int64_t length, int64_t head_size) {
  Bench bench(cpu::BestIsa(), 1);
  const int64_t blocks = (length + kBlockSize - 1) / kBlockSize;
  KvLayer kv{.storage = {},
             .dtype = DType::kBFloat16,
             .num_blocks = blocks,
             .block_size = kBlockSize,
             .num_heads = kKvHeads,
             .head_size = head_size};
  kv.storage = bench.NewRandom(kv.dtype, {blocks * kBlockSize * kKvHeads * 2 * head_size});
  const auto ints = [&](std::initializer_list<int64_t> dims, int32_t first) {
    const TensorView view = bench.New(DType::kInt32, dims);
    std::iota(view.as<int32_t>(), view.as<int32_t>() + view.size(), first);
    return view;
  };
  StepView step;
  step.num_rows = 1;
  step.num_tokens = queries;
  step.positions = ints({queries}, static_cast<int32_t>(length - queries));
  step.query_begin = ints({2}, 0);
  step.query_begin.as<int32_t>()[1] = static_cast<int32_t>(queries);
  step.kv_length = ints({1}, static_cast<int32_t>(length));
  step.block_table = ints({1, blocks}, 0);
  const AttentionSpec spec{
      .num_heads = kHeads, .num_kv_heads = kKvHeads, .head_size = head_size, .scale = 0.125f};
  const TensorView q = bench.NewRandom(DType::kBFloat16, {queries, kHeads * head_size});
  const TensorView out = bench.New(DType::kBFloat16, {queries, kHeads * head_size});
  for (auto _ : state) bench.ops().PagedAttention(bench.context(), out, q, kv, step, spec);
  // Query-key pairs that causality leaves, two products each.
  const double pairs = static_cast<double>(queries * (2 * length - queries + 1)) / 2;
  const double flop = pairs * static_cast<double>(kHeads * head_size) * 4;
  using benchmark::Counter;
  state.counters["flop"] =
      Counter(flop * static_cast<double>(state.iterations()), Counter::kIsRate);
  state.counters["kv_bytes"] =
      Counter(static_cast<double>(state.iterations()) *
                  static_cast<double>(length * kKvHeads * head_size * 2 * 2),
              Counter::kIsRate);
}

}  // namespace

void RegisterAttention() {
  for (int64_t head_size : {64, 128}) {
    for (int64_t length : {128, 4096}) {
      const std::string tail =
          "/D" + std::to_string(head_size) + "/length" + std::to_string(length);
      benchmark::RegisterBenchmark(("AttentionDecode" + tail).c_str(), Attention, 1, length,
                                   head_size);
    }
    const std::string name = "AttentionPrefill/D" + std::to_string(head_size) + "/length1024";
    benchmark::RegisterBenchmark(name.c_str(), Attention, 1024, 1024, head_size);
  }
}

}  // namespace tessera
