// Sampling, top down: passes -> rules written -> largest logits -> cuts for the rows that have one
// -> draw -> rules taken back. Everything that crosses shards is gathered from all ranks and
// combined by all alike, in rank order.

#include "worker/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "worker/logit_edits.h"
#include "worker/shard_candidates.h"
#include "worker/top_cut.h"

namespace tessera {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Each written so that a NaN turns the thing off.
bool IsGreedy(const SampleRow& row) {
  return !(row.temperature >= Sampler::kTemperatureMin) || row.top_k == 1;
}
bool HasTopK(const SampleRow& row, int64_t vocab_size) {
  return row.top_k > 0 && row.top_k < vocab_size;
}
bool HasTopP(const SampleRow& row) { return row.top_p < 1.0f; }
bool HasMinP(const SampleRow& row) { return row.min_p > 0.0f; }

// The smallest logit whose probability is min_p times that of `maximum`. The same on every rank:
// one log, one product and one sum in double.
float MinPThreshold(const SampleRow& row, float maximum) {
  const double share = std::log(std::min(static_cast<double>(row.min_p), 1.0));
  const double exact = maximum + static_cast<double>(row.temperature) * share;
  const float rounded = static_cast<float>(exact);
  return rounded < exact ? std::nextafter(rounded, kInfinity) : rounded;
}

bool SameCut(const SampleRow& a, const SampleRow& b) {
  return a.logits_row == b.logits_row && a.temperature == b.temperature && a.top_k == b.top_k &&
         a.top_p == b.top_p;
}

// Takes from `left`, in order, the rows that can be sampled together: for each row of logits, those
// with the rules of its first one.
std::vector<int32_t> TakePass(const std::vector<SampleRow>& rows, int64_t num_logits,
                              std::vector<int32_t>& left) {
  std::vector<int32_t> pass;
  std::vector<int32_t> later;
  std::vector<int32_t> first(num_logits, -1);  // row of the pass that took the row of logits
  int masks = 0;
  for (const int32_t r : left) {
    int32_t& taken = first[rows[r].logits_row];
    const bool is_first = taken < 0;
    const bool masked = rows[r].rules != nullptr && !rows[r].rules->allowed().empty();
    const bool fits =
        is_first ? !masked || masks < Sampler::kMasksMax : rows[taken].rules == rows[r].rules;
    if (!fits) {
      later.push_back(r);
      continue;
    }
    if (is_first) {
      taken = r;
      masks += masked;
    }
    pass.push_back(r);
  }
  left = std::move(later);
  return pass;
}

// One pass, once its rules are in the logits.
class Pass {
 public:
  Pass(const ExecContext& ctx, Ops& ops, Communicator& comm, LogitRows all, int64_t vocab_size,
       const std::vector<SampleRow>& rows, const std::vector<int32_t>& pass)
      : ctx_(ctx),
        ops_(ops),
        comm_(comm),
        all_(std::move(all)),
        vocab_size_(vocab_size),
        rows_(rows),
        pass_(pass) {}

  absl::Status Run(std::vector<int32_t>& tokens);

 private:
  // The entries of the ops: rows of logits with their masks.
  LogitRows None() const {
    return {.logits = all_.logits, .vocab_begin = all_.vocab_begin, .masks = all_.masks};
  }
  void AddEntry(LogitRows& entries, int32_t logits_row) const {
    entries.row.push_back(logits_row);
    if (!all_.mask.empty()) entries.mask.push_back(all_.mask[logits_row]);
  }
  absl::Status FindMaxima();
  absl::Status FindCutsOf(const std::vector<int32_t>& drawn, std::vector<DrawRow>& draws);
  absl::Status Combine(std::vector<Candidate>& best);

  const ExecContext& ctx_;
  Ops& ops_;
  Communicator& comm_;
  const LogitRows all_;  // `mask` has an entry for every row of logits, or none
  const int64_t vocab_size_;
  const std::vector<SampleRow>& rows_;
  const std::vector<int32_t>& pass_;
  std::vector<Candidate> maxima_;  // [rows of logits]; those that nobody wants are not looked for
  std::vector<uint8_t> has_maximum_;
};

absl::Status Pass::Combine(std::vector<Candidate>& best) {
  std::vector<Candidate> all(best.size() * comm_.size());
  TESSERA_RETURN_IF_ERROR(
      comm_.AllGatherHost(all.data(), best.data(), best.size() * sizeof(Candidate)));
  best = MergeShards(all, best.size(), 1);
  return absl::OkStatus();
}

// Greedy rows and cuts want the largest logit.
absl::Status Pass::FindMaxima() {
  maxima_.resize(all_.logits.dims[0]);
  has_maximum_.assign(all_.logits.dims[0], false);
  LogitRows entries = None();
  for (const int32_t r : pass_) {
    const SampleRow& row = rows_[r];
    const bool wanted = IsGreedy(row) || HasTopK(row, vocab_size_) || HasTopP(row) || HasMinP(row);
    if (!wanted || has_maximum_[row.logits_row]) continue;
    has_maximum_[row.logits_row] = true;
    AddEntry(entries, row.logits_row);
  }
  if (entries.row.empty()) return absl::OkStatus();
  std::vector<Candidate> best;
  ops_.TopLogits(ctx_, best, entries, 1);
  TESSERA_RETURN_IF_ERROR(Combine(best));
  for (size_t i = 0; i < best.size(); ++i) maxima_[entries.row[i]] = best[i];
  return absl::OkStatus();
}

// Sets threshold and ties of the drawn rows. Choices of one row share a cut.
absl::Status Pass::FindCutsOf(const std::vector<int32_t>& drawn, std::vector<DrawRow>& draws) {
  LogitRows entries = None();
  std::vector<CutRow> cuts;
  std::vector<int32_t> cut_of(drawn.size(), -1);
  for (size_t i = 0; i < drawn.size(); ++i) {
    const SampleRow& row = rows_[drawn[i]];
    if (!HasTopK(row, vocab_size_) && !HasTopP(row)) continue;
    if (i > 0 && SameCut(row, rows_[drawn[i - 1]])) {
      cut_of[i] = cut_of[i - 1];
      continue;
    }
    cut_of[i] = static_cast<int32_t>(cuts.size());
    AddEntry(entries, row.logits_row);
    cuts.push_back({.top_k = HasTopK(row, vocab_size_) ? row.top_k : 0,
                    .top_p = HasTopP(row) ? row.top_p : 1.0f,
                    .maximum = maxima_[row.logits_row].score,
                    .inv_temperature = draws[i].inv_temperature});
  }
  std::vector<Cut> found;
  TESSERA_RETURN_IF_ERROR(FindCuts(ctx_, ops_, comm_, std::move(entries), cuts, found));
  for (size_t i = 0; i < drawn.size(); ++i) {
    const SampleRow& row = rows_[drawn[i]];
    Cut cut = {.threshold = -kInfinity};
    if (cut_of[i] >= 0) cut = found[cut_of[i]];
    if (HasMinP(row)) {
      const float least = MinPThreshold(row, maxima_[row.logits_row].score);
      if (least > cut.threshold) cut = {least, std::numeric_limits<int64_t>::max()};
    }
    draws[i].threshold = cut.threshold;
    draws[i].ties_kept = cut.ties_kept;
  }
  return absl::OkStatus();
}

absl::Status Pass::Run(std::vector<int32_t>& tokens) {
  TESSERA_RETURN_IF_ERROR(FindMaxima());
  LogitRows entries = None();
  std::vector<int32_t> drawn;
  std::vector<DrawRow> draws;
  for (const int32_t r : pass_) {
    const SampleRow& row = rows_[r];
    const Candidate& maximum = maxima_[row.logits_row];
    // A row whose largest logit is no finite number has no masses to cut by; it is decided by the
    // maximum.
    if (IsGreedy(row) || (has_maximum_[row.logits_row] && !std::isfinite(maximum.score))) {
      if (maximum.score > -kInfinity) tokens[r] = maximum.token;  // else kNoToken
      continue;
    }
    AddEntry(entries, row.logits_row);
    drawn.push_back(r);
    draws.push_back({.inv_temperature = 1.0f / row.temperature,
                     .seed = row.seed,
                     .position = row.position,
                     .choice = row.choice});
  }
  if (drawn.empty()) return absl::OkStatus();
  TESSERA_RETURN_IF_ERROR(FindCutsOf(drawn, draws));
  std::vector<Candidate> best;
  ops_.Draw(ctx_, best, entries, draws);
  TESSERA_RETURN_IF_ERROR(Combine(best));
  for (size_t i = 0; i < drawn.size(); ++i) {
    if (best[i].score > -kInfinity) tokens[drawn[i]] = best[i].token;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Sampler::Sample(const ExecContext& ctx, std::vector<int32_t>& tokens,
                             TensorView logits, const std::vector<SampleRow>& rows) {
  for (const SampleRow& row : rows) {
    TESSERA_CHECK(logits.rank == 2 && row.logits_row >= 0 && row.logits_row < logits.dims[0])
        << "row " << row.logits_row << " of " << logits.dims[0];
  }
  tokens.assign(rows.size(), kNoToken);
  std::vector<int32_t> left(rows.size());
  std::iota(left.begin(), left.end(), 0);
  while (!left.empty()) {
    const std::vector<int32_t> pass = TakePass(rows, logits.dims[0], left);
    TESSERA_RETURN_IF_ERROR(SamplePass(ctx, tokens, logits, rows, pass));
  }
  return absl::OkStatus();
}

absl::Status Sampler::SamplePass(const ExecContext& ctx, std::vector<int32_t>& tokens,
                                 TensorView logits, const std::vector<SampleRow>& rows,
                                 const std::vector<int32_t>& pass) {
  LogitRows all = {.logits = logits, .vocab_begin = vocab_begin_};
  LogitEdits edits(ops_, logits, vocab_begin_);
  const int64_t words = MaskWords(logits.dims[1]);
  std::vector<uint32_t> masks;
  std::vector<uint8_t> added(logits.dims[0], false);
  for (const int32_t r : pass) {
    const int32_t logits_row = rows[r].logits_row;
    const TokenRules* rules = rows[r].rules;
    if (rules == nullptr || added[logits_row]) continue;
    added[logits_row] = true;
    edits.Add(logits_row, *rules);
    if (rules->allowed().empty()) continue;
    if (all.mask.empty()) all.mask.assign(logits.dims[0], -1);
    all.mask[logits_row] = static_cast<int32_t>(masks.size() / words);
    masks.resize(masks.size() + words, 0);
    SetAllowed(rules->allowed(), vocab_begin_, logits.dims[1], &masks[masks.size() - words]);
  }
  if (!masks.empty()) {
    const size_t bytes = kMasksMax * words * sizeof(uint32_t);
    if (masks_.bytes() < bytes) {
      TESSERA_ASSIGN_OR_RETURN(masks_, ops_.Allocate(bytes));
    }
    all.masks = masks_.View(DType::kInt32, {kMasksMax, words});
    ops_.CopyToDevice(ctx, masks_.data(), masks.data(), masks.size() * sizeof(uint32_t));
  }
  edits.Apply(ctx);
  const absl::Status status =
      Pass(ctx, ops_, comm_, std::move(all), vocab_size_, rows, pass).Run(tokens);
  edits.Restore(ctx);
  return status;
}

}  // namespace tessera
