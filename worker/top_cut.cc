// Two searches of the same shape after each other: `Search` narrows a key prefix by one byte per
// histogram until it names one logit. Counts and masses are integers, so every rank gets the same
// sums.

#include "worker/top_cut.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

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
  bool active = false;
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
  CutFinder(const ExecContext& ctx, Ops& ops, Communicator& comm, TensorView logits,
            const std::vector<CutRow>& cuts)
      : ctx_(ctx),
        ops_(ops),
        comm_(comm),
        logits_(logits),
        cuts_(cuts),
        searches_(cuts.size()),
        ties_kept_(cuts.size()) {
    for (const CutRow& cut : cuts) {
      maximum_.push_back(cut.maximum);
      inv_temperature_.push_back(cut.inv_temperature);
    }
  }

  // Both searches.
  absl::Status Run();
  // Afterwards: the smallest logit that stays, and how many of those equal to it stay on this rank.
  float threshold(size_t row) const { return LogitFromKey(searches_[row].prefix); }
  int64_t ties_kept(size_t row) const { return ties_kept_[row]; }

 private:
  absl::Status Fetch(int digit);
  void StepAll(int digit);
  int64_t TiesOfThisRank(uint64_t ties, size_t active_row, int bucket) const;

  const ExecContext& ctx_;
  Ops& ops_;
  Communicator& comm_;
  const TensorView logits_;
  const std::vector<CutRow>& cuts_;
  std::vector<float> maximum_;
  std::vector<float> inv_temperature_;
  std::vector<Search> searches_;
  std::vector<int64_t> ties_kept_;
  // Active rows only, in order of row.
  std::vector<Histogram> shards_;  // [ranks, active rows]
  std::vector<Histogram> sums_;    // [active rows]
};

absl::Status CutFinder::Run() {
  for (size_t r = 0; r < cuts_.size(); ++r) {
    searches_[r].active = cuts_[r].top_k > 0 || cuts_[r].top_p < 1.0f;
  }
  TESSERA_RETURN_IF_ERROR(Fetch(kDigits - 1));
  size_t active = 0;
  std::vector<Histogram> top_digit;  // of the rows with both cuts
  for (size_t r = 0; r < cuts_.size(); ++r) {
    Search& search = searches_[r];
    if (!search.active) continue;
    const Histogram& sum = sums_[active++];
    if (cuts_[r].top_k > 0) {
      // Fewer than top_k where logits are NaN.
      search.goal = std::min<uint64_t>(cuts_[r].top_k, Sum(sum.count));
    } else {
      search.by_mass = true;
      search.goal = MassGoal(cuts_[r].top_p, Sum(sum.mass));
    }
    if (cuts_[r].top_k > 0 && cuts_[r].top_p < 1.0f) top_digit.push_back(sum);
  }
  StepAll(kDigits - 1);
  for (int digit = kDigits - 2; digit >= 0; --digit) {
    TESSERA_RETURN_IF_ERROR(Fetch(digit));
    StepAll(digit);
  }
  if (top_digit.empty()) return absl::OkStatus();

  // The mass that top-k left is known only now.
  active = 0;
  for (size_t r = 0; r < cuts_.size(); ++r) {
    Search& search = searches_[r];
    search.active = cuts_[r].top_k > 0 && cuts_[r].top_p < 1.0f;
    if (!search.active) continue;
    const uint64_t left = search.mass_above + search.ties * search.tie_mass;
    search = Search{.active = true, .by_mass = true, .goal = MassGoal(cuts_[r].top_p, left)};
    search.Step(top_digit[active++], kDigits - 1);
  }
  for (int digit = kDigits - 2; digit >= 0; --digit) {
    TESSERA_RETURN_IF_ERROR(Fetch(digit));
    StepAll(digit);
  }
  return absl::OkStatus();
}

// One byte for all active rows: one Ops call, one collective.
absl::Status CutFinder::Fetch(int digit) {
  const size_t rows = cuts_.size();
  std::vector<uint8_t> active(rows);
  std::vector<uint32_t> prefix(rows);
  for (size_t r = 0; r < rows; ++r) {
    active[r] = searches_[r].active;
    prefix[r] = searches_[r].prefix;
  }
  std::vector<uint32_t> count(rows * kBuckets, 0);
  std::vector<uint64_t> mass(rows * kBuckets, 0);
  ops_.MassHistogram(ctx_, count, mass, logits_, active, prefix, digit, maximum_, inv_temperature_);
  std::vector<Histogram> mine;
  for (size_t r = 0; r < rows; ++r) {
    if (!active[r]) continue;
    mine.emplace_back();
    std::copy_n(&mass[r * kBuckets], kBuckets, mine.back().mass.begin());
    std::copy_n(&count[r * kBuckets], kBuckets, mine.back().count.begin());
  }
  shards_.resize(mine.size() * comm_.size());
  TESSERA_RETURN_IF_ERROR(
      comm_.AllGatherHost(shards_.data(), mine.data(), mine.size() * sizeof(Histogram)));
  sums_.assign(mine.size(), Histogram());
  for (size_t i = 0; i < shards_.size(); ++i) {
    Histogram& sum = sums_[i % mine.size()];
    for (int b = 0; b < kBuckets; ++b) {
      sum.mass[b] += shards_[i].mass[b];
      sum.count[b] += shards_[i].count[b];
    }
  }
  return absl::OkStatus();
}

void CutFinder::StepAll(int digit) {
  size_t active = 0;
  for (size_t r = 0; r < searches_.size(); ++r) {
    if (!searches_[r].active) continue;
    const int bucket = searches_[r].Step(sums_[active], digit);
    if (digit == 0) ties_kept_[r] = TiesOfThisRank(searches_[r].ties, active, bucket);
    ++active;
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

absl::Status FindCuts(const ExecContext& ctx, Ops& ops, Communicator& comm, TensorView logits,
                      const std::vector<CutRow>& cuts, std::vector<DrawRow>& draws) {
  const auto cuts_something = [](const CutRow& c) { return c.top_k > 0 || c.top_p < 1.0f; };
  if (std::none_of(cuts.begin(), cuts.end(), cuts_something)) return absl::OkStatus();
  CutFinder finder(ctx, ops, comm, logits, cuts);
  TESSERA_RETURN_IF_ERROR(finder.Run());
  for (size_t r = 0; r < cuts.size(); ++r) {
    if (!cuts_something(cuts[r])) continue;
    draws[r].threshold = finder.threshold(r);
    draws[r].ties_kept = finder.ties_kept(r);
  }
  return absl::OkStatus();
}

}  // namespace tessera
