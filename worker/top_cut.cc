// Two searches of the same shape after each other: `Search` narrows a key prefix by one byte per
// histogram until it names one logit. Counts and masses are integers, so every rank gets the same
// sums.

#include "worker/top_cut.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/status.h"
#include "kernels/logit_key.h"

namespace tessera {
namespace {

constexpr int kBuckets = 256;  // values of a byte
constexpr int kDigits = 4;     // bytes of a key, 3 is the top

// One byte's histogram of one row, on one shard or summed; travels as these bytes.
struct Histogram {
  std::array<uint64_t, kBuckets> mass = {};  // units of 2^-40 of the most likely token's
  std::array<uint64_t, kBuckets> count = {};
};

// The descending walk through one row's tokens, stopped at the token where the goal is met.
struct Search {
  bool by_mass = false;
  uint64_t goal = 0;  // tokens, or mass; at least 1
  // So far: what the tokens above everything with this prefix add up to.
  uint32_t prefix = 0;
  uint64_t count_above = 0;
  uint64_t mass_above = 0;
  // Once all digits are known: tokens equal to the threshold that stay, over all shards, and their
  // mass.
  uint64_t ties = 0;
  uint64_t tie_mass = 0;  // of one

  // Finds the bucket in which the goal is met, steps into it and returns it.
  int Step(const Histogram& histogram, int digit);
};

uint64_t Sum(const std::array<uint64_t, kBuckets>& amounts) {
  return std::accumulate(amounts.begin(), amounts.end(), uint64_t{0});
}

// The mass to reach: top_p of the total, at least one unit, so that at least one token stays. One
// product in double, the same on every rank; the total is at least 2^40, which the most likely
// token alone has.
uint64_t MassGoal(float top_p, uint64_t total) {
  const double goal = std::ceil(static_cast<double>(top_p) * static_cast<double>(total));
  return std::clamp<uint64_t>(goal < 1.0 ? 1 : static_cast<uint64_t>(goal), 1, total);
}

int Search::Step(const Histogram& histogram, int digit) {
  const auto& amounts = by_mass ? histogram.mass : histogram.count;
  uint64_t& above = by_mass ? mass_above : count_above;
  int bucket = kBuckets - 1;
  while (bucket > 0 && above + amounts[bucket] < goal) {
    count_above += histogram.count[bucket];
    mass_above += histogram.mass[bucket];
    --bucket;
  }
  prefix |= static_cast<uint32_t>(bucket) << (8 * digit);
  if (digit > 0) return bucket;
  // All tokens of this bucket are one logit, so each has the same mass.
  const uint64_t count = histogram.count[bucket];
  TESSERA_CHECK(count > 0) << "the cut fell on a logit that no token has";
  tie_mass = histogram.mass[bucket] / count;
  ties = goal - above;
  if (by_mass) ties = (ties + tie_mass - 1) / tie_mass;
  return bucket;
}

// The rows of a step and the histograms of the digit that was fetched last.
class CutFinder {
 public:
  CutFinder(const ExecContext& ctx, Ops& ops, Communicator& comm, LogitRows rows,
            const std::vector<CutRow>& cuts)
      : ctx_(ctx),
        ops_(ops),
        comm_(comm),
        rows_(std::move(rows)),
        cuts_(cuts),
        searches_(cuts.size()),
        ties_kept_(cuts.size()) {}

  // Both searches.
  absl::Status Run();
  // Afterwards.
  Cut Found(size_t row) const { return {LogitFromKey(searches_[row].prefix), ties_kept_[row]}; }

 private:
  absl::Status Fetch(int digit);
  void StepAll(int digit);
  absl::Status SearchBelow(int digit);
  int64_t TiesOfThisRank(uint64_t ties, size_t active_row, int bucket) const;

  const ExecContext& ctx_;
  Ops& ops_;
  Communicator& comm_;
  const LogitRows rows_;
  const std::vector<CutRow>& cuts_;
  std::vector<Search> searches_;
  std::vector<int64_t> ties_kept_;
  std::vector<size_t> active_;  // rows that still search, ascending
  // Of the digit that was fetched last, kept for their capacity.
  std::vector<uint32_t> count_;    // [active rows, buckets] of this shard
  std::vector<uint64_t> mass_;     // likewise
  std::vector<Histogram> mine_;    // [active rows], both
  std::vector<Histogram> shards_;  // [ranks, active rows]
  std::vector<Histogram> sums_;    // [active rows]
};

absl::Status CutFinder::Run() {
  active_.resize(cuts_.size());
  std::iota(active_.begin(), active_.end(), size_t{0});
  TESSERA_RETURN_IF_ERROR(Fetch(kDigits - 1));
  std::vector<size_t> both;  // rows with both cuts, and their first histograms
  std::vector<Histogram> top_digit;
  for (size_t r = 0; r < cuts_.size(); ++r) {
    Search& search = searches_[r];
    if (cuts_[r].top_k > 0) {
      // Fewer than top_k where logits are NaN.
      search.goal = std::min<uint64_t>(cuts_[r].top_k, Sum(sums_[r].count));
    } else {
      search.by_mass = true;
      search.goal = MassGoal(cuts_[r].top_p, Sum(sums_[r].mass));
    }
    if (cuts_[r].top_k > 0 && cuts_[r].top_p < 1.0f) {
      both.push_back(r);
      top_digit.push_back(sums_[r]);
    }
  }
  StepAll(kDigits - 1);
  TESSERA_RETURN_IF_ERROR(SearchBelow(kDigits - 1));
  if (both.empty()) return absl::OkStatus();

  // The mass that top-k left is known only now.
  active_ = both;
  for (size_t i = 0; i < both.size(); ++i) {
    Search& search = searches_[both[i]];
    const uint64_t left = search.mass_above + search.ties * search.tie_mass;
    search = Search{.by_mass = true, .goal = MassGoal(cuts_[both[i]].top_p, left)};
    search.Step(top_digit[i], kDigits - 1);
  }
  return SearchBelow(kDigits - 1);
}

absl::Status CutFinder::SearchBelow(int digit) {
  while (--digit >= 0) {
    TESSERA_RETURN_IF_ERROR(Fetch(digit));
    StepAll(digit);
  }
  return absl::OkStatus();
}

// One byte for all active rows: one Ops call, one collective.
absl::Status CutFinder::Fetch(int digit) {
  LogitRows rows = {.logits = rows_.logits, .vocab_begin = rows_.vocab_begin, .masks = rows_.masks};
  std::vector<uint32_t> prefix;
  std::vector<float> maximum;
  std::vector<float> inv_temperature;
  for (const size_t r : active_) {
    rows.row.push_back(rows_.row[r]);
    if (!rows_.mask.empty()) rows.mask.push_back(rows_.mask[r]);
    prefix.push_back(searches_[r].prefix);
    maximum.push_back(cuts_[r].maximum);
    inv_temperature.push_back(cuts_[r].inv_temperature);
  }
  const size_t n = active_.size();
  count_.assign(n * kBuckets, 0);
  mass_.assign(n * kBuckets, 0);
  ops_.MassHistogram(ctx_, count_, mass_, rows, prefix, digit, maximum, inv_temperature);
  mine_.resize(n);
  for (size_t i = 0; i < n; ++i) {
    std::copy_n(&mass_[i * kBuckets], kBuckets, mine_[i].mass.begin());
    std::copy_n(&count_[i * kBuckets], kBuckets, mine_[i].count.begin());
  }
  shards_.resize(n * comm_.size());
  TESSERA_RETURN_IF_ERROR(comm_.AllGatherHost(shards_.data(), mine_.data(), n * sizeof(Histogram)));
  sums_.assign(shards_.begin(), shards_.begin() + n);
  for (size_t i = n; i < shards_.size(); ++i) {
    Histogram& sum = sums_[i % n];
    for (int b = 0; b < kBuckets; ++b) {
      sum.mass[b] += shards_[i].mass[b];
      sum.count[b] += shards_[i].count[b];
    }
  }
  return absl::OkStatus();
}

void CutFinder::StepAll(int digit) {
  for (size_t i = 0; i < active_.size(); ++i) {
    Search& search = searches_[active_[i]];
    const int bucket = search.Step(sums_[i], digit);
    if (digit == 0) ties_kept_[active_[i]] = TiesOfThisRank(search.ties, i, bucket);
  }
}

// Ranks hold ascending ids, so the ties of the ranks before this one come first.
int64_t CutFinder::TiesOfThisRank(uint64_t ties, size_t active_row, int bucket) const {
  const auto count = [&](int rank) {
    return shards_[rank * sums_.size() + active_row].count[bucket];
  };
  for (int rank = 0; rank < comm_.rank(); ++rank) ties -= std::min(ties, count(rank));
  return static_cast<int64_t>(std::min(ties, count(comm_.rank())));
}

}  // namespace

absl::Status FindCuts(const ExecContext& ctx, Ops& ops, Communicator& comm, LogitRows rows,
                      const std::vector<CutRow>& cuts, std::vector<Cut>& found) {
  TESSERA_CHECK(rows.row.size() == cuts.size()) << cuts.size() << " cuts";
  found.clear();
  if (cuts.empty()) return absl::OkStatus();
  CutFinder finder(ctx, ops, comm, std::move(rows), cuts);
  TESSERA_RETURN_IF_ERROR(finder.Run());
  for (size_t r = 0; r < cuts.size(); ++r) found.push_back(finder.Found(r));
  return absl::OkStatus();
}

}  // namespace tessera
