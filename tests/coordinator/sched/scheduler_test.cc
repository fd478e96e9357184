// What the scheduler promises, one promise per test. The model is the symbolic one; time is moved by hand.

#include "coordinator/sched/scheduler.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/sched/fake_ranks.h"
#include "tests/coordinator/sched/symbolic_model.h"

namespace tessera::testing {
namespace {

using cluster::v1::StepPlan;

class SchedulerTest : public ::testing::Test {
 protected:
  SchedulerTest() {
    options_.block_size = 4;
    options_.tokens_max = 32;
    options_.rows_max = 8;
    options_.chunk_max = 10;
    options_.waiting_max = 4;
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
    scheduler().CheckInvariants();
  }
  void Ready(uint32_t group, uint64_t epoch = 1, uint32_t num_blocks = 100, uint32_t model = 0) {
    const GroupReady ready{.group = group, .epoch = epoch, .model = model, .num_blocks = {num_blocks}};
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
    scheduler().CheckInvariants();
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
    for (int i = 0; i < 1000 && scheduler().Stats().waiting + scheduler().Stats().running > 0; ++i) {
      Schedule();
      for (auto& [id, ranks] : ranks_) {
        if (ranks->in_flight()) Finish(id);
      }
    }
  }
  void TakeUpdates() {
    for (RequestUpdate& update : scheduler().TakeUpdates()) {
      std::vector<int32_t>& tokens = tokens_[update.request];
      tokens.insert(tokens.end(), update.tokens.begin(), update.tokens.end());
      if (!update.finished) continue;
      EXPECT_TRUE(ends_.emplace(update.request, update).second) << "request " << update.request;
    }
  }
  Answer Expected(RequestId id) {
    return ExpectedAnswer(*requests_.at(id), options_.models[0].context_max);
  }

  SchedulerOptions options_;
  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::vector<std::string> violations_;
  std::unique_ptr<Scheduler> scheduler_;
  std::map<uint32_t, std::unique_ptr<FakeRanks>> ranks_;
  std::map<RequestId, std::shared_ptr<const Request>> requests_;
  std::map<RequestId, std::vector<int32_t>> tokens_;
  std::map<RequestId, RequestUpdate> ends_;
  RequestId next_id_ = 1;
};

std::vector<uint32_t> Lengths(const StepPlan& plan) {
  return {plan.num_new_tokens().begin(), plan.num_new_tokens().end()};
}

TEST_F(SchedulerTest, PromptsAreComputedInChunksAndOnlyTheLastOneSamples) {
  Ready(0);
  Add(25, 3);
  StepPlan plan = ScheduleOne();
  EXPECT_EQ(Lengths(plan), (std::vector<uint32_t>{10}));
  EXPECT_EQ(plan.output(0), cluster::v1::OUTPUT_NONE);
  EXPECT_EQ(plan.resets_size(), 1);
  EXPECT_EQ(plan.resets(0).num_prompt_tokens(), 25u);
  EXPECT_EQ(plan.num_new_blocks(0), 3u);
  Finish();
  plan = ScheduleOne();
  EXPECT_EQ(plan.start_position(0), 10u);
  EXPECT_EQ(plan.resets_size(), 0);
  EXPECT_EQ(plan.output(0), cluster::v1::OUTPUT_NONE);
  Finish();
  plan = ScheduleOne();
  EXPECT_EQ(Lengths(plan), (std::vector<uint32_t>{5}));
  EXPECT_EQ(plan.output(0), cluster::v1::OUTPUT_SAMPLE);
  Finish();
  plan = ScheduleOne();
  EXPECT_EQ(plan.start_position(0), 25u);
  EXPECT_EQ(plan.tokens(0), tokens_[1][0]);
  Finish();
  RunToEnd();
  EXPECT_EQ(tokens_[1], Expected(1).tokens);
  EXPECT_EQ(ends_.at(1).reason, FinishReason::kLength);
  EXPECT_EQ(ends_.at(1).output_tokens, 3u);
  EXPECT_EQ(ends_.at(1).first_scheduled, now_);
}

TEST_F(SchedulerTest, DecodeRowsComeFirstAndPromptsShareWhatIsLeftInOrder) {
  options_.tokens_max = 16;
  Ready(0);
  Add(3, 20);
  ScheduleOne();
  Finish();
  Add(12, 5);
  Add(12, 5);
  const StepPlan plan = ScheduleOne();
  EXPECT_EQ(Lengths(plan), (std::vector<uint32_t>{1, 10, 5}));
  EXPECT_EQ(plan.sequence(0), 1u);
  EXPECT_EQ(plan.sequence(1), 2u);
  EXPECT_EQ(plan.sequence(2), 3u);
}

TEST_F(SchedulerTest, AtMostOnePlanPerGroupIsInFlight) {
  Ready(0);
  Add(4, 4);
  EXPECT_EQ(Schedule().size(), 1u);
  EXPECT_EQ(Schedule().size(), 0u);
  Finish();
  EXPECT_EQ(Schedule().size(), 1u);
}

TEST_F(SchedulerTest, NobodyOvertakesTheOneWhoWaitsForRoom) {
  Ready(0, 1, 10);  // 40 positions
  Add(20, 5);      // 24 positions: 6 blocks
  Add(20, 5);      // has to wait
  Add(2, 3);       // would fit
  ScheduleOne();
  EXPECT_EQ(scheduler().Stats().waiting, 2);
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 4);
  RunToEnd();
  EXPECT_EQ(ranks_[0]->first_rows(), (std::vector<std::string>{"1", "2", "3"}));
  for (RequestId id = 1; id <= 3; ++id) EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerTest, RowsMaxBoundsWhoRuns) {
  options_.rows_max = 2;
  Ready(0);
  for (int i = 0; i < 4; ++i) Add(3, 5);
  EXPECT_EQ(ScheduleOne().sequence_size(), 2);
  EXPECT_EQ(scheduler().Stats().running, 2);
  EXPECT_EQ(scheduler().Stats().waiting, 2);
  RunToEnd();
  EXPECT_EQ(ends_.size(), 4u);
}

TEST_F(SchedulerTest, WhatCanNeverRunIsRefusedWithItsReason) {
  Ready(0, 1, 10);
  struct Case {
    std::shared_ptr<Request> request;
    absl::StatusCode code;
    std::string text;
  };
  std::vector<Case> cases = {
      {Make(30, 12), absl::StatusCode::kInvalidArgument, "the KV cache of this deployment holds 40"},
      {Make(100, 1), absl::StatusCode::kInvalidArgument, "the context holds 100"},
      {Make(0, 1), absl::StatusCode::kInvalidArgument, "no tokens"},
      {Make(5, 0), absl::StatusCode::kInvalidArgument, "max_tokens"},
      {Make(5, 1), absl::StatusCode::kUnimplemented, "more than one choice"},
      {Make(5, 1, /*model=*/7), absl::StatusCode::kNotFound, "model number 7"},
  };
  cases[4].request->sampling.num_choices = 2;
  for (const Case& c : cases) {
    const RequestId id = Add(c.request);
    TakeUpdates();
    ASSERT_TRUE(ends_.contains(id)) << c.text;
    EXPECT_EQ(ends_.at(id).reason, FinishReason::kRejected);
    EXPECT_EQ(ends_.at(id).error.code(), c.code) << ends_.at(id).error;
    EXPECT_NE(ends_.at(id).error.message().find(c.text), absl::string_view::npos) << ends_.at(id).error;
    EXPECT_EQ(ends_.at(id).first_scheduled, absl::InfiniteFuture());
  }
  Add(30, 11);  // 40 positions: exactly
  RunToEnd();
  EXPECT_EQ(tokens_[next_id_ - 1].size(), 11u);
}

TEST_F(SchedulerTest, AFullQueueAndADrainingServerRefuse) {
  for (int i = 0; i < 4; ++i) Add(3, 3);
  const RequestId too_many = Add(3, 3);
  TakeUpdates();
  EXPECT_EQ(ends_.at(too_many).error.code(), absl::StatusCode::kResourceExhausted);
  Apply(Drain{});
  const RequestId late = Add(3, 3);
  TakeUpdates();
  EXPECT_EQ(ends_.at(late).error.code(), absl::StatusCode::kUnavailable);
  Ready(0);
  RunToEnd();  // what was taken finishes
  for (RequestId id = 1; id <= 4; ++id) EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerTest, AStopTokenEndsTheAnswerAndIsItsLastToken) {
  Ready(0);
  auto request = Make(5, 50);
  const std::vector<int32_t> free_run = ExpectedAnswer(*request, 100).tokens;
  request->sampling.stop_token_ids = {-5, free_run[6]};
  Add(request);
  RunToEnd();
  EXPECT_EQ(tokens_[1], Expected(1).tokens);
  EXPECT_LE(tokens_[1].size(), 7u);
  EXPECT_EQ(ends_.at(1).reason, FinishReason::kStop);
}

TEST_F(SchedulerTest, TheContextEndsTheAnswer) {
  Ready(0);
  Add(95, 50);
  RunToEnd();
  EXPECT_EQ(tokens_[1].size(), 5u);
  EXPECT_EQ(ends_.at(1).reason, FinishReason::kLength);
}

TEST_F(SchedulerTest, CancelFreesBlocksWhenThePlanInFlightIsOver) {
  Ready(0);
  const RequestId id = Add(9, 8);
  ScheduleOne();
  Apply(Cancel{.request = id});
  TakeUpdates();
  EXPECT_EQ(ends_.at(id).reason, FinishReason::kCancelled);
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 97);  // three are named by the plan
  Finish();
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_free[0], 100);
  EXPECT_TRUE(tokens_[id].empty());
  now_ += options_.heartbeat_interval;
  const StepPlan beat = ScheduleOne();
  EXPECT_EQ(beat.sequence_size(), 0);
  ASSERT_EQ(beat.finished_sequences_size(), 1);
  EXPECT_EQ(beat.finished_sequences(0), 1u);
}

TEST_F(SchedulerTest, CancelWhileWaitingAndOfStrangersIsHarmless) {
  const RequestId id = Add(9, 8);
  Apply(Cancel{.request = id});
  Apply(Cancel{.request = id});
  Apply(Cancel{.request = 99});
  Apply(TextStop{.request = id});
  TakeUpdates();
  EXPECT_EQ(ends_.at(id).output_tokens, 0u);
  Ready(0);
  EXPECT_EQ(Schedule().size(), 0u);
}

TEST_F(SchedulerTest, ATextStopCountsUpToItsTokenAndDropsTheOverrun) {
  Ready(0);
  const RequestId id = Add(5, 50);
  for (int i = 0; i < 5; ++i) {
    ScheduleOne();
    Finish();
  }
  ScheduleOne();
  Apply(TextStop{.request = id, .choice = 0, .index = 2});
  Finish();
  EXPECT_EQ(tokens_[id].size(), 5u);  // those were out; the sixth is not told
  EXPECT_EQ(ends_.at(id).reason, FinishReason::kStop);
  EXPECT_EQ(ends_.at(id).output_tokens, 3u);
}

TEST_F(SchedulerTest, ATextStopPastTheTokensIsAnErrorOfThatRequestOnly) {
  Ready(0);
  const RequestId id = Add(5, 50);
  const RequestId other = Add(5, 6);
  ScheduleOne();
  Finish();
  Apply(TextStop{.request = id, .choice = 0, .index = 1});
  RunToEnd();
  EXPECT_EQ(ends_.at(id).reason, FinishReason::kError);
  EXPECT_EQ(ends_.at(id).error.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(tokens_[other], Expected(other).tokens);
}

TEST_F(SchedulerTest, DeadlinesEndWaitingAndRunningRequests) {
  auto waits = Make(5, 50);
  waits->deadline = now_ + absl::Seconds(1);
  Add(waits);
  EXPECT_EQ(scheduler().NextWakeup(), waits->deadline);
  now_ = waits->deadline;
  Schedule();
  EXPECT_EQ(ends_.at(waits->id).reason, FinishReason::kDeadline);
  Ready(0);
  auto runs = Make(5, 50);
  runs->deadline = now_ + absl::Seconds(2);
  Add(runs);
  ScheduleOne();
  Finish();
  now_ = runs->deadline;
  EXPECT_EQ(Schedule().size(), 1u);  // the heartbeat that is due too
  EXPECT_EQ(ends_.at(runs->id).reason, FinishReason::kDeadline);
  EXPECT_EQ(ends_.at(runs->id).output_tokens, 1u);
}

TEST_F(SchedulerTest, IdleGroupsGetHeartbeats) {
  Ready(0);
  EXPECT_EQ(Schedule().size(), 0u);
  EXPECT_EQ(scheduler().NextWakeup(), now_ + options_.heartbeat_interval);
  now_ += options_.heartbeat_interval;
  EXPECT_EQ(ScheduleOne().sequence_size(), 0);
  EXPECT_EQ(scheduler().NextWakeup(), absl::InfiniteFuture());  // the answer will come
  now_ += absl::Milliseconds(3);
  Finish();
  EXPECT_EQ(scheduler().Stats().groups[0].last_progress, now_);
  EXPECT_EQ(scheduler().Stats().groups[0].steps, 1u);
}

TEST_F(SchedulerTest, ALostGroupsSequencesContinueElsewhereWithoutRepeating) {
  Ready(0);
  const RequestId first = Add(7, 12);
  const RequestId second = Add(15, 12);
  for (int i = 0; i < 4; ++i) {
    ScheduleOne();
    Finish();
  }
  ScheduleOne();
  const size_t told = tokens_[first].size();
  EXPECT_GT(told, 0u);
  Lose(0, 1);
  EXPECT_EQ(scheduler().Stats().waiting, 2);
  ranks_.clear();
  const RequestId late = Add(2, 3);
  Ready(1);
  const StepPlan plan = ScheduleOne();
  EXPECT_EQ(plan.resets(0).num_prompt_tokens(), 7u);  // prompt and output keep their border
  EXPECT_EQ(plan.start_position(0), 0u);
  RunToEnd();
  for (RequestId id : {first, second, late}) EXPECT_EQ(tokens_[id], Expected(id).tokens);
  EXPECT_EQ(ranks_[1]->first_rows(), (std::vector<std::string>{"1", "2", "3"}));
}

TEST_F(SchedulerTest, WithoutAnyGroupTheyWaitForTheNextEpochOrTheirDeadline) {
  Ready(0);
  const RequestId id = Add(7, 12);
  auto hurried = Make(7, 12);
  hurried->deadline = now_ + absl::Seconds(3);
  Add(hurried);
  ScheduleOne();
  Lose(0, 1);
  EXPECT_EQ(Schedule().size(), 0u);
  now_ += absl::Seconds(3);
  EXPECT_EQ(Schedule().size(), 0u);
  EXPECT_EQ(ends_.at(hurried->id).reason, FinishReason::kDeadline);
  Ready(0, 2);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerTest, StaleNewsChangesNothing) {
  Ready(0);
  Add(7, 12);
  ScheduleOne();
  const StepDone old = ranks_[0]->Finish();
  Lose(0, 1);
  Ready(0, 2);
  ScheduleOne();
  Apply(old);          // of an older epoch
  Lose(0, 1);          // likewise
  Apply(GroupReady{.group = 0, .epoch = 2, .model = 0, .num_blocks = {5}});
  EXPECT_EQ(scheduler().Stats().running, 1);
  EXPECT_EQ(scheduler().Stats().groups[0].blocks_total[0], 100);
  const StepDone done = ranks_[0]->Finish();
  StepDone other_term = done;
  other_term.rank_results[0].set_term(99);
  Apply(other_term);
  EXPECT_EQ(scheduler().Stats().groups[0].steps, 0u);
  Apply(done);
  Apply(done);
  EXPECT_EQ(scheduler().Stats().groups[0].steps, 1u);
  RunToEnd();
  EXPECT_EQ(tokens_[1], Expected(1).tokens);
}

TEST_F(SchedulerTest, AnErrorOfAnyRankTakesTheGroupOutUntilItsNextEpoch) {
  Ready(0);
  const RequestId id = Add(7, 12);
  ScheduleOne();
  StepDone done = ranks_[0]->Finish();
  done.rank_results[1].mutable_error()->set_message("out of memory");
  Apply(done);
  EXPECT_FALSE(scheduler().Stats().groups[0].ready);
  EXPECT_EQ(Schedule().size(), 0u);
  Lose(0, 1);
  Ready(0, 2);
  RunToEnd();
  EXPECT_EQ(tokens_[id], Expected(id).tokens);
}

TEST_F(SchedulerTest, AnAnswerOfTheWrongShapeTakesTheGroupOut) {
  Ready(0);
  Add(7, 12);
  ScheduleOne();
  StepDone done = ranks_[0]->Finish();
  done.rank_results[0].clear_sampled();
  Apply(done);
  EXPECT_FALSE(scheduler().Stats().groups[0].ready);
  EXPECT_EQ(scheduler().Stats().waiting, 1);
}

TEST_F(SchedulerTest, ARowThatCannotBeSampledEndsItsRequestOnly) {
  Ready(0);
  const RequestId bad = Add(7, 12);
  const RequestId good = Add(7, 12);
  ScheduleOne();
  StepDone done = ranks_[0]->Finish();
  for (auto& result : done.rank_results) result.set_sampled(0, -1);
  Apply(done);
  RunToEnd();
  EXPECT_EQ(ends_.at(bad).reason, FinishReason::kError);
  EXPECT_EQ(ends_.at(bad).error.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ends_.at(bad).output_tokens, 0u);
  EXPECT_EQ(tokens_[good], Expected(good).tokens);
}

TEST_F(SchedulerTest, TheLeastLoadedGroupTakesTheNextOne) {
  Ready(0);
  Ready(1);
  Ready(2, 1, 100, /*model=*/1);
  Add(30, 5);
  Add(3, 5);
  Add(3, 5);
  const std::vector<StepPlan> plans = Schedule();
  ASSERT_EQ(plans.size(), 2u);  // the third group serves another model
  EXPECT_EQ(plans[0].sequence_size(), 1);
  EXPECT_EQ(plans[1].sequence_size(), 2);
  Add(Make(4, 2, /*model=*/1));
  EXPECT_EQ(ScheduleOne().group(), 2u);
  EXPECT_EQ(scheduler().Stats().models[0].running, 3);
  EXPECT_EQ(scheduler().Stats().models[1].running, 1);
}

TEST_F(SchedulerTest, ASequenceThatOnlyALostGroupCanHoldDoesNotBlockTheOthers) {
  Ready(0, 1, 20);
  Ready(1, 1, 5);
  const RequestId large = Add(30, 10);
  Schedule();
  Lose(0, 1);
  const RequestId small = Add(5, 5);
  EXPECT_EQ(ScheduleOne().group(), 1u);
  while (!ends_.contains(small)) {
    Finish(1);
    Schedule();
  }
  EXPECT_FALSE(ends_.contains(large));
  ranks_.erase(0);
  Ready(0, 2, 20);
  RunToEnd();
  EXPECT_EQ(tokens_[large], Expected(large).tokens);
}

TEST_F(SchedulerTest, WhenTheDeploymentShrinksWhatFitsNowhereEndsWithAReason) {
  Ready(0, 1, 20);
  const RequestId started = Add(30, 10);
  ScheduleOne();
  const RequestId queued = Add(60, 15);
  Lose(0, 1);
  Ready(0, 2, 5);
  TakeUpdates();
  EXPECT_EQ(ends_.at(started).reason, FinishReason::kError);
  EXPECT_EQ(ends_.at(queued).reason, FinishReason::kRejected);
  EXPECT_EQ(scheduler().Stats().waiting, 0);
}

TEST_F(SchedulerTest, EveryFinishReasonHasItsName) {
  EXPECT_STREQ(FinishReasonName(FinishReason::kStop), "stop");
  EXPECT_STREQ(FinishReasonName(FinishReason::kLength), "length");
  EXPECT_STREQ(FinishReasonName(FinishReason::kCancelled), "cancelled");
  EXPECT_STREQ(FinishReasonName(FinishReason::kDeadline), "deadline");
  EXPECT_STREQ(FinishReasonName(FinishReason::kRejected), "rejected");
  EXPECT_STREQ(FinishReasonName(FinishReason::kError), "error");
}

}  // namespace
}  // namespace tessera::testing
