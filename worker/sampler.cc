// Sampling, top down: largest logits -> cuts for the rows that have one -> draw. Everything that
// crosses shards is gathered from all ranks and combined by all alike, in rank order.

#include "worker/sampler.h"

#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/status.h"
#include "worker/top_cut.h"

namespace tessera {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

bool IsGreedy(const SampleRow& row) {
  // Written so that a temperature or top_p of NaN is greedy too.
  return !(row.temperature >= Sampler::kTemperatureMin) || row.top_k == 1;
}

bool HasTopK(const SampleRow& row, int64_t vocab_size) {
  return row.top_k > 0 && row.top_k < vocab_size;
}
bool HasTopP(const SampleRow& row) { return row.top_p < 1.0f; }

// Candidates of all shards [ranks, R] -> the best of each row. Shards hold ascending ids, so the
// first of equals is the lowest. -inf and no token where no shard has one.
std::vector<Candidate> BestOfShards(const std::vector<Candidate>& all, size_t rows) {
  std::vector<Candidate> best(rows, Candidate{-kInfinity, -1});
  for (size_t i = 0; i < all.size(); ++i) {
    Candidate& so_far = best[i % rows];
    const bool better = so_far.token < 0 || all[i].score > so_far.score;
    if (all[i].token >= 0 && better) so_far = all[i];
  }
  return best;
}

absl::Status Combine(Communicator& comm, std::vector<Candidate>& best) {
  std::vector<Candidate> all(best.size() * comm.size());
  TESSERA_RETURN_IF_ERROR(
      comm.AllGatherHost(all.data(), best.data(), best.size() * sizeof(Candidate)));
  best = BestOfShards(all, best.size());
  return absl::OkStatus();
}

}  // namespace

absl::Status Sampler::Sample(const ExecContext& ctx, std::vector<int32_t>& tokens,
                             TensorView logits, const std::vector<SampleRow>& rows) {
  const size_t num_rows = rows.size();
  TESSERA_CHECK(logits.rank == 2 && logits.dims[0] == static_cast<int64_t>(num_rows))
      << logits.dims[0] << " rows of logits for " << num_rows << " rows";
  tokens.assign(num_rows, kNoToken);
  if (num_rows == 0) return absl::OkStatus();

  bool any_draw = false;
  bool any_maximum = false;  // wanted by greedy rows and by cuts
  for (const SampleRow& row : rows) {
    const bool greedy = IsGreedy(row);
    any_draw = any_draw || !greedy;
    any_maximum = any_maximum || greedy || HasTopK(row, vocab_size_) || HasTopP(row);
  }

  std::vector<Candidate> maximum(num_rows);
  if (any_maximum) {
    ops_.ArgMax(ctx, maximum, logits, vocab_begin_);
    TESSERA_RETURN_IF_ERROR(Combine(comm_, maximum));
  }
  std::vector<DrawRow> draws(num_rows);
  std::vector<CutRow> cuts(num_rows);
  for (size_t r = 0; r < num_rows; ++r) {
    const SampleRow& row = rows[r];
    // A row whose largest logit is no finite number has no masses to cut by; it is decided by the
    // maximum.
    const bool decided = IsGreedy(row) || (any_maximum && !std::isfinite(maximum[r].score));
    DrawRow& draw = draws[r];
    if (decided) {
      draw.threshold = kInfinity;  // keeps nothing, costs nothing
      if (maximum[r].score > -kInfinity) tokens[r] = maximum[r].token;  // else kNoToken
      continue;
    }
    draw.inv_temperature = 1.0f / row.temperature;
    draw.threshold = -kInfinity;
    draw.seed = row.seed;
    draw.position = row.position;
    draw.choice = row.choice;
    cuts[r].top_k = HasTopK(row, vocab_size_) ? row.top_k : 0;
    cuts[r].top_p = HasTopP(row) ? row.top_p : 1.0f;
    cuts[r].maximum = maximum[r].score;
    cuts[r].inv_temperature = draw.inv_temperature;
  }
  if (!any_draw) return absl::OkStatus();

  TESSERA_RETURN_IF_ERROR(FindCuts(ctx, ops_, comm_, logits, cuts, draws));
  std::vector<Candidate> drawn(num_rows);
  ops_.Draw(ctx, drawn, logits, vocab_begin_, draws);
  TESSERA_RETURN_IF_ERROR(Combine(comm_, drawn));
  for (size_t r = 0; r < num_rows; ++r) {
    const bool drawn_here = draws[r].threshold < kInfinity && drawn[r].score > -kInfinity;
    if (drawn_here) tokens[r] = drawn[r].token;
  }
  return absl::OkStatus();
}

}  // namespace tessera
