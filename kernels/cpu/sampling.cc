// The sampler's passes over one shard of the vocabulary. An entry belongs to one thread, which
// reads its logits in batches. NaN logits are passed over everywhere: they are never counted and
// never chosen.

#include <algorithm>
#include <array>
#include <bit>
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
// Logits that are looked at together; a multiple of the bits of a mask's word.
constexpr int64_t kBatch = 256;

void CheckRows(const LogitRows& rows) {
  TESSERA_CHECK(rows.logits.rank == 2 && rows.logits.dtype == DType::kFloat32)
      << "logits of rank " << rows.logits.rank << " " << DTypeName(rows.logits.dtype);
  for (const int32_t row : rows.row) {
    TESSERA_CHECK(row >= 0 && row < rows.logits.dims[0]) << row << " of " << rows.logits.dims[0];
  }
  if (rows.mask.empty()) return;
  TESSERA_CHECK(rows.mask.size() == rows.row.size() && rows.masks.dtype == DType::kInt32 &&
                rows.masks.dims[1] == (rows.logits.dims[1] + 31) / 32)
      << rows.mask.size() << " masks of " << rows.masks.dims[1] << " words";
  for (const int32_t mask : rows.mask) {
    TESSERA_CHECK(mask >= -1 && mask < rows.masks.dims[0]) << mask << " of " << rows.masks.dims[0];
  }
}

// The logits of one entry, batch by batch.
class RowReader {
 public:
  RowReader(const LogitRows& rows, size_t entry)
      : logits_(Row<const float>(rows.logits, rows.row[entry])), size_(rows.logits.dims[1]) {
    if (!rows.mask.empty() && rows.mask[entry] >= 0) {
      mask_ = Row<const uint32_t>(rows.masks, rows.mask[entry]);
    }
  }

  // visit(begin, logits, n) for every batch, in order; n <= kBatch.
  template <typename Visit>
  void ForBatches(Visit visit) const {
    float masked[kBatch];
    for (int64_t begin = 0; begin < size_; begin += kBatch) {
      const int64_t n = std::min(kBatch, size_ - begin);
      const float* batch = logits_ + begin;
      if (mask_ != nullptr) {
        for (int64_t i = 0; i < n; ++i) {
          masked[i] = (mask_[(begin + i) / 32] >> (i % 32)) & 1 ? batch[i] : kLowest;
        }
        batch = masked;
      }
      visit(begin, batch, n);
    }
  }

 private:
  const float* const logits_;
  const int64_t size_;
  const uint32_t* mask_ = nullptr;
};

// body(entry, reader) for every entry, shared out over the threads.
template <typename Body>
void ForEntries(const ExecContext& context, const LogitRows& rows, Body body) {
  CheckRows(rows);
  ParallelFor(context.threads, static_cast<int64_t>(rows.row.size()),
              1 + kGrain / (rows.logits.dims[1] + 1), [&](int64_t begin, int64_t end) {
                for (int64_t entry = begin; entry < end; ++entry) {
                  body(static_cast<size_t>(entry), RowReader(rows, static_cast<size_t>(entry)));
                }
              });
}

// Writes the n largest of a row to `best`, which holds n candidates without token.
void FindTop(const KernelTable& kernels, const RowReader& row, int64_t vocab_begin, Candidate* best,
             int n) {
  row.ForBatches([&](int64_t begin, const float* x, int64_t size) {
    Candidate& last = best[n - 1];
    if (last.token >= 0 && !(kernels.max(x, size) > last.score)) return;
    for (int64_t i = 0; i < size; ++i) {
      // Among equals the one that came first stays.
      if (!(x[i] > last.score || (last.token < 0 && x[i] == x[i]))) continue;
      int place = n - 1;
      for (; place > 0 && (best[place - 1].token < 0 || x[i] > best[place - 1].score); --place) {
        best[place] = best[place - 1];
      }
      best[place] = {x[i], static_cast<int32_t>(vocab_begin + begin + i)};
    }
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
    for (int64_t i = 0; i < filled_; ++i) {
      const uint32_t byte = LogitKeyDigit(LogitKey(batch_[i]), digit_);
      ++count_[byte];
      mass_[byte] += Mass(weight[i]);
    }
    filled_ = 0;
  }

 private:
  // round(2^40 * weight), ties to even, for weights in [0, 2): a sum with 2^52 has no bits below
  // one.
  static uint64_t Mass(float weight) {
    return std::bit_cast<uint64_t>(0x1p40 * weight + 0x1p52) & 0xfffffffffffffu;
  }

  const KernelTable& kernels_;
  const float max_;
  const float inv_temperature_;
  const int digit_;
  uint32_t* const count_;
  uint64_t* const mass_;
  int64_t filled_ = 0;
  float batch_[kBatch];
};

// Gumbel-max over the tokens of one row in order of id. Tokens that cannot beat the best
// score so far are passed over without their noise: since -log(u) >= 1 - u, the noise is at
// most -log(1 - u), so a token with scaled logit s loses against b when 1 - u > exp(s - b);
// and 1 - u is never below 2^-33.
class RowDraw {
 public:
  RowDraw(const KernelTable& kernels, const DrawRow& draw, int64_t vocab_begin)
      : kernels_(kernels), draw_(draw), vocab_begin_(vocab_begin) {}

  Candidate Run(const RowReader& row) {
    if (draw_.threshold > std::numeric_limits<float>::max() && draw_.ties_kept == 0) return best_;
    // The largest logit first, so that the bound is tight from the start.
    Candidate top{kLowest, -1};
    FindTop(kernels_, row, vocab_begin_, &top, 1);
    const bool tie = top.score == draw_.threshold && (draw_.ties_kept > 0 || top.score == kLowest);
    if (top.token < 0 || !(top.score > draw_.threshold || tie)) return best_;
    Offer(static_cast<uint32_t>(top.token), top.score);
    row.ForBatches([&](int64_t begin, const float* x, int64_t n) { RunBatch(begin, x, n); });
    return best_;
  }

 private:
  static constexpr float kOneMinusUniformMin = 0x1p-33f;

  void RunBatch(int64_t begin, const float* x, int64_t n) {
    // exp(s - b) in float32, enlarged by more than any rounding here and in the score.
    const double slack = 1e-3 + 1e-6 * std::fabs(best_.score);
    const float bar = static_cast<float>((best_.score - slack) / draw_.inv_temperature);
    float limit[kBatch];
    kernels_.exp_scaled(limit, x, n, bar, draw_.inv_temperature);
    for (int64_t i = 0; i < n; ++i) {
      if (!Keeps(x[i]) || limit[i] < kOneMinusUniformMin) continue;
      const uint32_t token = static_cast<uint32_t>(vocab_begin_ + begin + i);
      if (OneMinusUniform(Word(token)) > limit[i]) continue;
      Offer(token, x[i]);
    }
  }

  uint32_t Word(uint32_t token) {
    if (group_ != token >> 2) {
      group_ = token >> 2;
      words_ = GumbelWords(draw_.seed, draw_.position, draw_.choice, group_);
    }
    return words_[token & 3];
  }

  // To be asked once for every token, in order.
  bool Keeps(float logit) {
    if (logit > draw_.threshold) return true;
    if (logit != draw_.threshold) return false;
    return logit == kLowest || ties_++ < draw_.ties_kept;
  }

  void Offer(uint32_t token, float logit) {
    const double scaled = static_cast<double>(logit) * draw_.inv_temperature;
    const Candidate candidate{static_cast<float>(scaled + GumbelFromWord(Word(token))),
                              static_cast<int32_t>(token)};
    if (best_.token < 0 || candidate.score > best_.score ||
        (candidate.score == best_.score && candidate.token < best_.token)) {
      best_ = candidate;
    }
  }

  const KernelTable& kernels_;
  const DrawRow& draw_;
  const int64_t vocab_begin_;
  Candidate best_{kLowest, -1};
  int64_t ties_ = 0;
  uint32_t group_ = 0xffffffffu;  // no token's: ids are below 2^31
  PhiloxCounter words_{};
};

float& At(const TensorView& logits, const LogitPlace& place) {
  TESSERA_CHECK(place.row >= 0 && place.row < logits.dims[0] && place.column >= 0 &&
                place.column < logits.dims[1])
      << "[" << place.row << ", " << place.column << "] of [" << logits.dims[0] << ", "
      << logits.dims[1] << "]";
  return Row<float>(logits, place.row)[place.column];
}

}  // namespace

void CpuOps::TopLogits(const ExecContext& context, std::vector<Candidate>& best,
                       const LogitRows& rows, int n) {
  TESSERA_CHECK(n >= 1 && n <= kTopLogitsMax) << n;
  best.assign(rows.row.size() * n, Candidate{kLowest, -1});
  ForEntries(context, rows, [&](size_t entry, const RowReader& row) {
    FindTop(kernels_, row, rows.vocab_begin, &best[entry * n], n);
  });
}

void CpuOps::MassHistogram(const ExecContext& context, std::vector<uint32_t>& count,
                           std::vector<uint64_t>& mass, const LogitRows& rows,
                           const std::vector<uint32_t>& prefix, int digit,
                           const std::vector<float>& max,
                           const std::vector<float>& inv_temperature) {
  const size_t entries = rows.row.size();
  TESSERA_CHECK(prefix.size() == entries && max.size() == entries &&
                inv_temperature.size() == entries && digit >= 0 && digit <= 3)
      << entries << " entries, digit " << digit;
  count.resize(entries * 256);
  mass.resize(entries * 256);
  ForEntries(context, rows, [&](size_t entry, const RowReader& row) {
    RowHistogram histogram(kernels_, max[entry], inv_temperature[entry], digit, &count[entry * 256],
                           &mass[entry * 256]);
    row.ForBatches([&](int64_t, const float* x, int64_t n) {
      for (int64_t i = 0; i < n; ++i) {
        if (x[i] == x[i] && LogitKeyMatches(LogitKey(x[i]), prefix[entry], digit)) {
          histogram.Add(x[i]);
        }
      }
    });
    histogram.Flush();
  });
}

void CpuOps::Draw(const ExecContext& context, std::vector<Candidate>& best, const LogitRows& rows,
                  const std::vector<DrawRow>& draws) {
  TESSERA_CHECK(draws.size() == rows.row.size())
      << draws.size() << " draws for " << rows.row.size() << " entries";
  best.assign(draws.size(), Candidate{kLowest, -1});
  ForEntries(context, rows, [&](size_t entry, const RowReader& row) {
    best[entry] = RowDraw(kernels_, draws[entry], rows.vocab_begin).Run(row);
  });
}

void CpuOps::GatherLogits(const ExecContext&, std::vector<float>& values, TensorView logits,
                          const std::vector<LogitPlace>& at) {
  values.clear();
  for (const LogitPlace& place : at) values.push_back(At(logits, place));
}

void CpuOps::ScatterLogits(const ExecContext&, TensorView logits, const std::vector<LogitPlace>& at,
                           const std::vector<float>& values) {
  TESSERA_CHECK(values.size() == at.size())
      << values.size() << " logits, " << at.size() << " places";
  for (size_t i = 0; i < at.size(); ++i) At(logits, at[i]) = values[i];
}

}  // namespace tessera::cpu
