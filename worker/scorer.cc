// Scoring, top down: largest logits of each row and the wanted tokens' own -> one exchange -> mass
// of each row -> one exchange -> log probabilities.

#include "worker/scorer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/status.h"
#include "worker/shard_candidates.h"

namespace tessera {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr int kMassBuckets = 256;  // of Ops::MassHistogram

// Natural logarithm of the probability of a logit.
float LogProbability(float logit, float maximum, uint64_t mass) {
  if (!(logit > kLowest)) return kLowest;
  // Not a difference: infinity minus infinity is not a number.
  const double below = logit == maximum ? 0.0 : static_cast<double>(logit) - maximum;
  return static_cast<float>(below - std::log(static_cast<double>(mass) * 0x1p-40));
}

// The masses of whole rows, [R] in units of 2^-40 of the largest token's.
absl::Status SumMasses(const ExecContext& ctx, Ops& ops, Communicator& comm, const LogitRows& rows,
                       const std::vector<float>& maxima, std::vector<uint64_t>& sums) {
  const size_t n = rows.row.size();
  std::vector<uint32_t> count(n * kMassBuckets, 0);
  std::vector<uint64_t> mass(n * kMassBuckets, 0);
  constexpr int kTopDigit = 3;  // of which every token counts
  ops.MassHistogram(ctx, count, mass, rows, std::vector<uint32_t>(n, 0), kTopDigit, maxima,
                    std::vector<float>(n, 1.0f));
  std::vector<uint64_t> mine(n);
  for (size_t r = 0; r < n; ++r) {
    const auto begin = mass.begin() + r * kMassBuckets;
    mine[r] = std::accumulate(begin, begin + kMassBuckets, uint64_t{0});
  }
  std::vector<uint64_t> all(n * comm.size());
  TESSERA_RETURN_IF_ERROR(comm.AllGatherHost(all.data(), mine.data(), n * sizeof(uint64_t)));
  sums.assign(n, 0);
  for (size_t i = 0; i < all.size(); ++i) sums[i % n] += all[i];
  return absl::OkStatus();
}

// The logits of the rows' tokens that lie on this shard, {-inf, -1} for the others.
std::vector<Candidate> OwnLogits(const ExecContext& ctx, Ops& ops, TensorView logits,
                                 int64_t vocab_begin, const std::vector<ScoreRow>& rows) {
  std::vector<LogitPlace> places;
  std::vector<size_t> owner;  // of places: the row
  for (size_t r = 0; r < rows.size(); ++r) {
    const int64_t column = rows[r].token - vocab_begin;
    if (rows[r].token < 0 || column < 0 || column >= logits.dims[1]) continue;
    places.push_back({rows[r].logits_row, static_cast<int32_t>(column)});
    owner.push_back(r);
  }
  std::vector<float> values;
  if (!places.empty()) ops.GatherLogits(ctx, values, logits, places);
  std::vector<Candidate> own(rows.size(), Candidate{kLowest, -1});
  for (size_t i = 0; i < values.size(); ++i) own[owner[i]] = {values[i], rows[owner[i]].token};
  return own;
}

}  // namespace

absl::Status Scorer::Score(const ExecContext& ctx, Scores& scores, TensorView logits,
                           const std::vector<ScoreRow>& rows) {
  scores = Scores();
  if (rows.empty()) return absl::OkStatus();
  LogitRows distinct = {.logits = logits, .vocab_begin = vocab_begin_};
  std::vector<int32_t> place(logits.dims[0], -1);  // of a row of logits among the distinct ones
  size_t n = 1;                                    // candidates per row; the first is the maximum
  for (const ScoreRow& row : rows) {
    TESSERA_CHECK(logits.rank == 2 && row.logits_row >= 0 && row.logits_row < logits.dims[0] &&
                  row.top <= kTopMax)
        << "row " << row.logits_row << " of " << logits.dims[0] << ", top " << row.top;
    n = std::max<size_t>(n, row.top);
    int32_t& known = place[row.logits_row];
    if (known >= 0) continue;
    known = static_cast<int32_t>(distinct.row.size());
    distinct.row.push_back(row.logits_row);
  }

  const size_t num_distinct = distinct.row.size();
  std::vector<Candidate> mine;
  ops_.TopLogits(ctx, mine, distinct, static_cast<int>(n));
  const std::vector<Candidate> own = OwnLogits(ctx, ops_, logits, vocab_begin_, rows);
  mine.insert(mine.end(), own.begin(), own.end());
  std::vector<Candidate> all(mine.size() * comm_.size());
  TESSERA_RETURN_IF_ERROR(
      comm_.AllGatherHost(all.data(), mine.data(), mine.size() * sizeof(Candidate)));
  std::vector<Candidate> top;                                          // [ranks, distinct, n]
  std::vector<Candidate> scored(rows.size(), Candidate{kLowest, -1});  // by the rank that owns it
  for (int rank = 0; rank < comm_.size(); ++rank) {
    const auto begin = all.begin() + rank * mine.size();
    top.insert(top.end(), begin, begin + num_distinct * n);
    for (size_t r = 0; r < rows.size(); ++r) {
      const Candidate& candidate = begin[num_distinct * n + r];
      if (candidate.token >= 0) scored[r] = candidate;
    }
  }
  top = MergeShards(top, num_distinct, n);

  std::vector<float> maxima;
  for (size_t d = 0; d < num_distinct; ++d) maxima.push_back(top[d * n].score);
  std::vector<uint64_t> masses;
  TESSERA_RETURN_IF_ERROR(SumMasses(ctx, ops_, comm_, distinct, maxima, masses));
  for (size_t r = 0; r < rows.size(); ++r) {
    const size_t d = place[rows[r].logits_row];
    const auto log_probability = [&](float logit) {
      return LogProbability(logit, maxima[d], masses[d]);
    };
    scores.logprobs.push_back(log_probability(scored[r].score));
    scores.num_top.push_back(0);
    for (size_t i = 0; i < rows[r].top; ++i) {
      const float logprob = log_probability(top[d * n + i].score);
      if (!(logprob > kLowest)) break;
      ++scores.num_top.back();
      scores.top_tokens.push_back(top[d * n + i].token);
      scores.top_logprobs.push_back(logprob);
    }
  }
  return absl::OkStatus();
}

}  // namespace tessera
