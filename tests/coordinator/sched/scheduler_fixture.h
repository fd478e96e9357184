// A scheduler, symbolic ranks for its groups, and a clock that is moved by hand. Every event is
// followed by Validate; whatever the ranks object to fails the test at its end.

#ifndef TESSERA_TESTS_COORDINATOR_SCHED_SCHEDULER_FIXTURE_H_
#define TESSERA_TESTS_COORDINATOR_SCHED_SCHEDULER_FIXTURE_H_

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/sched/scheduler.h"
#include "tests/coordinator/sched/fake_ranks.h"
#include "tests/coordinator/sched/symbolic_model.h"

namespace tessera::testing {

using cluster::v1::StepPlan;

class SchedulerTest : public ::testing::Test {
 protected:
  // What the terminal update of a request said.
  struct End : RequestUpdate::Details {
    End(const Details& details, FinishReason reason_in, bool ended_in)
        : Details(details), reason(reason_in), ended(ended_in) {}
    FinishReason reason;
    bool ended;
  };

  SchedulerTest() {
    options_.block_size = 4;
    options_.tokens_max = 32;
    options_.rows_max = 8;
    options_.chunk_max = 10;
    options_.waiting_max = 4;
    options_.plans_in_flight_max = 1;
    options_.models.resize(2);
    for (SchedulerModel& model : options_.models) {
      model.context_max = 100;
      model.kv_groups.resize(1);
    }
  }
  ~SchedulerTest() override {
    for (const std::string& violation : violations_) ADD_FAILURE() << violation;
  }

  Scheduler& scheduler() {
    if (scheduler_ == nullptr) scheduler_ = std::make_unique<Scheduler>(options_);
    return *scheduler_;
  }
  void Apply(const Event& event) {
    scheduler().Apply(event, now_);
    const absl::Status valid = scheduler().Validate();
    if (!valid.ok()) violations_.push_back(std::string(valid.message()));
  }
  void Ready(uint32_t group, uint64_t epoch = 1, uint32_t num_blocks = 100, uint32_t model = 0) {
    ReadyWith(group, epoch,
              std::vector<uint32_t>(options_.models[model].kv_groups.size(), num_blocks), model);
  }
  void ReadyWith(uint32_t group, uint64_t epoch, std::vector<uint32_t> num_blocks,
                 uint32_t model = 0) {
    const GroupReady ready{
        .group = group, .epoch = epoch, .model = model, .num_blocks = std::move(num_blocks)};
    Apply(ready);
    ranks_[group] = std::make_unique<FakeRanks>(ready, options_, 2, violations_);
  }
  void Lose(uint32_t group, uint64_t epoch) {
    Apply(GroupLost{.group = group, .epoch = epoch, .reason = absl::UnavailableError("gone")});
  }
  std::shared_ptr<Request> Make(size_t prompt, uint32_t max_tokens, uint32_t model = 0) {
    auto request = std::make_shared<Request>();
    request->id = next_id_++;
    request->public_id = absl::StrCat(request->id);
    request->model = model;
    for (size_t i = 0; i < prompt; ++i) {
      request->prompt.push_back(static_cast<int32_t>((request->id * 7 + i) % kVocabSize));
    }
    request->sampling.max_tokens = max_tokens;
    request->sampling.seed = 1000 + request->id;
    return request;
  }
  RequestId Add(size_t prompt, uint32_t max_tokens) { return Add(Make(prompt, max_tokens)); }
  RequestId Add(std::shared_ptr<const Request> request) {
    Apply(NewRequest{request});
    requests_[request->id] = request;
    return request->id;
  }
  // Plans of this turn, given to the ranks.
  std::vector<StepPlan> Schedule() {
    std::vector<StepPlan> plans = scheduler().Schedule(now_);
    for (const StepPlan& plan : plans) ranks_.at(plan.group())->Submit(plan);
    const absl::Status valid = scheduler().Validate();
    if (!valid.ok()) violations_.push_back(std::string(valid.message()));
    TakeUpdates();
    return plans;
  }
  StepPlan ScheduleOne() {
    std::vector<StepPlan> plans = Schedule();
    EXPECT_EQ(plans.size(), 1u);
    return plans.empty() ? StepPlan() : plans.front();
  }
  void Finish(uint32_t group = 0) {
    Apply(ranks_.at(group)->Finish());
    TakeUpdates();
  }
  // Until nothing is open.
  void RunToEnd() {
    for (int i = 0; i < 1000 && scheduler().Stats().waiting + scheduler().Stats().running > 0;
         ++i) {
      Schedule();
      for (auto& [id, ranks] : ranks_) {
        if (ranks->in_flight()) Finish(id);
      }
    }
  }
  void TakeUpdates() {
    std::vector<RequestUpdate> taken;
    scheduler().TakeUpdates(taken);
    for (RequestUpdate& update : taken) {
      std::vector<int32_t>& tokens = tokens_of_[{update.request, update.choice}];
      EXPECT_TRUE(update.tokens().empty() || update.first_index == tokens.size());
      tokens.insert(tokens.end(), update.tokens().begin(), update.tokens().end());
      if (update.choice == 0) tokens_[update.request] = tokens;
      if (update.finished) {
        const bool is_first =
            ends_.try_emplace(update.request, End{*update.details, update.reason, update.ended})
                .second;
        EXPECT_TRUE(is_first) << "request " << update.request;
      }
      updates_.push_back(std::move(update));
    }
  }
  Answer Expected(RequestId id, uint32_t choice = 0) {
    return ExpectedAnswer(*requests_.at(id), options_.models[0].context_max, choice);
  }

  SchedulerOptions options_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::vector<std::string> violations_;
  std::unique_ptr<Scheduler> scheduler_;
  std::map<uint32_t, std::unique_ptr<FakeRanks>> ranks_;
  std::map<RequestId, std::shared_ptr<const Request>> requests_;
  std::map<RequestId, std::vector<int32_t>> tokens_;  // of choice 0
  std::map<std::pair<RequestId, uint32_t>, std::vector<int32_t>> tokens_of_;
  std::vector<RequestUpdate> updates_;  // all there were
  std::map<RequestId, End> ends_;
  RequestId next_id_ = 1;
};

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_COORDINATOR_SCHED_SCHEDULER_FIXTURE_H_
