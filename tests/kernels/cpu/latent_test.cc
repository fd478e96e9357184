// Latent attention: products per head, the entry that is stored, and attention whose values are the
// first elements of its keys. Against double precision; chunks and instruction set must not show.

#include <algorithm>

#include "tests/kernels/op_fixture.h"

namespace tessera::latent_test {
namespace {

struct Sizes {
  int64_t heads = 3, nope = 10, rope = 4, rank = 18, block_size = 16;
  DType dtype = kF32;
  bool interleaved = true;

  int64_t head() const { return nope + rope; }
  int64_t entry() const { return rank + rope; }
};

const Sizes kSizes[] = {
    {},
    {.heads = 20, .nope = 6, .rope = 2, .rank = 32, .block_size = 5, .interleaved = false},
    {.heads = 2, .nope = 24, .rope = 8, .rank = 40, .block_size = 32, .dtype = kBf16},
    {.heads = 1, .nope = 128, .rope = 64, .rank = 512},  // as published
};

constexpr float kEps = 1e-6f;

std::vector<float> Frequencies(const Sizes& sizes) {
  std::vector<float> frequency;
  for (int64_t i = 0; i < sizes.rope / 2; ++i)
    frequency.push_back(0.7f / static_cast<float>(i + 1));
  return frequency;
}

// One sequence: its queries before and after they are brought to the latent, and latents.
struct Sequence {
  Sequence(const Sizes& sizes, int64_t length, Numbers& numbers)
      : q(Rounded(sizes.dtype, numbers.Normal(length * sizes.heads * sizes.head()))),
        query(Rounded(sizes.dtype, numbers.Normal(length * sizes.heads * sizes.entry(), 0.5f))),
        latent(Rounded(sizes.dtype, numbers.Normal(length * sizes.entry()))),
        norm(Rounded(sizes.dtype, numbers.Normal(sizes.rank))) {}
  std::vector<float> q, query, latent, norm;
};

AttentionSpec SpecOf(const Sizes& sizes) {
  return {.num_heads = sizes.heads,
          .num_kv_heads = 1,
          .head_size = sizes.entry(),
          .scale = 0.3f,
          .value_size = sizes.rank};
}

// Runs the sequence in chunks; [length, heads, rank].
std::vector<float> RunLatent(const Backend& backend, const Sizes& sizes, const Sequence& sequence,
                             const std::vector<int64_t>& chunks) {
  Device device(backend);
  KvLayer kv{.storage = {},
             .dtype = sizes.dtype,
             .num_blocks = 16,
             .block_size = sizes.block_size,
             .num_heads = 1,
             .head_size = sizes.entry(),
             .latent = true};
  const int64_t bytes = static_cast<int64_t>(device.ops().KvLayerBytes(kv));
  EXPECT_EQ(bytes,
            16 * sizes.block_size * sizes.entry() * static_cast<int64_t>(DTypeSize(sizes.dtype)));
  kv.storage = device.Output(DType::kUInt8, {bytes});
  std::vector<int32_t> table;
  for (int32_t i = 0; i < 16; ++i) table.push_back((i * 7 + 3) % 16);
  const auto rows = [&](const std::vector<float>& all, int64_t width, int64_t begin, int64_t n) {
    const auto from = all.begin() + begin * width;
    return device.Put(sizes.dtype, {n, width}, std::vector<float>(from, from + n * width));
  };
  std::vector<float> result;
  int64_t done = 0;
  for (int64_t n : chunks) {
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < n; ++i) positions.push_back(static_cast<int32_t>(done + i));
    StepView step;
    step.num_rows = 1;
    step.num_tokens = n;
    step.positions = device.PutInts({n}, positions);
    step.query_begin = device.PutInts({2}, {0, static_cast<int32_t>(n)});
    step.kv_length = device.PutInts({1}, {static_cast<int32_t>(done + n)});
    step.block_table = device.PutInts({1, 16}, table);
    const TensorView query = rows(sequence.query, sizes.heads * sizes.entry(), done, n);
    device.ops().RopeAndStoreLatent(
        device.context(), query, rows(sequence.q, sizes.heads * sizes.head(), done, n),
        rows(sequence.latent, sizes.entry(), done, n), kv, step,
        {.weight = device.Put(sizes.dtype, {sizes.rank}, sequence.norm), .eps = kEps},
        {.inv_frequency = device.Put(kF32, {sizes.rope / 2}, Frequencies(sizes)),
         .rotary_size = sizes.rope,
         .attention_factor = 1.25f,
         .interleaved = sizes.interleaved},
        SpecOf(sizes));
    const TensorView out = device.Output(sizes.dtype, {n, sizes.heads * sizes.rank});
    device.ops().PagedAttention(device.context(), out, query, kv, step, SpecOf(sizes));
    const std::vector<float> got = device.Get(out);
    result.insert(result.end(), got.begin(), got.end());
    done += n;
  }
  return result;
}

// The turning part `x`, as it must lie behind the rest.
std::vector<double> Turned(const Sizes& sizes, const float* x, int64_t position) {
  std::vector<double> turned(static_cast<size_t>(sizes.rope));
  const std::vector<float> frequency = Frequencies(sizes);
  for (int64_t i = 0; i < sizes.rope / 2; ++i) {
    const int64_t a = sizes.interleaved ? 2 * i : i;
    const int64_t b = sizes.interleaved ? 2 * i + 1 : i + sizes.rope / 2;
    const double angle = static_cast<double>(position) * frequency[i];
    turned[a] = 1.25 * (x[a] * std::cos(angle) - x[b] * std::sin(angle));
    turned[b] = 1.25 * (x[b] * std::cos(angle) + x[a] * std::sin(angle));
  }
  for (double& value : turned) value = Rounded(sizes.dtype, static_cast<float>(value));
  return turned;
}

std::vector<double> Entry(const Sizes& sizes, const Sequence& sequence, int64_t position) {
  const float* latent = &sequence.latent[position * sizes.entry()];
  double squares = 0;
  for (int64_t d = 0; d < sizes.rank; ++d) squares += static_cast<double>(latent[d]) * latent[d];
  const double rms = std::sqrt(squares / static_cast<double>(sizes.rank) + kEps);
  std::vector<double> entry;
  for (int64_t d = 0; d < sizes.rank; ++d) {
    entry.push_back(Rounded(sizes.dtype, static_cast<float>(latent[d] / rms * sequence.norm[d])));
  }
  const std::vector<double> turned = Turned(sizes, latent + sizes.rank, position);
  entry.insert(entry.end(), turned.begin(), turned.end());
  return entry;
}

std::vector<double> Expected(const Sizes& sizes, const Sequence& sequence, int64_t position,
                             int64_t head) {
  const float* whole = &sequence.query[(position * sizes.heads + head) * sizes.entry()];
  std::vector<double> query(whole, whole + sizes.rank);
  const float* q = &sequence.q[(position * sizes.heads + head) * sizes.head()];
  const std::vector<double> turned = Turned(sizes, q + sizes.nope, position);
  query.insert(query.end(), turned.begin(), turned.end());
  std::vector<double> out(static_cast<size_t>(sizes.rank));
  double total = 0;
  for (int64_t t = 0; t <= position; ++t) {
    const std::vector<double> entry = Entry(sizes, sequence, t);
    double score = 0;
    for (int64_t d = 0; d < sizes.entry(); ++d) score += query[d] * entry[d];
    const double weight = std::exp(score * 0.3f);
    total += weight;
    for (int64_t d = 0; d < sizes.rank; ++d) out[d] += weight * entry[d];
  }
  for (double& value : out) value /= total;
  return out;
}

class LatentTest : public OpTest {};
INSTANTIATE_TEST_SUITE_P(All, LatentTest, testing::ValuesIn(Backends()), BackendName);

TEST_P(LatentTest, MatchesDoublePrecision) {
  Numbers numbers(81);
  for (const Sizes& sizes : kSizes) {
    SCOPED_TRACE(testing::Message() << sizes.heads << " heads, rank " << sizes.rank);
    constexpr int64_t kLength = 37;
    const Sequence sequence(sizes, kLength, numbers);
    const std::vector<float> got = RunLatent(GetParam(), sizes, sequence, {20, 16, 1});
    const double noise = sizes.dtype == kBf16 ? 0.03 : 5e-5;
    for (int64_t t = 0; t < kLength; ++t) {
      for (int64_t h = 0; h < sizes.heads; ++h) {
        const std::vector<double> want = Expected(sizes, sequence, t, h);
        for (int64_t d = 0; d < sizes.rank; ++d) {
          ASSERT_NEAR(got[(t * sizes.heads + h) * sizes.rank + d], want[d], noise)
              << "token " << t << " head " << h << " element " << d;
        }
      }
    }
  }
}

TEST_P(LatentTest, ChunksAndBackendDoNotShow) {
  Numbers numbers(82);
  for (const Sizes& sizes : kSizes) {
    const Sequence sequence(sizes, 50, numbers);
    const std::vector<float> want =
        RunLatent({"plain", cpu::Isa::kPlain, 1}, sizes, sequence, {50});
    for (const std::vector<int64_t>& chunks :
         {std::vector<int64_t>{50}, {1, 49}, {17, 16, 17}, {48, 1, 1}}) {
      ExpectSameBits(RunLatent(GetParam(), sizes, sequence, chunks), want, "chunks");
    }
  }
}

TEST_P(LatentTest, HeadsAreMultipliedApart) {
  Numbers numbers(83);
  // heads, N, K, elements of a head of out and of x, rows
  const std::vector<std::vector<int64_t>> cases = {{3, 18, 10, 22, 14, 5},
                                                   {8, 512, 128, 576, 192, 2},
                                                   {2, 16, 16, 16, 16, 300},
                                                   {5, 1, 7, 1, 9, 1}};
  for (DType dtype : {kF32, kBf16}) {
    for (const std::vector<int64_t>& c : cases) {
      const int64_t heads = c[0], n = c[1], k = c[2], wide = c[3], from = c[4], rows = c[5];
      Device device(GetParam());
      const auto x = Rounded(dtype, numbers.Normal(rows * heads * from));
      const auto w = Rounded(dtype, numbers.Normal(heads * n * k));
      const auto weight = device.PutWeight({.rows = heads * n, .columns = k, .dtype = dtype},
                                           device.Put(dtype, {heads * n, k}, w));
      const TensorView out = device.Output(dtype, {rows, heads * wide});
      device.ops().MatMulHeads(device.context(), out, device.Put(dtype, {rows, heads * from}, x),
                               *weight, heads);
      const std::vector<float> got = device.Get(out);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < heads * wide; ++i) {
          const float value = got[r * heads * wide + i];
          if (i % wide >= n) {
            ASSERT_TRUE(std::isnan(value)) << "wrote behind a head";
            continue;
          }
          double want = 0;
          for (int64_t j = 0; j < k; ++j) {
            want += static_cast<double>(x[(r * heads + i / wide) * from + j]) *
                    w[(i / wide * n + i % wide) * k + j];
          }
          ASSERT_NEAR(value, want, Tolerance(dtype, want, 1e-4)) << r << " " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tessera::latent_test
