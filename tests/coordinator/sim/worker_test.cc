// One simulated worker against a coordinator played by hand: what it says when, what it does about
// messages that make no sense, and what a fault does to it.

#include "coordinator/sim/worker.h"

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
namespace pb = cluster::v1;

const absl::Duration kLoad = absl::Milliseconds(2100);
constexpr absl::Duration kReuse = absl::Milliseconds(20);
constexpr absl::Duration kHeartbeat = absl::Milliseconds(250);

// What the worker said, in one word.
std::string WordOf(const pb::WorkerMessage& message) {
  switch (message.message_case()) {
    case pb::WorkerMessage::kHello:
      return "hello";
    case pb::WorkerMessage::kLoadProgress:
      return "progress";
    case pb::WorkerMessage::kCommHello:
      return "comm";
    case pb::WorkerMessage::kReady:
      return "ready";
    case pb::WorkerMessage::kFailed:
      return "failed";
    case pb::WorkerMessage::kHeartbeat:
      return "beat";
    default:
      return "other";
  }
}

class WorkerTest : public ::testing::Test {
 protected:
  WorkerTest() {
    wire_.model.jitter = absl::ZeroDuration();
    wire_.model.delay = absl::ZeroDuration();
    door_.join = [this](std::shared_ptr<ControlStream> stream) {
      said_.push_back("dial");
      control_ = std::move(stream);
      control_->up.Listen([this](const pb::WorkerMessage& message) { Hear(message); },
                          [this] { said_.push_back("hung up"); });
    };
    door_.steps = [this](std::shared_ptr<StepStream> stream) {
      steps_ = std::move(stream);
      steps_->up.Listen([this](const StepStream::Up& message) { Hear(message); },
                        [this] { said_.push_back("steps closed"); });
    };
    worker_.Start();
  }

  void RunFor(absl::Duration time) { queue_.RunUntil(queue_.Now() + time); }
  // What was said in the meantime.
  std::vector<std::string> Heard(absl::Duration time) {
    said_.clear();
    RunFor(time);
    return std::exchange(said_, {});
  }
  void Welcome() {
    pb::CoordinatorMessage message;
    message.mutable_welcome()->set_worker_id(++num_welcomes_);
    message.mutable_welcome()->set_heartbeat_interval_ms(
        static_cast<uint32_t>(kHeartbeat / absl::Milliseconds(1)));
    control_->down.Send(std::move(message));
  }
  void Assign(uint64_t epoch, const std::string& digest = "a") {
    pb::CoordinatorMessage message;
    pb::Assign& assign = *message.mutable_assign();
    assign.set_term(1);
    assign.set_epoch(epoch);
    assign.set_tp(1);
    assign.set_manifest_digest(digest);
    assign.set_step_deadline_ms(1000);
    control_->down.Send(std::move(message));
  }
  void SendPeers(uint64_t epoch) {
    pb::CoordinatorMessage message;
    message.mutable_comm_peers()->set_epoch(epoch);
    control_->down.Send(std::move(message));
  }
  void SendPlan(uint64_t step, uint64_t epoch = 1) {
    auto plan = std::make_shared<pb::StepPlan>();
    plan->set_term(1);
    plan->set_epoch(epoch);
    plan->set_step(step);
    plan->add_sequence(1);
    plan->add_num_new_tokens(1);
    plan->add_start_position(0);
    steps_->down.Send(std::move(plan));
  }
  // From now until it has loaded and wants to meet the others.
  absl::Duration TimeToLoad() {
    const absl::Time begin = queue_.Now();
    said_.clear();
    while (said_.empty() || said_.back() != "comm") {
      if (queue_.Now() > begin + absl::Minutes(1)) return absl::InfiniteDuration();
      queue_.RunNext();
    }
    return queue_.Now() - begin;
  }
  void Join() {
    RunFor(absl::Milliseconds(300));
    Welcome();
    RunFor(absl::ZeroDuration());
  }
  void Serve() {
    Join();
    Assign(1);
    RunFor(kLoad);
    SendPeers(1);
    RunFor(absl::ZeroDuration());
    ASSERT_TRUE(worker_.serving());
    said_.clear();
  }

  EventQueue queue_;
  Wire wire_{.queue = queue_, .random = Random(1), .model = {}, .fate = {}};
  Fabric fabric_;
  Door door_;
  RankFactory ranks_ = [this](const pb::Assign&, uint32_t) {
    ++num_programs_;
    return [this](const pb::StepPlan& plan) {
      computed_.push_back(plan.step());
      return pb::StepResult();
    };
  };
  Worker worker_{
      {.time = {}, .load_time = kLoad, .reuse_time = kReuse}, 0, wire_, fabric_, door_, ranks_};
  std::shared_ptr<ControlStream> control_;
  std::shared_ptr<StepStream> steps_;
  uint64_t num_welcomes_ = 0;
  int num_programs_ = 0;
  std::vector<uint64_t> computed_;       // steps
  std::vector<pb::StepResult> results_;  // answers
  std::vector<std::string> said_;
  pb::Failed failed_;

 private:
  void Hear(const pb::WorkerMessage& message) {
    said_.push_back(WordOf(message));
    if (message.has_failed()) failed_ = message.failed();
  }
  void Hear(const StepStream::Up& message) {
    if (std::holds_alternative<StepStream::Open>(message)) {
      said_.push_back("steps");
    } else {
      results_.push_back(std::get<pb::StepResult>(message));
    }
  }
};

TEST_F(WorkerTest, DialsWhenItHasStartedAndBeatsFromItsWelcomeOn) {
  EXPECT_THAT(Heard(absl::Milliseconds(299)), IsEmpty());
  EXPECT_THAT(Heard(absl::Milliseconds(1)), ElementsAre("dial", "hello"));
  EXPECT_THAT(Heard(absl::Seconds(1)), IsEmpty());
  Welcome();
  EXPECT_THAT(Heard(3 * kHeartbeat), ElementsAre("beat", "beat", "beat", "beat"));
}

TEST_F(WorkerTest, DialsAgainWithoutAWelcomeOrWithAnotherBeginning) {
  RunFor(absl::Milliseconds(300));
  EXPECT_THAT(Heard(absl::Seconds(10.2)), ElementsAre("hung up", "dial", "hello"));
  Assign(1);
  EXPECT_THAT(Heard(absl::Milliseconds(100)), ElementsAre("hung up", "dial", "hello"));
}

TEST_F(WorkerTest, DialsAgainWhenTheCoordinatorHangsUp) {
  Join();
  control_->down.Close();
  EXPECT_THAT(Heard(absl::Milliseconds(100)), ElementsAre("hung up", "dial", "hello"));
}

TEST_F(WorkerTest, LoadsThenMeetsTheOthersThenServes) {
  Join();
  Assign(1);
  EXPECT_THAT(Heard(kLoad - absl::Nanoseconds(1)),
              ElementsAre("beat", "beat", "progress", "beat", "beat", "progress", "beat", "beat",
                          "progress", "beat", "beat"));
  EXPECT_THAT(Heard(absl::Nanoseconds(1)), ElementsAre("progress", "comm"));
  SendPeers(2);  // of another epoch
  EXPECT_THAT(Heard(absl::Milliseconds(1)), IsEmpty());
  EXPECT_FALSE(worker_.serving());
  SendPeers(1);
  SendPeers(1);
  EXPECT_THAT(Heard(absl::Milliseconds(1)), ::testing::UnorderedElementsAre("steps", "ready"));
  EXPECT_TRUE(worker_.serving());
  EXPECT_EQ(num_programs_, 1);
}

TEST_F(WorkerTest, KeepsTheWeightsItHasUntilItDies) {
  Join();
  Assign(1);
  EXPECT_EQ(TimeToLoad(), kLoad);
  Assign(2);
  EXPECT_EQ(TimeToLoad(), kReuse);
  Assign(3, "other weights");
  EXPECT_EQ(TimeToLoad(), kLoad);
  worker_.Kill(absl::ZeroDuration());
  Join();
  Assign(4, "other weights");
  EXPECT_EQ(TimeToLoad(), kLoad);
  worker_.SetSlowness(3);
  Assign(5, "more weights");
  EXPECT_EQ(TimeToLoad(), 3 * kLoad);
}

TEST_F(WorkerTest, ObeysTheLatestEpochOnly) {
  Serve();
  Assign(1);
  EXPECT_THAT(Heard(kHeartbeat / 2), IsEmpty());
  EXPECT_TRUE(worker_.serving()) << "the news is old";
  Assign(3);
  EXPECT_THAT(Heard(absl::ZeroDuration()), ElementsAre("steps closed"));
  Assign(2);
  RunFor(kReuse);
  SendPeers(3);
  EXPECT_THAT(Heard(absl::ZeroDuration()), ::testing::UnorderedElementsAre("steps", "ready"));
}

TEST_F(WorkerTest, GivesUpWhatIsTakenFromIt) {
  Serve();
  pb::CoordinatorMessage message;
  message.mutable_unassign()->set_epoch(1);
  control_->down.Send(message);
  EXPECT_THAT(Heard(absl::ZeroDuration()), ElementsAre("steps closed"));
  EXPECT_FALSE(worker_.serving());
  Assign(1);  // overtaken by its end
  RunFor(kLoad);
  SendPeers(1);
  RunFor(absl::ZeroDuration());
  EXPECT_FALSE(worker_.serving());
}

TEST_F(WorkerTest, AFailedLoadSaysWhyAndEndsTheProcess) {
  Join();
  worker_.FailNextLoad(absl::ResourceExhaustedError("no memory"), absl::Seconds(1));
  Assign(1);
  RunFor(kLoad - absl::Milliseconds(1));
  EXPECT_THAT(Heard(absl::Milliseconds(1)), ElementsAre("progress", "failed", "hung up"));
  EXPECT_EQ(failed_.code(), static_cast<int>(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(failed_.message(), "no memory");
  EXPECT_FALSE(worker_.alive());
  EXPECT_THAT(Heard(absl::Milliseconds(1300)), ElementsAre("dial", "hello"));
  Welcome();
  RunFor(absl::ZeroDuration());
  Assign(2);
  EXPECT_EQ(TimeToLoad(), kLoad);
}

TEST_F(WorkerTest, AShutdownIsForGood) {
  Serve();
  pb::CoordinatorMessage message;
  message.mutable_shutdown();
  control_->down.Send(message);
  EXPECT_THAT(Heard(absl::Hours(1)), ElementsAre("steps closed", "hung up"));
  EXPECT_FALSE(worker_.alive());
}

TEST_F(WorkerTest, AKilledProcessBreaksItsStreamsAndNothingOfItGoesOn) {
  Serve();
  SendPlan(1);
  RunFor(absl::Milliseconds(1));
  worker_.Kill(absl::Milliseconds(10));
  const absl::Time death = queue_.Now();
  EXPECT_THAT(Heard(absl::Milliseconds(9)), ElementsAre("steps closed", "hung up"));
  EXPECT_EQ(worker_.silent_since(), death);
  EXPECT_THAT(Heard(absl::Milliseconds(301)), ElementsAre("dial", "hello"));
  EXPECT_EQ(worker_.silent_since(), absl::InfiniteFuture());
  EXPECT_THAT(results_, IsEmpty()) << "the step died with it";
  EXPECT_THAT(Heard(kHeartbeat), IsEmpty()) << "so did the heart";
}

TEST_F(WorkerTest, AProcessThatIsKilledWhileItStartsDialsOnce) {
  RunFor(absl::Milliseconds(150));
  worker_.Kill(absl::Milliseconds(10));
  EXPECT_THAT(Heard(absl::Seconds(1)), ElementsAre("dial", "hello"));
}

TEST_F(WorkerTest, ALostHostIsHeardOfLate) {
  Serve();
  worker_.Kill(absl::InfiniteDuration(), absl::Seconds(3));
  EXPECT_THAT(Heard(absl::Seconds(2.9)), IsEmpty());
  EXPECT_THAT(Heard(absl::Seconds(1)), ElementsAre("steps closed", "hung up"));
}

TEST_F(WorkerTest, APausedProcessDoesEverythingAfterwards) {
  Serve();
  const absl::Time begin = queue_.Now();
  worker_.Pause(absl::Seconds(2));
  worker_.Pause(absl::Seconds(1));  // ends within the other
  SendPlan(1);
  EXPECT_THAT(Heard(absl::Seconds(1.9)), IsEmpty());
  EXPECT_EQ(worker_.silent_since(), begin);
  EXPECT_THAT(computed_, IsEmpty());
  EXPECT_THAT(Heard(absl::Milliseconds(101)), ::testing::Contains("beat"));
  EXPECT_EQ(worker_.silent_since(), absl::InfiniteFuture());
  EXPECT_THAT(computed_, ElementsAre(1));
}

TEST_F(WorkerTest, StepsAreComputedInOrderAndCountedWithoutGaps) {
  Serve();
  const absl::Time begin = queue_.Now();
  SendPlan(1);
  SendPlan(2);
  RunFor(absl::Milliseconds(100));
  SendPlan(3);
  RunFor(absl::Milliseconds(100));
  EXPECT_THAT(computed_, ElementsAre(1, 2, 3));
  ASSERT_EQ(results_.size(), 3u);
  EXPECT_EQ(results_[0].idle_before_ns(), 0u);
  EXPECT_EQ(results_[1].idle_before_ns(), 0u) << "it was queued";
  EXPECT_EQ(begin + absl::Nanoseconds(results_[0].step_ns() + results_[1].step_ns() +
                                      results_[2].idle_before_ns()),
            begin + absl::Milliseconds(100));
}

TEST_F(WorkerTest, PlansThatAreNotItsOwnAreRefusedAndLeaveNoTrace) {
  Serve();
  SendPlan(1);
  RunFor(absl::Milliseconds(50));
  SendPlan(1);     // once more
  SendPlan(3);     // one is missing
  SendPlan(2, 9);  // of another epoch
  RunFor(absl::Milliseconds(50));
  SendPlan(2);
  RunFor(absl::Milliseconds(50));
  EXPECT_THAT(computed_, ElementsAre(1, 2));
  ASSERT_EQ(results_.size(), 5u);
  for (const size_t refused : {1, 2, 3}) {
    EXPECT_EQ(results_[refused].error().code(),
              static_cast<int>(absl::StatusCode::kFailedPrecondition));
  }
  EXPECT_FALSE(results_[4].has_error());
  // The gap reaches back to the last step that was computed.
  EXPECT_EQ(absl::Nanoseconds(results_[0].step_ns() + results_[4].idle_before_ns()),
            absl::Milliseconds(100));
}

}  // namespace
}  // namespace tessera::sim
