// See the header. Predictions follow the slowest recent steps: a deadline is about loss, not about
// speed.

#include "coordinator/cluster/step_tracker.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

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

bool AnswersRows(const pb::StepResult& result, const std::vector<uint32_t>& num_sampled) {
  const int64_t sampled = std::accumulate(num_sampled.begin(), num_sampled.end(), int64_t{0});
  return std::equal(result.num_sampled().begin(), result.num_sampled().end(), num_sampled.begin(),
                    num_sampled.end()) &&
         result.sampled_size() == sampled;
}

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

void StepTracker::Begin(const pb::StepPlan& plan, absl::Time now) {
  Group& group = groups_.at(plan.group());
  TESSERA_CHECK(group.out.size() < kStepsOutMax)
      << "group " << plan.group() << " has " << group.out.size() << " steps out";
  TESSERA_CHECK(group.out.empty() || group.epoch == plan.epoch())
      << "group " << plan.group() << " has steps of epoch " << group.epoch << " out";
  group.epoch = plan.epoch();
  Step& step = group.out.emplace_back();
  step.number = plan.step();
  for (uint32_t tokens : plan.num_new_tokens()) step.tokens += tokens;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    step.num_sampled.push_back(plan.output(row) == pb::OUTPUT_SAMPLE ? plan.num_choices(row) : 0);
  }
  step.results.resize(static_cast<size_t>(group.ranks));
  step.has_answered.resize(static_cast<size_t>(group.ranks));
  if (group.out.size() == 1) StartFirst(plan.group(), now);
}

void StepTracker::StartFirst(uint32_t index, absl::Time now) {
  Group& group = groups_[index];
  const absl::Duration predicted = Predict(index, group.out.front().tokens);
  group.begun = now;
  group.deadline = now + std::max(kStepDeadlineMin, kStepDeadlineFactor * predicted);
}

absl::StatusOr<std::optional<StepDone>> StepTracker::Add(uint32_t rank, pb::StepResult result,
                                                         absl::Time now) {
  const uint32_t index = result.group();
  if (index >= groups_.size()) return std::optional<StepDone>();
  Group& group = groups_[index];
  const auto step = std::find_if(group.out.begin(), group.out.end(),
                                 [&](const Step& out) { return out.number == result.step(); });
  const bool stale = step == group.out.end() || result.epoch() != group.epoch ||
                     rank >= step->has_answered.size() || step->has_answered[rank];
  if (stale) return std::optional<StepDone>();
  if (result.has_error()) {
    return absl::InternalError(absl::StrCat("rank ", rank, " failed step ", result.step(), ": ",
                                            result.error().message()));
  }
  if (step != group.out.begin() && !std::prev(step)->has_answered[rank]) {
    return absl::InternalError(absl::StrCat("rank ", rank, " answered step ", result.step(),
                                            " and left out step ", std::prev(step)->number));
  }
  if (!AnswersRows(result, step->num_sampled)) {
    return absl::InternalError(absl::StrCat("rank ", rank, " answered step ", result.step(),
                                            " with other rows than the plan has"));
  }
  step->results[rank] = std::move(result);
  step->has_answered[rank] = true;
  if (++step->answered < group.ranks) return std::optional<StepDone>();

  for (size_t r = 1; r < step->results.size(); ++r) {
    if (!SameTokens(step->results[0], step->results[r])) {
      return absl::InternalError(absl::StrCat("ranks 0 and ", r,
                                              " sampled different tokens in step ", step->number,
                                              "; one of them computes wrongly"));
    }
  }
  return std::optional<StepDone>(FinishFirst(index, now));
}

// All ranks have answered a step, so they have answered those before it, which are gone by now.
StepDone StepTracker::FinishFirst(uint32_t index, absl::Time now) {
  Group& group = groups_[index];
  Step step = std::move(group.out.front());
  group.out.pop_front();
  const double seconds = absl::ToDoubleSeconds(now - group.begun);
  group.seconds_per_step += kLearningRate * (seconds - group.seconds_per_step);
  if (step.tokens > 0) {
    const double per_token = seconds / static_cast<double>(step.tokens);
    group.seconds_per_token += kLearningRate * (per_token - group.seconds_per_token);
  }
  if (!group.out.empty()) StartFirst(index, now);
  StepDone done;
  done.group = index;
  done.rank_results = std::move(step.results);
  return done;
}

void StepTracker::Forget(uint32_t index) { groups_.at(index).out.clear(); }

std::vector<StepTracker::Overdue> StepTracker::FindOverdue(absl::Time now) const {
  std::vector<Overdue> overdue;
  for (uint32_t i = 0; i < groups_.size(); ++i) {
    const Group& group = groups_[i];
    if (group.out.empty() || now < group.deadline) continue;
    const Step& step = group.out.front();
    std::vector<size_t> silent;
    for (size_t r = 0; r < step.has_answered.size(); ++r) {
      if (!step.has_answered[r]) silent.push_back(r);
    }
    overdue.push_back(
        {i, group.epoch,
         absl::DeadlineExceededError(absl::StrCat(
             "step ", step.number, " (", step.tokens, " tokens) did not come back within ",
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
