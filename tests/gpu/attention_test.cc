// Rope, the cache and attention against the CPU over whole lives of sequences, and the promise that
// chunks and company do not show in the bits.

#include <algorithm>
#include <cmath>

#include "tests/gpu/side.h"

namespace tessera::gpu {
namespace {

struct Layer {
  const char* name;
  DType activation = kBf16;
  DType cache = kBf16;
  int64_t heads = 4, kv_heads = 2, head_size = 64, block_size = 16;
  int64_t rotary = 64;
  int64_t window = 0;
  float softcap = 0.0f;
  bool head_norm = false;
  bool interleaved = false;

  int64_t width() const { return (heads + 2 * kv_heads) * head_size; }
  AttentionSpec spec() const {
    return {.num_heads = heads,
            .num_kv_heads = kv_heads,
            .head_size = head_size,
            .scale = 1.0f / std::sqrt(static_cast<float>(head_size)),
            .window = window,
            .softcap = softcap};
  }
};

const Layer kLayers[] = {
    {.name = "d64"},
    {.name = "d64_block64", .block_size = 64},
    {.name = "d96", .heads = 3, .kv_heads = 3, .head_size = 96, .rotary = 96},
    {.name = "d128_gqa8", .heads = 16, .head_size = 128, .rotary = 128},
    {.name = "d128_group20", .heads = 20, .kv_heads = 1, .head_size = 128, .rotary = 32},
    {.name = "d128_window", .heads = 8, .head_size = 128, .rotary = 128, .window = 100},
    {.name = "d256_softcap", .heads = 4, .head_size = 256, .rotary = 256, .softcap = 20.0f},
    {.name = "d256_both",
     .heads = 4,
     .kv_heads = 1,
     .head_size = 256,
     .rotary = 64,
     .window = 40,
     .softcap = 5.0f,
     .head_norm = true},
    {.name = "interleaved", .interleaved = true},
    {.name = "odd_head", .heads = 6, .head_size = 18, .rotary = 12, .head_norm = true},
    {.name = "odd_block", .block_size = 3},
    {.name = "float32", .activation = kF32, .cache = kF32, .head_size = 20, .rotary = 20},
    {.name = "mixed", .cache = kF32},
};

constexpr int64_t kBlocks = 1024;

// Sequences with a paged cache on one side, fed step by step.
class Cache {
 public:
  Cache(Side& side, const Layer& layer, std::vector<std::vector<float>> qkv)
      : side_(side),
        layer_(layer),
        qkv_(std::move(qkv)),
        tables_(qkv_.size()),
        done_(qkv_.size()),
        outputs_(qkv_.size()) {
    kv_ = {.storage = {},
           .dtype = layer.cache,
           .num_blocks = kBlocks,
           .block_size = layer.block_size,
           .num_heads = layer.kv_heads,
           .head_size = layer.head_size};
    // Every slot NaN: what nobody may see must not show.
    kv_.storage = side.Output(DType::kUInt8, {static_cast<int64_t>(side.ops().KvLayerBytes(kv_))});
    std::vector<float> frequency;
    for (int64_t i = 0; i < layer.rotary / 2; ++i) {
      frequency.push_back(std::pow(100.0f, -2.0f * static_cast<float>(i) / layer.rotary));
    }
    rope_ = {.inv_frequency = side.Put(kF32, {layer.rotary / 2}, frequency),
             .rotary_size = layer.rotary,
             .interleaved = layer.interleaved};
    if (!layer.head_norm) return;
    std::vector<float> weight(static_cast<size_t>(layer.head_size));
    for (size_t d = 0; d < weight.size(); ++d) weight[d] = 0.5f + 0.25f * static_cast<float>(d % 3);
    norm_ = {.query = side.Put(layer.activation, {layer.head_size}, weight),
             .key = side.Put(layer.activation, {layer.head_size}, weight),
             .eps = 1e-3f};
  }

  struct Part {
    size_t sequence;
    int64_t tokens;
  };

  void Step(const std::vector<Part>& parts) {
    std::vector<int32_t> begin = {0}, lengths, positions, table;
    std::vector<float> values;
    size_t longest = 1;
    for (const Part& part : parts) {
      std::vector<int32_t>& blocks = tables_[part.sequence];
      while (static_cast<int64_t>(blocks.size()) * layer_.block_size <
             done_[part.sequence] + part.tokens) {
        blocks.push_back(static_cast<int32_t>(next_block_++ * 37 % kBlocks));
        ASSERT_LE(next_block_, kBlocks);
      }
      longest = std::max(longest, blocks.size());
    }
    for (const Part& part : parts) {
      const int64_t first = done_[part.sequence];
      for (int64_t i = 0; i < part.tokens; ++i) {
        positions.push_back(static_cast<int32_t>(first + i));
      }
      const auto from = qkv_[part.sequence].begin() + first * layer_.width();
      values.insert(values.end(), from, from + part.tokens * layer_.width());
      begin.push_back(begin.back() + static_cast<int32_t>(part.tokens));
      lengths.push_back(static_cast<int32_t>(first + part.tokens));
      std::vector<int32_t> row = tables_[part.sequence];
      row.resize(longest, -77);  // the undefined tail
      table.insert(table.end(), row.begin(), row.end());
      done_[part.sequence] += part.tokens;
    }
    Run(parts, begin, lengths, positions, table, values, static_cast<int64_t>(longest));
  }

  const std::vector<float>& output(size_t sequence) const { return outputs_[sequence]; }
  std::vector<std::vector<int32_t>>& tables() { return tables_; }
  const KvLayer& kv() const { return kv_; }

 private:
  void Run(const std::vector<Part>& parts, const std::vector<int32_t>& begin,
           const std::vector<int32_t>& lengths, const std::vector<int32_t>& positions,
           const std::vector<int32_t>& table, const std::vector<float>& values, int64_t longest) {
    const int64_t rows = static_cast<int64_t>(parts.size());
    const int64_t total = begin.back();
    StepView step;
    step.num_rows = rows;
    step.num_tokens = total;
    step.positions = side_.PutInts({total}, positions);
    step.query_begin = side_.PutInts({rows + 1}, begin);
    step.kv_length = side_.PutInts({rows}, lengths);
    step.block_table = side_.PutInts({rows, longest}, table);
    const TensorView qkv = side_.Put(layer_.activation, {total, layer_.width()}, values);
    const AttentionSpec spec = layer_.spec();
    const int64_t q_width = layer_.heads * layer_.head_size;
    side_.ops().RopeAndStoreKv(side_.context(), qkv, kv_, step, norm_, rope_, spec);
    const TensorView out = side_.Output(layer_.activation, {total, q_width});
    side_.ops().PagedAttention(side_.context(), out, qkv.Columns(0, q_width), kv_, step, spec);
    const std::vector<float> got = side_.Get(out);
    int64_t token = 0;
    for (const Part& part : parts) {
      auto& to = outputs_[part.sequence];
      to.insert(to.end(), got.begin() + token * q_width,
                got.begin() + (token + part.tokens) * q_width);
      token += part.tokens;
    }
  }

  Side& side_;
  const Layer layer_;
  const std::vector<std::vector<float>> qkv_;
  KvLayer kv_;
  RopeSpec rope_;
  HeadNormSpec norm_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<int64_t> done_;
  std::vector<std::vector<float>> outputs_;
  int64_t next_block_ = 0;
};

using Steps = std::vector<std::vector<Cache::Part>>;

// Prompts in chunks with decodes beside them, ending in single tokens.
Steps LifeOf(const std::vector<int64_t>& lengths, int64_t chunk) {
  Steps steps;
  std::vector<int64_t> left = lengths;
  while (*std::max_element(left.begin(), left.end()) > 0) {
    steps.emplace_back();
    for (size_t s = 0; s < left.size(); ++s) {
      const int64_t n = std::min(left[s], left[s] > 3 ? std::min(chunk, left[s] - 3) : int64_t{1});
      if (n == 0) continue;
      steps.back().push_back({s, n});
      left[s] -= n;
    }
  }
  return steps;
}

std::vector<std::vector<float>> Play(Side& side, const Layer& layer,
                                     const std::vector<std::vector<float>>& qkv,
                                     const Steps& steps) {
  Cache cache(side, layer, qkv);
  for (const auto& step : steps) cache.Step(step);
  std::vector<std::vector<float>> outputs;
  for (size_t s = 0; s < qkv.size(); ++s) outputs.push_back(cache.output(s));
  return outputs;
}

class GpuAttentionTest : public GpuTest {};

TEST_F(GpuAttentionTest, MatchesTheCpu) {
  const std::vector<int64_t> lengths = {203, 1, 77, 333};
  for (const Layer& layer : kLayers) {
    std::vector<std::vector<float>> qkv;
    for (const int64_t n : lengths) qkv.push_back(Normal(n * layer.width(), 1.2f));
    const Steps steps = LifeOf(lengths, 150);
    const auto want = Play(oracle(), layer, qkv, steps);
    const bool narrow = layer.activation == kBf16 || layer.cache == kBf16;
    for (const bool deterministic : {true, false}) {
      tested().context().deterministic = deterministic;
      const auto got = Play(tested(), layer, qkv, steps);
      for (size_t s = 0; s < lengths.size(); ++s) {
        ExpectNear(got[s], want[s], layer.activation, narrow ? 0.02 : 2e-5, 0,
                   std::string(layer.name) + (deterministic ? "" : ", free order") + ", sequence " +
                       std::to_string(s));
      }
    }
  }
}

TEST_F(GpuAttentionTest, ChunksAndCompanyDoNotShowInTheBits) {
  const std::vector<int64_t> lengths = {290, 45};
  tested().context().deterministic = true;
  for (const Layer& layer : kLayers) {
    std::vector<std::vector<float>> qkv;
    for (const int64_t n : lengths) qkv.push_back(Normal(n * layer.width(), 1.2f));
    const auto want = Play(tested(), layer, qkv, LifeOf(lengths, 1000));
    for (const int64_t chunk : {1, 7, 16, 130}) {
      const auto got = Play(tested(), layer, qkv, LifeOf(lengths, chunk));
      const auto alone = Play(tested(), layer, {qkv[0]}, LifeOf({lengths[0]}, chunk));
      const std::string what = std::string(layer.name) + ", chunks of " + std::to_string(chunk);
      ExpectSameBits(alone[0], want[0], what + ", alone");
      for (size_t s = 0; s < lengths.size(); ++s) ExpectSameBits(got[s], want[s], what);
    }
  }
}

// Long enough for several chunks of the cache, and for their length to double (8192 tokens); a
// small workspace makes several passes over the rows.
TEST_F(GpuAttentionTest, LongRowsAreMergedFromChunks) {
  if (TestedIsCpu()) GTEST_SKIP() << "too slow on the CPU";
  const Layer layer{.name = "long", .heads = 2, .kv_heads = 1, .head_size = 64, .rotary = 0};
  const int64_t length = 8300;
  const std::vector<std::vector<float>> qkv = {Normal(length * layer.width(), 1.0f)};
  Steps by_one = {{{0, length - 200}}};
  for (int i = 0; i < 200; ++i) by_one.push_back({{0, 1}});
  tested().context().deterministic = true;
  const auto want = Play(tested(), layer, qkv, {{{0, length}}});
  ExpectSameBits(Play(tested(), layer, qkv, by_one)[0], want[0], "one by one");
  Steps last = {{{0, length - 1}}, {{0, 1}}};
  ExpectNear(Play(oracle(), layer, qkv, last)[0], want[0], kBf16, 0.01, 0, "CPU");
  tested().context().deterministic = false;
  ExpectNear(Play(tested(), layer, qkv, last)[0], want[0], kBf16, 0.01, 0, "free order");
}

TEST_F(GpuAttentionTest, BlocksAreCopiedInOrder) {
  const Layer layer{.name = "copies"};
  const auto qkv = Normal(40 * layer.width());
  const auto run = [&](Side& side) {
    Cache cache(side, layer, {qkv});
    cache.Step({{0, 35}});
    auto& table = cache.tables()[0];
    side.ops().CopyBlocks(side.context(), cache.kv(), {table[0], 500, table[2]}, {500, 501, 502});
    table[0] = 501;
    table[2] = 502;
    cache.Step({{0, 5}});
    return cache.output(0);
  };
  ExpectNear(run(tested()), run(oracle()), kBf16, 0.02, 0, "copied blocks");
}

TEST_F(GpuAttentionTest, LatentCache) {
  constexpr int64_t kHeads = 3, kLatent = 40, kTurning = 8, kStill = 12, kTokens = 21;
  constexpr int64_t kEntry = kLatent + kTurning, kHead = kStill + kTurning;
  const auto q = Normal(kTokens * kHeads * kHead);
  const auto query = Normal(kTokens * kHeads * kEntry);
  const auto latent = Normal(kTokens * kEntry);
  const auto weight = Normal(kLatent);
  const auto run = [&](Side& side) {
    KvLayer kv{.storage = {},
               .num_blocks = 4,
               .block_size = 16,
               .num_heads = 1,
               .head_size = kEntry,
               .latent = true};
    kv.storage = side.Output(DType::kUInt8, {static_cast<int64_t>(side.ops().KvLayerBytes(kv))});
    std::vector<int32_t> positions(kTokens);
    for (int64_t i = 0; i < kTokens; ++i) positions[i] = static_cast<int32_t>(i);
    StepView step;
    step.num_rows = 1;
    step.num_tokens = kTokens;
    step.positions = side.PutInts({kTokens}, positions);
    step.query_begin = side.PutInts({2}, {0, kTokens});
    step.kv_length = side.PutInts({1}, {kTokens});
    step.block_table = side.PutInts({1, 2}, {3, 1});
    const AttentionSpec spec{.num_heads = kHeads,
                             .num_kv_heads = 1,
                             .head_size = kEntry,
                             .scale = 0.2f,
                             .value_size = kLatent};
    const RopeSpec rope{.inv_frequency = side.Put(kF32, {4}, {1.0f, 0.3f, 0.1f, 0.03f}),
                        .rotary_size = kTurning,
                        .interleaved = true};
    const TensorView queries = side.Put(kBf16, {kTokens, kHeads * kEntry}, query);
    side.ops().RopeAndStoreLatent(
        side.context(), queries, side.Put(kBf16, {kTokens, kHeads * kHead}, q),
        side.Put(kBf16, {kTokens, kEntry}, latent), kv, step,
        {.weight = side.Put(kBf16, {kLatent}, weight), .eps = 1e-5f}, rope, spec);
    const TensorView out = side.Output(kBf16, {kTokens, kHeads * kLatent});
    side.ops().PagedAttention(side.context(), out, queries, kv, step, spec);
    return side.Get(out);
  };
  ExpectNear(run(tested()), run(oracle()), kBf16, 0.03, 0, "latent");
}

}  // namespace
}  // namespace tessera::gpu
