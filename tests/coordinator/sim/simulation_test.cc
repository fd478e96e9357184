// Whole simulated clusters: they come up, answer, recover from what is done to them, and take the
// time that the model says.

#include "coordinator/sim/simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/cluster/cluster_fixtures.h"

namespace tessera::sim {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
namespace pb = cluster::v1;

constexpr absl::Duration kStep = absl::Milliseconds(10);

// Ranks that sample 7 for every row that samples.
pb::StepResult Sevens(const pb::StepPlan& plan) {
  pb::StepResult result;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    const bool samples = plan.output(row) == pb::OUTPUT_SAMPLE;
    result.add_num_sampled(samples ? 1 : 0);
    if (samples) result.add_sampled(7);
  }
  return result;
}

class SimulationTest : public ::testing::Test {
 protected:
  void Make(int tp, size_t workers, absl::Duration turn_time = absl::Microseconds(20)) {
    SimulationOptions options;
    options.seed = seed_;
    ModelTarget model = SmallModel("m", tp);
    options.scheduler.block_size = model.memory.block_size;
    options.scheduler.rows_max = model.memory.rows_max;
    options.scheduler.tokens_max = model.memory.tokens_max;
    options.scheduler.models = {
        {.context_max = model.spec.context_max, .kv_groups = model.spec.kv_groups}};
    options.cluster.models = {model};
    options.turn_time = turn_time;
    for (size_t i = 0; i < workers; ++i) {
      WorkerOptions worker;
      worker.name = absl::StrCat("w", i);
      worker.time = {.per_step = kStep,
                     .per_token = absl::ZeroDuration(),
                     .per_kv_token = absl::ZeroDuration(),
                     .sampling = absl::ZeroDuration(),
                     .noise = 0};
      options.workers.push_back(worker);
    }
    SimulationHooks hooks;
    hooks.ranks = [this](const pb::Assign&, uint32_t) {
      return [this](const pb::StepPlan& plan) {
        pb::StepResult result = Sevens(plan);
        if (failing_) result.mutable_error()->set_message("it burns");
        return result;
      };
    };
    hooks.observers.event = [this](const Event& event) {
      if (const auto* ready = std::get_if<GroupReady>(&event)) epochs_.push_back(ready->epoch);
      if (const auto* lost = std::get_if<GroupLost>(&event)) {
        losses_.push_back(std::string(lost->reason.message()));
      }
      if (const auto* done = std::get_if<StepDone>(&event)) Note(*done);
    };
    hooks.notice = [this](const Notice& notice) {
      if (notice.kind == Notice::Kind::kLeft) left_.push_back(notice.worker);
    };
    hooks.observers.updates = [this](const auto& updates) {
      for (const RequestUpdate& update : updates) Take(update);
    };
    simulation_ = std::make_unique<Simulation>(std::move(options), std::move(hooks));
    simulation_->Start();
  }
  void Take(const RequestUpdate& update) {
    for (int32_t token : update.tokens()) EXPECT_EQ(token, 7);
    tokens_ += static_cast<int64_t>(update.tokens().size());
    told_at_.insert(told_at_.end(), update.tokens().size(), simulation_->Now());
    if (update.finished) ends_.push_back(update.reason);
  }
  void Note(const StepDone& done) {
    for (const pb::StepResult& result : done.rank_results) {
      Accounts& accounts = accounts_[result.rank()];
      uint64_t intervals = 0;
      for (const pb::DeviceInterval& interval : result.intervals()) {
        intervals += interval.duration_ns();
        if (interval.kind() == pb::DeviceInterval::COLLECTIVE) {
          accounts.collective += absl::Nanoseconds(interval.duration_ns());
        }
      }
      EXPECT_EQ(intervals, result.step_ns()) << "step " << result.step();
      accounts.sum += absl::Nanoseconds(result.step_ns() + result.idle_before_ns());
      ++accounts.steps;
    }
  }
  void RunFor(absl::Duration time) { simulation_->queue().RunUntil(simulation_->Now() + time); }
  void Ask(uint32_t max_tokens) {
    auto request = std::make_shared<Request>();
    request->id = ++num_requests_;
    request->prompt = {1, 2, 3};
    request->sampling.max_tokens = max_tokens;
    request->arrival = simulation_->Now();
    simulation_->Post(NewRequest{std::move(request)});
  }

  struct Accounts {
    uint64_t steps = 0;
    absl::Duration sum;  // of all steps and the gaps before them
    absl::Duration collective;
  };

  bool failing_ = false;
  uint64_t seed_ = 5;
  std::map<uint32_t, Accounts> accounts_;  // by rank, of all answered steps
  std::vector<absl::Time> told_at_;        // when each token was
  std::vector<uint64_t> epochs_;
  std::vector<std::string> losses_;
  std::vector<std::string> left_;  // workers
  int64_t tokens_ = 0;
  std::vector<FinishReason> ends_;
  RequestId num_requests_ = 0;
  std::unique_ptr<Simulation> simulation_;
};

TEST_F(SimulationTest, AGroupComesUpAndAnswers) {
  Make(2, 2);
  RunFor(absl::Seconds(5));
  EXPECT_THAT(epochs_, ::testing::ElementsAre(1));
  Ask(20);
  RunFor(absl::Seconds(1));
  EXPECT_EQ(tokens_, 20);
  EXPECT_THAT(ends_, ::testing::ElementsAre(FinishReason::kLength));
  EXPECT_TRUE(losses_.empty());
}

TEST_F(SimulationTest, StepsTakeWhatTheModelSaysAndOverlapHidesTheCoordinator) {
  for (const absl::Duration turn : {absl::Microseconds(20), kStep / 2}) {
    tokens_ = 0;
    Make(1, 1, turn);
    RunFor(absl::Seconds(5));
    Ask(400);
    RunFor(absl::Milliseconds(100));
    const int64_t before = tokens_;
    RunFor(absl::Seconds(2));
    EXPECT_NEAR(static_cast<double>(tokens_ - before), absl::Seconds(2) / kStep, 4) << turn;
  }
}

TEST_F(SimulationTest, TheSameSeedLivesTheSameLifeAndAnotherSeedAnother) {
  const auto live = [this](uint64_t seed) {
    seed_ = seed;
    told_at_.clear();
    Make(2, 3);
    simulation_->worker(0).SetSlowness(1.5);
    Ask(100);
    RunFor(absl::Seconds(6));
    EXPECT_EQ(told_at_.size(), 100u);
    return told_at_;
  };
  const std::vector<absl::Time> first = live(5);
  EXPECT_EQ(live(5), first);
  EXPECT_NE(live(6), first);
}

TEST_F(SimulationTest, TheAccountsOfARankCoverItsTime) {
  Make(2, 2);
  RunFor(absl::Seconds(5));
  Ask(100);
  RunFor(absl::Seconds(3));
  ASSERT_EQ(accounts_.size(), 2u);
  EXPECT_EQ(accounts_[0].steps, accounts_[1].steps);
  accounts_.clear();
  // The faster rank waits for the slower one.
  simulation_->worker(1).SetSlowness(3);
  const absl::Time begin = simulation_->Now();
  Ask(100);
  RunFor(absl::Seconds(4));
  const absl::Duration passed = simulation_->Now() - begin;
  for (const auto& [rank, accounts] : accounts_) {
    // A heartbeat is up to half a second away at either end.
    EXPECT_NEAR(absl::ToDoubleSeconds(accounts.sum), absl::ToDoubleSeconds(passed), 0.6) << rank;
  }
  const auto [least, most] = std::minmax(accounts_[0].collective, accounts_[1].collective);
  EXPECT_NEAR(absl::ToDoubleSeconds(most), 100 * 0.02, 0.1);
  EXPECT_LT(least, absl::Milliseconds(100));
}

TEST_F(SimulationTest, AGroupThatFormsAgainKeepsItsWeights) {
  Make(2, 2);
  RunFor(absl::Seconds(5));
  Ask(100);
  RunFor(absl::Milliseconds(100));
  failing_ = true;  // the processes stay
  for (int i = 0; i < 100 && losses_.empty(); ++i) RunFor(absl::Milliseconds(1));
  failing_ = false;
  ASSERT_EQ(losses_.size(), 1u);
  RunFor(absl::Milliseconds(500));
  EXPECT_EQ(epochs_.size(), 2u) << "reading the weights again takes two seconds";
  RunFor(absl::Seconds(3));
  EXPECT_EQ(tokens_, 100);
}

TEST_F(SimulationTest, AKilledRankIsReplacedAndTheAnswerGoesOn) {
  Make(2, 2);
  RunFor(absl::Seconds(5));
  Ask(300);
  RunFor(absl::Milliseconds(500));
  simulation_->worker(1).Kill(absl::Milliseconds(200));
  RunFor(absl::Milliseconds(100));
  ASSERT_EQ(losses_.size(), 1u) << "a broken stream is noticed at once";
  RunFor(absl::Seconds(20));
  EXPECT_EQ(epochs_.size(), 2u);
  EXPECT_EQ(tokens_, 300);
}

TEST_F(SimulationTest, ASpareThatDiesIsMissedAtOnce) {
  Make(1, 2);
  RunFor(absl::Seconds(5));
  const size_t spare = simulation_->worker(0).serving() ? 1 : 0;
  simulation_->worker(spare).Kill(absl::InfiniteDuration());
  RunFor(absl::Milliseconds(10));
  EXPECT_THAT(left_, ::testing::ElementsAre(absl::StrCat("w", spare)));
  EXPECT_TRUE(losses_.empty());
}

TEST_F(SimulationTest, ALostHostAndAStoppedProcessAreNoticedByTheirSilence) {
  for (const bool host : {true, false}) {
    losses_.clear();
    Make(1, 2);
    RunFor(absl::Seconds(5));
    const size_t serving = simulation_->worker(0).serving() ? 0 : 1;
    if (host) {
      simulation_->worker(serving).Kill(absl::InfiniteDuration(), absl::Seconds(60));
    } else {
      simulation_->worker(serving).Pause(absl::Seconds(30));
    }
    RunFor(absl::Milliseconds(700));
    EXPECT_TRUE(losses_.empty());
    RunFor(absl::Milliseconds(700));
    EXPECT_THAT(losses_, Contains(HasSubstr("no heartbeat")));
    RunFor(absl::Seconds(10));
    EXPECT_TRUE(simulation_->worker(1 - serving).serving()) << "the spare takes over";
  }
}

TEST_F(SimulationTest, AHangingRankKeepsTheOthersWaitingUntilTheStepIsOverdue) {
  Make(2, 2);
  RunFor(absl::Seconds(5));
  simulation_->worker(1).SetSlowness(500);  // a step takes 5 s, the heartbeat goes on
  Ask(5);
  RunFor(absl::Seconds(1));
  EXPECT_EQ(tokens_, 0);
  RunFor(absl::Seconds(3));
  EXPECT_THAT(losses_, Contains(HasSubstr("did not come back")));
  simulation_->worker(1).SetSlowness(1);
  RunFor(absl::Seconds(30));
  EXPECT_EQ(tokens_, 5);
}

TEST_F(SimulationTest, FailedStepsAndLoadsAreTriedAgain) {
  Make(1, 1);
  simulation_->worker(0).FailNextLoad(absl::UnavailableError("no disk"), absl::Seconds(1));
  RunFor(absl::Seconds(10));
  EXPECT_EQ(epochs_.size(), 1u);
  Ask(10);
  failing_ = true;
  RunFor(absl::Seconds(1));
  failing_ = false;
  RunFor(absl::Seconds(20));
  EXPECT_THAT(losses_, Contains(HasSubstr("it burns")));
  EXPECT_EQ(tokens_, 10);
}

TEST_F(SimulationTest, StaleAnswersAndPlansChangeNothing) {
  Make(1, 1);
  RunFor(absl::Seconds(5));
  Ask(200);
  RunFor(absl::Milliseconds(300));
  for (int i = 0; i < 10; ++i) {
    pb::StepResult result;
    result.set_term(0);
    result.set_epoch(1);
    simulation_->worker(0).InjectResult(result);
    auto plan = std::make_shared<pb::StepPlan>();
    plan->set_term(1);
    plan->set_epoch(1);
    plan->set_step(1);
    simulation_->worker(0).InjectPlan(plan);
    RunFor(absl::Milliseconds(50));
  }
  RunFor(absl::Seconds(5));
  EXPECT_TRUE(losses_.empty());
  EXPECT_EQ(tokens_, 200);
}

}  // namespace
}  // namespace tessera::sim
