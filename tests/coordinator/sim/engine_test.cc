// The engine's turn under virtual time: when it happens, and in which order things happen in it.

#include "coordinator/sim/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace tessera::sim {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr absl::Duration kTurnTime = absl::Microseconds(20);

class EngineTest : public ::testing::Test, private StepExecutor {
 protected:
  EngineTest() : engine_(Options(), queue_, kTurnTime, *this, Watch()) { engine_.Start(); }

  void RunUntil(absl::Duration since_start) { queue_.RunUntil(absl::UnixEpoch() + since_start); }
  void MakeGroup() { engine_.Post(GroupReady{.num_blocks = {10}}); }

  EventQueue queue_;
  std::vector<std::string> story_;
  std::vector<absl::Duration> turns_;  // when they were
  bool posts_when_planned_ = false;
  Engine engine_;

 private:
  static SchedulerOptions Options() {
    SchedulerOptions options;
    options.models.resize(1);
    options.models[0].context_max = 100;
    options.models[0].kv_groups.resize(1);
    return options;
  }
  Engine::Observers Watch() {
    Engine::Observers observers;
    observers.event = [this](const Event& event) {
      story_.push_back(std::holds_alternative<Drain>(event) ? "drain" : "event");
    };
    observers.plan = [this](const cluster::v1::StepPlan&) { story_.push_back("plan"); };
    observers.updates = [this](const std::vector<RequestUpdate>& updates) {
      if (!updates.empty()) story_.push_back("updates");
    };
    observers.turn = [this] { turns_.push_back(queue_.Now() - absl::UnixEpoch()); };
    return observers;
  }
  void Submit(cluster::v1::StepPlan) override {
    story_.push_back("submit");
    if (posts_when_planned_) engine_.Post(Drain{});
  }
};

TEST_F(EngineTest, ATurnTakesWhatHasComeInOrder) {
  RunUntil(absl::Milliseconds(1));
  turns_.clear();
  engine_.Post(Tick{});
  RunUntil(absl::Milliseconds(1) + kTurnTime / 2);
  engine_.Post(Drain{});
  EXPECT_THAT(story_, IsEmpty());
  EXPECT_FALSE(engine_.scheduler().Stats().draining);
  RunUntil(absl::Milliseconds(2));
  EXPECT_THAT(story_, ElementsAre("event", "drain"));
  EXPECT_THAT(turns_, ElementsAre(absl::Milliseconds(1) + kTurnTime)) << "one turn for both";
  EXPECT_TRUE(engine_.scheduler().Stats().draining);
}

TEST_F(EngineTest, EventsThenPlansThenUpdates) {
  MakeGroup();
  auto request = std::make_shared<Request>();
  request->id = 1;
  request->prompt = {1, 2, 3};
  request->sampling.max_tokens = 5;
  engine_.Post(NewRequest{std::move(request)});
  auto refused = std::make_shared<Request>();  // it has no prompt
  refused->id = 2;
  engine_.Post(NewRequest{std::move(refused)});
  RunUntil(kTurnTime);
  EXPECT_THAT(story_, ElementsAre("event", "event", "event", "plan", "submit", "plan", "submit",
                                  "updates"));
}

TEST_F(EngineTest, WhatComesDuringATurnWaitsForTheNext) {
  posts_when_planned_ = true;
  MakeGroup();
  RunUntil(absl::Milliseconds(499));
  turns_.clear();
  story_.clear();
  RunUntil(absl::Milliseconds(501));  // the idle group gets its heartbeat
  ASSERT_EQ(turns_.size(), 2u);
  EXPECT_EQ(turns_[1] - turns_[0], kTurnTime);
  EXPECT_THAT(story_, ElementsAre("plan", "submit", "drain"));
}

TEST_F(EngineTest, LooksAroundEverySecondEvenIfNothingHappens) {
  RunUntil(absl::Seconds(3.5));
  EXPECT_THAT(turns_, ElementsAre(absl::ZeroDuration(), absl::Seconds(1), absl::Seconds(2),
                                  absl::Seconds(3)));
}

TEST_F(EngineTest, WakesUpWhenTheSchedulerWantsIt) {
  auto request = std::make_shared<Request>();
  request->id = 1;
  request->prompt = {1};
  request->sampling.max_tokens = 1;
  request->deadline = absl::UnixEpoch() + absl::Milliseconds(300);
  engine_.Post(NewRequest{std::move(request)});
  RunUntil(absl::Milliseconds(299));
  turns_.clear();
  EXPECT_THAT(story_, ElementsAre("event"));
  RunUntil(absl::Milliseconds(301));
  EXPECT_THAT(turns_, ElementsAre(absl::Milliseconds(300)));
  EXPECT_THAT(story_, ElementsAre("event", "updates"));
}

}  // namespace
}  // namespace tessera::sim
