// Rope, the paged cache and attention: against a double-precision softmax over whole sequences, and
// the promise that chunks, batch, threads, block size and instruction set do not show in the bits.

#include <algorithm>
#include <map>

#include "tests/kernels/op_fixture.h"

namespace tessera {
namespace {

struct Layer {
  DType activation = kF32;
  DType cache = kF32;
  int64_t heads = 2, kv_heads = 1, head_size = 8, block_size = 16;
  int64_t rotary = 8;
  int64_t window = 0;
  float softcap = 0.0f;
  bool head_norm = false;

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

constexpr float kHeadEps = 1e-3f;

// Stored weights of a head norm, about `sign` times 1/4.
std::vector<float> HeadWeight(const Layer& layer, float sign) {
  std::vector<float> weight;
  for (int64_t d = 0; d < layer.head_size; ++d) {
    weight.push_back(sign * (0.25f + 0.5f * static_cast<float>(d % 3)));
  }
  return weight;
}

// Sequences with a paged cache on a device, fed chunk by chunk.
class Model {
 public:
  static constexpr int64_t kBlocks = 64;

  // `qkv`: for every sequence its tokens' [length, width].
  Model(const Backend& backend, const Layer& layer, std::vector<std::vector<float>> qkv)
      : device_(backend),
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
    const int64_t bytes = static_cast<int64_t>(device_.ops().KvLayerBytes(kv_));
    kv_.storage = device_.Output(DType::kUInt8, {bytes});  // every slot NaN
    for (int64_t i = 0; i < layer.rotary / 2; ++i) {
      frequency_.push_back(std::pow(100.0f, -2.0f * static_cast<float>(i) / layer.rotary));
    }
    if (!layer.head_norm) return;
    norm_ = {.query = device_.Put(layer.activation, {layer.head_size}, HeadWeight(layer, 1.0f)),
             .key = device_.Put(layer.activation, {layer.head_size}, HeadWeight(layer, -1.0f)),
             .eps = kHeadEps,
             .plus_one = true};
  }

  struct Part {
    size_t sequence;
    int64_t tokens;
  };

  // One step with a row for every part.
  void Step(const std::vector<Part>& parts) {
    std::vector<int32_t> begin = {0}, lengths, positions, table;
    std::vector<float> tokens;
    size_t longest = 1;
    for (const Part& part : parts) {
      Extend(part);
      longest = std::max(longest, tables_[part.sequence].size());
    }
    for (const Part& part : parts) {
      const int64_t first = done_[part.sequence];
      for (int64_t i = 0; i < part.tokens; ++i) {
        positions.push_back(static_cast<int32_t>(first + i));
      }
      const auto from = qkv_[part.sequence].begin() + first * layer_.width();
      tokens.insert(tokens.end(), from, from + part.tokens * layer_.width());
      begin.push_back(begin.back() + static_cast<int32_t>(part.tokens));
      lengths.push_back(static_cast<int32_t>(first + part.tokens));
      std::vector<int32_t> row = tables_[part.sequence];
      row.resize(longest, -77);  // the undefined tail
      table.insert(table.end(), row.begin(), row.end());
      done_[part.sequence] += part.tokens;
    }
    const int64_t rows = static_cast<int64_t>(parts.size());
    const int64_t total = begin.back();
    StepView step;
    step.num_rows = rows;
    step.num_tokens = total;
    step.positions = device_.PutInts({total}, positions);
    step.query_begin = device_.PutInts({rows + 1}, begin);
    step.kv_length = device_.PutInts({rows}, lengths);
    step.block_table = device_.PutInts({rows, static_cast<int64_t>(longest)}, table);
    Run(parts, step, device_.Put(layer_.activation, {total, layer_.width()}, tokens));
  }

  const std::vector<float>& output(size_t sequence) const { return outputs_[sequence]; }
  Device& device() { return device_; }
  const KvLayer& kv() const { return kv_; }
  std::vector<std::vector<int32_t>>& tables() { return tables_; }
  const std::vector<float>& frequency() const { return frequency_; }

 private:
  void Extend(const Part& part) {
    std::vector<int32_t>& table = tables_[part.sequence];
    const int64_t end = done_[part.sequence] + part.tokens;
    while (static_cast<int64_t>(table.size()) * layer_.block_size < end) {
      // A step of 37 through 64 blocks: neighbours in a sequence lie apart.
      table.push_back(static_cast<int32_t>((next_block_++ * 37) % kBlocks));
      ASSERT_LE(next_block_, kBlocks);
    }
  }

  void Run(const std::vector<Part>& parts, const StepView& step, TensorView qkv) {
    const RopeSpec rope{.inv_frequency = device_.Put(kF32, {layer_.rotary / 2}, frequency_),
                        .rotary_size = layer_.rotary};
    const AttentionSpec spec = layer_.spec();
    const int64_t q_width = layer_.heads * layer_.head_size;
    device_.ops().RopeAndStoreKv(device_.context(), qkv, kv_, step, norm_, rope, spec);
    const TensorView out = device_.Output(layer_.activation, {step.num_tokens, q_width});
    device_.ops().PagedAttention(device_.context(), out, qkv.Columns(0, q_width), kv_, step, spec);
    const std::vector<float> got = device_.Get(out);
    int64_t token = 0;
    for (const Part& part : parts) {
      auto& to = outputs_[part.sequence];
      to.insert(to.end(), got.begin() + token * q_width,
                got.begin() + (token + part.tokens) * q_width);
      token += part.tokens;
    }
  }

  Device device_;
  const Layer layer_;
  const std::vector<std::vector<float>> qkv_;
  KvLayer kv_;
  std::vector<float> frequency_;
  HeadNormSpec norm_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<int64_t> done_;
  std::vector<std::vector<float>> outputs_;
  int32_t next_block_ = 0;
};

// Normed head, rounded; `sign` tells queries (1) from keys (-1).
std::vector<float> Normed(const Layer& layer, const float* head, float sign) {
  std::vector<float> normed(head, head + layer.head_size);
  if (!layer.head_norm) return normed;
  double squares = 0;
  for (float x : normed) squares += static_cast<double>(x) * x;
  const double rms = std::sqrt(squares / static_cast<double>(layer.head_size) + kHeadEps);
  const std::vector<float> weight = HeadWeight(layer, sign);
  for (int64_t d = 0; d < layer.head_size; ++d) {
    normed[d] = Rounded(layer.activation, static_cast<float>(normed[d] / rms * (1.0 + weight[d])));
  }
  return normed;
}

// Normed, rotated and rounded head, as rope must leave it.
std::vector<double> Turned(const Layer& layer, const std::vector<float>& frequency,
                           const float* stored, int64_t position, float sign) {
  const std::vector<float> head = Normed(layer, stored, sign);
  std::vector<double> turned(head.begin(), head.end());
  const int64_t half = layer.rotary / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<double>(position) * frequency[i];
    turned[i] = head[i] * std::cos(angle) - head[i + half] * std::sin(angle);
    turned[i + half] = head[i + half] * std::cos(angle) + head[i] * std::sin(angle);
  }
  for (double& x : turned) x = Rounded(layer.activation, static_cast<float>(x));
  return turned;
}

// Attention of query `position`, head `head`, over a whole sequence in double.
std::vector<double> Expected(const Layer& layer, const std::vector<float>& frequency,
                             const std::vector<float>& qkv, int64_t position, int64_t head) {
  const int64_t size = layer.head_size;
  const int64_t kv_head = head / (layer.heads / layer.kv_heads);
  const auto q =
      Turned(layer, frequency, &qkv[position * layer.width() + head * size], position, 1.0f);
  std::vector<double> weights;
  double total = 0;
  const int64_t first = layer.window == 0 ? 0 : std::max<int64_t>(0, position + 1 - layer.window);
  for (int64_t t = first; t <= position; ++t) {
    const float* k = &qkv[t * layer.width() + (layer.heads + kv_head) * size];
    const auto key = Turned(layer, frequency, k, t, -1.0f);
    double score = 0;
    for (int64_t d = 0; d < size; ++d) {
      score += q[d] * Rounded(layer.cache, static_cast<float>(key[d]));
    }
    score *= layer.spec().scale;
    if (layer.softcap != 0) score = layer.softcap * std::tanh(score / layer.softcap);
    weights.push_back(std::exp(score));
    total += weights.back();
  }
  std::vector<double> out(static_cast<size_t>(size));
  for (int64_t t = first; t <= position; ++t) {
    const float* v = &qkv[t * layer.width() + (layer.heads + layer.kv_heads + kv_head) * size];
    for (int64_t d = 0; d < size; ++d) {
      out[d] += weights[t - first] / total * Rounded(layer.cache, v[d]);
    }
  }
  return out;
}

class AttentionTest : public OpTest {};
INSTANTIATE_TEST_SUITE_P(All, AttentionTest, testing::ValuesIn(Backends()), BackendName);

const Layer kLayers[] = {
    {},
    {.heads = 4, .kv_heads = 4, .head_size = 20, .rotary = 20},
    {.heads = 8, .kv_heads = 2, .head_size = 24, .block_size = 32, .rotary = 12},
    {.heads = 6, .kv_heads = 2, .head_size = 2, .block_size = 3, .rotary = 2},
    {.cache = kBf16, .heads = 20, .kv_heads = 1, .head_size = 64, .rotary = 64},
    {.activation = kBf16,
     .cache = kBf16,
     .heads = 4,
     .kv_heads = 2,
     .head_size = 128,
     .rotary = 128},
    {.activation = kBf16, .heads = 5, .kv_heads = 5, .head_size = 10, .block_size = 8, .rotary = 0},
    {.heads = 4, .kv_heads = 2, .head_size = 16, .rotary = 16, .window = 11},
    {.heads = 4, .kv_heads = 1, .head_size = 256, .rotary = 64, .window = 40, .softcap = 0.7f},
    {.heads = 4, .kv_heads = 2, .head_size = 18, .rotary = 12, .head_norm = true},
    {.activation = kBf16,
     .cache = kBf16,
     .heads = 2,
     .kv_heads = 1,
     .head_size = 32,
     .rotary = 32,
     .head_norm = true},
};

TEST_P(AttentionTest, MatchesDoublePrecision) {
  Numbers numbers(31);
  for (const Layer& layer : kLayers) {
    SCOPED_TRACE(testing::Message() << layer.heads << "/" << layer.kv_heads << " heads of "
                                    << layer.head_size << ", blocks of " << layer.block_size);
    constexpr int64_t kLength = 53;
    const auto qkv = Rounded(layer.activation, numbers.Normal(kLength * layer.width(), 1.5f));
    Model model(GetParam(), layer, {qkv});
    model.Step({{0, 39}});
    model.Step({{0, 13}});
    model.Step({{0, 1}});
    const auto& got = model.output(0);
    const double noise = layer.activation == kBf16 || layer.cache == kBf16 ? 0.02 : 2e-5;
    for (int64_t t = 0; t < kLength; ++t) {
      for (int64_t h = 0; h < layer.heads; ++h) {
        const auto want = Expected(layer, model.frequency(), qkv, t, h);
        for (int64_t d = 0; d < layer.head_size; ++d) {
          ASSERT_NEAR(got[(t * layer.heads + h) * layer.head_size + d], want[d],
                      Tolerance(layer.activation, want[d], noise))
              << "token " << t << " head " << h << " element " << d;
        }
      }
    }
  }
}

// Two sequences of 60 and 37 tokens in chunks of at most `chunk`, together or one after the other.
std::vector<std::vector<float>> InChunks(const Backend& backend, const Layer& layer,
                                         const std::vector<std::vector<float>>& qkv, int64_t chunk,
                                         bool together) {
  Model model(backend, layer, qkv);
  std::vector<int64_t> left = {60, 37};
  while (left[0] + left[1] > 0) {
    std::vector<Model::Part> parts;
    for (size_t s : {size_t{1}, size_t{0}}) {
      const int64_t n = std::min(left[s], chunk);
      if (n == 0 || (!together && !parts.empty())) continue;
      parts.push_back({s, n});
      left[s] -= n;
    }
    model.Step(parts);
  }
  return {model.output(0), model.output(1)};
}

TEST_P(AttentionTest, ChunksAndBatchDoNotShow) {
  Numbers numbers(32);
  for (const Layer& layer : kLayers) {
    const std::vector<std::vector<float>> qkv = {numbers.Normal(60 * layer.width(), 1.5f),
                                                 numbers.Normal(37 * layer.width(), 1.5f)};
    const auto want = InChunks({"plain", cpu::Isa::kPlain, 1}, layer, qkv, 100, false);
    for (int64_t chunk : {1, 3, 16, 17, 100}) {
      for (bool together : {false, true}) {
        const auto got = InChunks(GetParam(), layer, qkv, chunk, together);
        for (size_t s : {size_t{0}, size_t{1}}) {
          ExpectSameBits(got[s], want[s],
                         "chunk " + std::to_string(chunk) + (together ? " together" : " alone"));
        }
      }
    }
  }
}

TEST_P(AttentionTest, BlockSizeDoesNotShow) {
  Numbers numbers(33);
  Layer layer{.heads = 4, .kv_heads = 2, .head_size = 24, .rotary = 24};
  const std::vector<std::vector<float>> qkv = {numbers.Normal(60 * layer.width()),
                                               numbers.Normal(37 * layer.width())};
  const auto want = InChunks(GetParam(), layer, qkv, 100, true);
  for (int64_t block_size : {4, 5, 32, 48}) {
    layer.block_size = block_size;
    const auto got = InChunks(GetParam(), layer, qkv, 7, true);
    for (size_t s : {size_t{0}, size_t{1}}) {
      ExpectSameBits(got[s], want[s], "blocks of " + std::to_string(block_size));
    }
  }
}

// Blocks moved elsewhere by CopyBlocks answer like the originals.
TEST_P(AttentionTest, CopiedBlocksHoldTheSame) {
  Numbers numbers(34);
  const Layer layer{.activation = kBf16, .cache = kBf16, .heads = 4, .kv_heads = 2};
  const auto qkv = numbers.Normal(41 * layer.width());
  Model stays(GetParam(), layer, {qkv});
  Model moves(GetParam(), layer, {qkv});
  stays.Step({{0, 40}});
  moves.Step({{0, 40}});
  std::vector<int32_t> from = moves.tables()[0];
  std::vector<int32_t> to;
  for (size_t i = 0; i < from.size(); ++i) to.push_back(static_cast<int32_t>(5 + i));
  moves.device().ops().CopyBlocks(moves.device().context(), moves.kv(), from, to);
  moves.tables()[0] = to;
  stays.Step({{0, 1}});
  moves.Step({{0, 1}});
  ExpectSameBits(moves.output(0), stays.output(0), "after the copy");
}

// A hole in the table before the window (a freed block) is never looked at.
TEST_P(AttentionTest, WindowNeedsNoBlocksBeforeIt) {
  Numbers numbers(35);
  const Layer layer{.heads = 2, .kv_heads = 1, .window = 9};
  const auto qkv = numbers.Normal(50 * layer.width());
  Model whole(GetParam(), layer, {qkv});
  Model holed(GetParam(), layer, {qkv});
  for (Model* model : {&whole, &holed}) model->Step({{0, 49}});
  holed.tables()[0][0] = -1;
  holed.tables()[0][1] = -1;
  for (Model* model : {&whole, &holed}) model->Step({{0, 1}});
  ExpectSameBits(holed.output(0), whole.output(0), "with holes");
}

TEST_P(AttentionTest, RopeTurnsOnlyItsPartAndScalesByTheFactor) {
  Numbers numbers(36);
  Device device(GetParam());
  const Layer layer{.heads = 2, .kv_heads = 1, .head_size = 10, .rotary = 6};
  const auto qkv = numbers.Normal(layer.width());
  const std::vector<float> frequency = {1.0f, 0.3f, 0.01f};
  KvLayer kv{.storage = device.Output(DType::kUInt8, {1024}),
             .dtype = kF32,
             .num_blocks = 1,
             .block_size = 8,
             .num_heads = 1,
             .head_size = 10};
  StepView step;
  step.num_rows = step.num_tokens = 1;
  step.positions = device.PutInts({1}, {5});
  step.query_begin = device.PutInts({2}, {0, 1});
  step.kv_length = device.PutInts({1}, {6});
  step.block_table = device.PutInts({1, 1}, {0});
  const TensorView view = device.Put(kF32, {1, layer.width()}, qkv);
  device.ops().RopeAndStoreKv(device.context(), view, kv, step, {},
                              {.inv_frequency = device.Put(kF32, {3}, frequency),
                               .rotary_size = 6,
                               .attention_factor = 1.5f},
                              layer.spec());
  const auto got = device.Get(view, false);
  for (int64_t head = 0; head < 3; ++head) {
    for (int64_t i = 0; i < 10; ++i) {
      const float* x = &qkv[head * 10];
      const double angle = 5.0 * frequency[i % 3];
      double want = x[i];
      if (i < 3) want = 1.5 * (x[i] * std::cos(angle) - x[i + 3] * std::sin(angle));
      if (i >= 3 && i < 6) want = 1.5 * (x[i] * std::cos(angle) + x[i - 3] * std::sin(angle));
      EXPECT_NEAR(got[head * 10 + i], want, 1e-5) << head << " " << i;
    }
  }
  for (int64_t i = 30; i < 40; ++i) EXPECT_EQ(got[i], qkv[i]) << "values do not turn";
}

}  // namespace
}  // namespace tessera
