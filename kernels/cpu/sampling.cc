// The sampler's passes over one shard of the vocabulary. A row belongs to one thread. NaN logits
// are passed over everywhere: they are never counted and never chosen.

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/logit_key.h"
#include "kernels/philox.h"

namespace tessera::cpu {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
// Logits worth handing to another thread.
constexpr int64_t kGrain = 8 << 10;
// Logits whose exponentials are taken together.
constexpr int kBatch = 256;

void CheckLogits(const TensorView& logits) {
  TESSERA_CHECK(logits.rank == 2 && logits.dtype == DType::kFloat32)
      << "logits of rank " << logits.rank << " " << DTypeName(logits.dtype);
}

// Rows [begin, end) of R.
template <typename Body>
void ForRows(const ExecContext& context, const TensorView& logits, Body body) {
  ParallelFor(context.threads, logits.dims[0], 1 + kGrain / (logits.dims[1] + 1),
              [&](int64_t begin, int64_t end) {
                for (int64_t row = begin; row < end; ++row) body(row);
              });
}

// Adds a row's part to count [256] and mass [256].
class RowHistogram {
 public:
  RowHistogram(const KernelTable& kernels, float max, float inv_temperature, int digit,
               uint32_t* count, uint64_t* mass)
      : kernels_(kernels),
        max_(max),
        inv_temperature_(inv_temperature),
        digit_(digit),
        count_(count),
        mass_(mass) {}

  void Add(float logit) {
    batch_[filled_++] = logit;
    if (filled_ == kBatch) Flush();
  }

  void Flush() {
    float weight[kBatch];
    kernels_.exp_scaled(weight, batch_, filled_, max_, inv_temperature_);
    for (int i = 0; i < filled_; ++i) {
      const uint32_t byte = LogitKeyDigit(LogitKey(batch_[i]), digit_);
      ++count_[byte];
      mass_[byte] += static_cast<uint64_t>(std::llrint(0x1p40 * weight[i]));
    }
    filled_ = 0;
  }

 private:
  const KernelTable& kernels_;
  const float max_;
  const float inv_temperature_;
  const int digit_;
  uint32_t* const count_;
  uint64_t* const mass_;
  int filled_ = 0;
  float batch_[kBatch];
};

// Index of the first logit equal to `value`, -1 if there is none.
int64_t FirstEqual(const float* logits, int64_t n, float value) {
  for (int64_t i = 0; i < n; ++i) {
    if (logits[i] == value) return i;
  }
  return -1;
}

// Gumbel-max over the tokens of one row in order of id. Tokens that cannot beat the best
// score so far are passed over without their noise: since -log(u) >= 1 - u, the noise is at
// most -log(1 - u), so a token with scaled logit s loses against b when 1 - u > exp(s - b);
// and 1 - u is never below 2^-33.
class RowDraw {
 public:
  RowDraw(const KernelTable& kernels, const DrawRow& row, int64_t vocab_begin)
      : kernels_(kernels), row_(row), vocab_begin_(vocab_begin) {}

  Candidate Run(const float* logits, int64_t n) {
    // The largest logit first, so that the bound is tight from the start.
    const float top = kernels_.max(logits, n);
    const int64_t first = FirstEqual(logits, n, top);
    const bool tie = top == row_.threshold && (row_.ties_kept > 0 || top == kLowest);
    if (first < 0 || !(top > row_.threshold || tie)) return best_;
    Offer(first, logits[first]);
    for (int64_t i = 0; i < n; i += kBatch) {
      RunBatch(logits, i, std::min<int64_t>(kBatch, n - i));
    }
    return best_;
  }

 private:
  static constexpr float kOneMinusUniformMin = 0x1p-33f;

  void RunBatch(const float* logits, int64_t begin, int64_t n) {
    // exp(s - b) in float32, enlarged by more than any rounding here and in the score.
    const double slack = 1e-3 + 1e-6 * std::fabs(best_.score);
    const float bar = static_cast<float>((best_.score - slack) / row_.inv_temperature);
    float limit[kBatch];
    kernels_.exp_scaled(limit, logits + begin, n, bar, row_.inv_temperature);
    for (int64_t i = 0; i < n; ++i) {
      if (!Keeps(logits[begin + i]) || limit[i] < kOneMinusUniformMin) continue;
      if (OneMinusUniform(Word(Token(begin + i))) > limit[i]) continue;
      Offer(begin + i, logits[begin + i]);
    }
  }

  uint32_t Token(int64_t index) const { return static_cast<uint32_t>(vocab_begin_ + index); }

  uint32_t Word(uint32_t token) {
    if (group_ != token >> 2) {
      group_ = token >> 2;
      words_ = GumbelWords(row_.seed, row_.position, row_.choice, group_);
    }
    return words_[token & 3];
  }

  // To be asked once for every token, in order.
  bool Keeps(float logit) {
    if (logit > row_.threshold) return true;
    if (logit != row_.threshold) return false;
    return logit == kLowest || ties_++ < row_.ties_kept;
  }

  void Offer(int64_t index, float logit) {
    const uint32_t token = Token(index);
    const double scaled = static_cast<double>(logit) * row_.inv_temperature;
    const Candidate candidate{static_cast<float>(scaled + GumbelFromWord(Word(token))),
                              static_cast<int32_t>(token)};
    if (best_.token < 0 || candidate.score > best_.score ||
        (candidate.score == best_.score && candidate.token < best_.token)) {
      best_ = candidate;
    }
  }

  const KernelTable& kernels_;
  const DrawRow& row_;
  const int64_t vocab_begin_;
  Candidate best_{kLowest, -1};
  int64_t ties_ = 0;
  uint32_t group_ = 0xffffffffu;  // no token's: ids are below 2^31
  PhiloxCounter words_{};
};

}  // namespace

void CpuOps::ArgMax(const ExecContext& context, std::vector<Candidate>& best, TensorView logits,
                    int64_t vocab_begin) {
  CheckLogits(logits);
  best.assign(logits.dims[0], Candidate{kLowest, -1});
  ForRows(context, logits, [&](int64_t row) {
    const float* x = Row<const float>(logits, row);
    const int64_t first = FirstEqual(x, logits.dims[1], kernels_.max(x, logits.dims[1]));
    if (first >= 0) best[row] = {x[first], static_cast<int32_t>(vocab_begin + first)};
  });
}

void CpuOps::MassHistogram(const ExecContext& context, std::vector<uint32_t>& count,
                           std::vector<uint64_t>& mass, TensorView logits,
                           const std::vector<uint8_t>& active, const std::vector<uint32_t>& prefix,
                           int digit, const std::vector<float>& max,
                           const std::vector<float>& inv_temperature) {
  CheckLogits(logits);
  const size_t rows = static_cast<size_t>(logits.dims[0]);
  TESSERA_CHECK(active.size() == rows && prefix.size() == rows && max.size() == rows &&
                inv_temperature.size() == rows && digit >= 0 && digit <= 3)
      << rows << " rows, digit " << digit;
  count.resize(rows * 256);
  mass.resize(rows * 256);
  ForRows(context, logits, [&](int64_t row) {
    if (!active[row]) return;
    const float* x = Row<const float>(logits, row);
    RowHistogram histogram(kernels_, max[row], inv_temperature[row], digit, &count[row * 256],
                           &mass[row * 256]);
    for (int64_t i = 0; i < logits.dims[1]; ++i) {
      if (x[i] == x[i] && LogitKeyMatches(LogitKey(x[i]), prefix[row], digit)) histogram.Add(x[i]);
    }
    histogram.Flush();
  });
}

void CpuOps::Draw(const ExecContext& context, std::vector<Candidate>& best, TensorView logits,
                  int64_t vocab_begin, const std::vector<DrawRow>& rows) {
  CheckLogits(logits);
  TESSERA_CHECK(rows.size() == static_cast<size_t>(logits.dims[0]))
      << rows.size() << " draws for " << logits.dims[0] << " rows";
  best.assign(rows.size(), Candidate{kLowest, -1});
  ForRows(context, logits, [&](int64_t row) {
    best[row] = RowDraw(kernels_, rows[row], vocab_begin)
                    .Run(Row<const float>(logits, row), logits.dims[1]);
  });
}

}  // namespace tessera::cpu
