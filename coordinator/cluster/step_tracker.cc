// See the header. Predictions follow the slowest recent steps: a deadline is about loss, not about
// speed.

#include "coordinator/cluster/step_tracker.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"

namespace tessera {
namespace {

namespace pb = cluster::v1;

// What a rank surely computes per second, before it has shown more.
constexpr double kFlopsPerSecondFloor = 2e9;
// Weight of a new measurement in the moving averages.
constexpr double kLearningRate = 0.2;

bool SameTokens(const pb::StepResult& a, const pb::StepResult& b) {
  return std::equal(a.sampled().begin(), a.sampled().end(), b.sampled().begin(),
                    b.sampled().end()) &&
         std::equal(a.num_sampled().begin(), a.num_sampled().end(), b.num_sampled().begin(),
                    b.num_sampled().end());
}

}  // namespace

StepTracker::StepTracker(std::vector<double> flops_per_token, std::vector<int> ranks) {
  TESSERA_CHECK(flops_per_token.size() == ranks.size());
  for (size_t i = 0; i < ranks.size(); ++i) {
    Group group;
    group.ranks = ranks[i];
    group.seconds_per_token = flops_per_token[i] / (kFlopsPerSecondFloor * ranks[i]);
    groups_.push_back(std::move(group));
  }
}

void StepTracker::Begin(uint32_t index, uint64_t epoch, uint64_t step, int64_t tokens,
                        absl::Time now) {
  Group& group = groups_.at(index);
  TESSERA_CHECK(!group.in_flight) << "group " << index << " has step " << group.step << " out";
  group.in_flight = true;
  group.epoch = epoch;
  group.step = step;
  group.tokens = tokens;
  group.begun = now;
  group.deadline = now + std::max(kStepDeadlineMin, kStepDeadlineFactor * Predict(index, tokens));
  group.answered = 0;
  group.results.assign(static_cast<size_t>(group.ranks), {});
  group.has_answered.assign(static_cast<size_t>(group.ranks), false);
}

absl::StatusOr<std::optional<StepDone>> StepTracker::Add(uint32_t rank,
                                                         const pb::StepResult& result,
                                                         absl::Time now) {
  if (result.group() >= groups_.size()) return std::optional<StepDone>();
  Group& group = groups_[result.group()];
  const bool stale = !group.in_flight || result.epoch() != group.epoch ||
                     result.step() != group.step || rank >= group.has_answered.size() ||
                     group.has_answered[rank];
  if (stale) return std::optional<StepDone>();
  if (result.has_error()) {
    return absl::InternalError(absl::StrCat("rank ", rank, " failed step ", result.step(), ": ",
                                            result.error().message()));
  }
  group.results[rank] = result;
  group.has_answered[rank] = true;
  if (++group.answered < group.ranks) return std::optional<StepDone>();

  for (size_t r = 1; r < group.results.size(); ++r) {
    if (!SameTokens(group.results[0], group.results[r])) {
      return absl::InternalError(absl::StrCat("ranks 0 and ", r,
                                              " sampled different tokens in step ", group.step,
                                              "; one of them computes wrongly"));
    }
  }
  group.in_flight = false;
  const double seconds = absl::ToDoubleSeconds(now - group.begun);
  group.seconds_per_step += kLearningRate * (seconds - group.seconds_per_step);
  if (group.tokens > 0) {
    const double per_token = seconds / static_cast<double>(group.tokens);
    group.seconds_per_token += kLearningRate * (per_token - group.seconds_per_token);
  }
  StepDone done;
  done.group = result.group();
  done.rank_results = std::move(group.results);
  group.results.clear();
  return std::optional<StepDone>(std::move(done));
}

void StepTracker::Forget(uint32_t index) { groups_.at(index).in_flight = false; }

std::vector<StepTracker::Overdue> StepTracker::FindOverdue(absl::Time now) const {
  std::vector<Overdue> overdue;
  for (uint32_t i = 0; i < groups_.size(); ++i) {
    const Group& group = groups_[i];
    if (!group.in_flight || now < group.deadline) continue;
    std::vector<size_t> silent;
    for (size_t r = 0; r < group.has_answered.size(); ++r) {
      if (!group.has_answered[r]) silent.push_back(r);
    }
    overdue.push_back(
        {i, group.epoch,
         absl::DeadlineExceededError(absl::StrCat(
             "step ", group.step, " (", group.tokens, " tokens) did not come back within ",
             absl::FormatDuration(group.deadline - group.begun), "; no answer from rank ",
             absl::StrJoin(silent, ", ")))});
  }
  return overdue;
}

absl::Duration StepTracker::Predict(uint32_t index, int64_t tokens) const {
  const Group& group = groups_.at(index);
  return absl::Seconds(
      std::max(group.seconds_per_step, group.seconds_per_token * static_cast<double>(tokens)));
}

}  // namespace tessera
