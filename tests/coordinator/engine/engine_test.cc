// The engine with real threads: several clients, ranks that answer from a thread of their own, the
// clock of the machine. What is checked does not depend on how fast anything is.

#include "coordinator/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/engine/retry_after.h"
#include "tests/coordinator/engine/reading_client.h"
#include "tests/coordinator/engine/threaded_ranks.h"

namespace tessera::testing {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kPatience = absl::Seconds(60);  // never reached unless something hangs
constexpr int64_t kContextMax = 100;

SchedulerOptions Options() {
  SchedulerOptions options;
  options.block_size = 4;
  options.tokens_max = 32;
  options.rows_max = 8;
  options.chunk_max = 8;
  options.waiting_max = 64;
  options.heartbeat_interval = absl::Milliseconds(20);
  options.models.resize(1);
  options.models[0].context_max = kContextMax;
  options.models[0].kv_groups.resize(1);
  return options;
}

std::shared_ptr<Request> MakeRequest(RequestId id, size_t prompt, uint32_t max_tokens) {
  auto request = std::make_shared<Request>();
  request->id = id;
  request->public_id = absl::StrCat(id);
  for (size_t i = 0; i < prompt; ++i) {
    request->prompt.push_back(static_cast<int32_t>((id + i) % kVocabSize));
  }
  request->sampling.max_tokens = max_tokens;
  request->sampling.seed = 5000 + id;
  return request;
}

class EngineTest : public ::testing::Test {
 protected:
  explicit EngineTest(SchedulerOptions options = Options(), WaitingLimits limits = {})
      : ranks_(options), engine_(options, ranks_, clock_, metrics_, limits) {
    ranks_.Start([this](Event event) { engine_.Post(std::move(event)); });
  }
  ~EngineTest() override {
    engine_.Stop();
    ranks_.Stop();
    EXPECT_THAT(ranks_.violations(), IsEmpty());
  }

  void StartReady(uint32_t num_blocks = 100) {
    engine_.Start();
    ranks_.BecomeReady(num_blocks);
    const absl::Time give_up = absl::Now() + kPatience;
    while (engine_.Stats().groups.empty() && absl::Now() < give_up)
      absl::SleepFor(absl::Milliseconds(1));
    ASSERT_TRUE(engine_.Stats().groups.at(0).ready);
  }
  std::shared_ptr<Request> Make(size_t prompt, uint32_t max_tokens) {
    auto request = MakeRequest(engine_.NextRequestId(), prompt, max_tokens);
    request->arrival = clock_.Now();
    return request;
  }
  absl::Status Submit(const std::shared_ptr<Request>& request) {
    clients_.push_back(std::make_unique<ReadingClient>(request, kContextMax));
    return engine_.Submit(request, clients_.back()->stream());
  }
  ReadingClient& last() { return *clients_.back(); }

  RealClock clock_;
  Metrics metrics_{{"m"}};
  ThreadedRanks ranks_;
  Engine engine_;
  std::vector<std::unique_ptr<ReadingClient>> clients_;
};

TEST_F(EngineTest, OneRequestIsAnsweredAndCounted) {
  StartReady();
  ASSERT_TRUE(Submit(Make(20, 10)).ok());
  ASSERT_TRUE(last().ReadToEnd());
  EXPECT_EQ(last().choice(0).tokens, last().choice(0).expected.tokens);
  EXPECT_EQ(last().end()->reason, FinishReason::kLength);
  EXPECT_THAT(last().violations(), IsEmpty());
  EXPECT_TRUE(engine_.WaitUntilIdle(kPatience));
  const std::string text = metrics_.Expose();
  for (const char* line : {"tessera_prompt_tokens_total{model_name=\"m\"} 20",
                           "tessera_generation_tokens_total{model_name=\"m\"} 10",
                           "tessera_tenant_generation_tokens_total{tenant=\"default\"} 10",
                           // 20 prompt tokens in chunks of 8, then nine decode steps: the last
                           // chunk samples the first token.
                           "tessera_steps_total{model_name=\"m\"} 12",
                           "tessera_computed_tokens_total{model_name=\"m\"} 29",
                           "tessera_overrun_tokens_total{model_name=\"m\"} 0"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST_F(EngineTest, ChoicesComeOnOneStream) {
  StartReady();
  auto request = Make(21, 9);
  request->sampling.num_choices = 4;
  ASSERT_TRUE(Submit(request).ok());
  ASSERT_TRUE(last().ReadToEnd());
  for (uint32_t choice = 0; choice < 4; ++choice) {
    EXPECT_TRUE(last().choice(choice).ended);
    EXPECT_EQ(last().choice(choice).tokens, last().choice(choice).expected.tokens);
  }
  EXPECT_NE(last().choice(0).tokens, last().choice(1).tokens);
  EXPECT_EQ(last().end()->details->output_tokens, 36u);
  EXPECT_THAT(last().violations(), IsEmpty());
  EXPECT_THAT(metrics_.Expose(), HasSubstr("tessera_generation_tokens_total{model_name=\"m\"} 36"));
}

TEST_F(EngineTest, TheTextSideHasTheLastWordWhereThereAreStopStrings) {
  StartReady();
  auto request = Make(5, 6);
  request->sampling.has_stop_strings = true;
  request->sampling.num_choices = 2;
  ASSERT_TRUE(Submit(request).ok());
  while (!last().choice(0).ended || !last().choice(1).ended) ASSERT_TRUE(last().ReadMore());
  EXPECT_FALSE(last().end().has_value());
  EXPECT_FALSE(engine_.WaitUntilIdle(absl::Milliseconds(5)));
  engine_.EndText(request->id, 0);
  engine_.StopAt(request->id, 1, 2);  // found after the choice had ended by itself
  ASSERT_TRUE(last().ReadToEnd());
  EXPECT_EQ(last().end()->reason, FinishReason::kStop);
  EXPECT_EQ(last().end()->details->output_tokens, 6u + 3u);
  EXPECT_TRUE(engine_.WaitUntilIdle(kPatience));
}

TEST_F(EngineTest, WithoutAReadyGroupNothingIsTaken) {
  engine_.Start();
  const absl::Status status = Submit(Make(3, 3));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no group of this model is ready"));
  EXPECT_EQ(engine_.CheckRoom(0, "default").code(), absl::StatusCode::kUnavailable);
  auto stranger = Make(3, 3);
  stranger->model = 9;
  EXPECT_EQ(Submit(stranger).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(engine_.CheckRoom(9, "default").code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(engine_.WaitUntilIdle(absl::ZeroDuration()));
  EXPECT_THAT(
      metrics_.Expose(),
      HasSubstr(
          "tessera_admission_rejections_total{model_name=\"m\",reason=\"no_ready_group\"} 2"));
}

TEST_F(EngineTest, AGroupThatWasLostJustNowIsWaitedFor) {
  StartReady();
  ranks_.GetLost();
  const absl::Time give_up = absl::Now() + kPatience;
  while (engine_.Stats().groups.at(0).ready && absl::Now() < give_up)
    absl::SleepFor(absl::Milliseconds(1));
  ASSERT_FALSE(engine_.Stats().groups.at(0).ready);
  EXPECT_TRUE(engine_.CheckRoom(0, "default").ok());
  ASSERT_TRUE(Submit(Make(20, 10)).ok());
  ranks_.BecomeReady(100);
  ASSERT_TRUE(last().ReadToEnd());
  EXPECT_EQ(last().choice(0).tokens, last().choice(0).expected.tokens);
}

TEST_F(EngineTest, AFullQueueRefusesBeforeAnyWork) {
  StartReady();
  EXPECT_TRUE(engine_.CheckRoom(0, "default").ok());
  ranks_.Hold(true);
  int taken = 0;
  absl::Status refused;
  // 8 may run, 64 wait; how many are taken in between depends on when the engine looks.
  for (int i = 0; i < 200 && refused.ok(); ++i) {
    refused = Submit(Make(3, 3));
    if (refused.ok()) ++taken;
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("64 requests"));
  EXPECT_EQ(RetryAfterOf(refused), 1);  // nothing was computed yet, so there is no rate
  EXPECT_GE(taken, 64);
  EXPECT_LE(taken, 72);
  ranks_.Hold(false);
  EXPECT_TRUE(engine_.WaitUntilIdle(kPatience));
  const std::string text = metrics_.Expose();
  EXPECT_THAT(text,
              HasSubstr(absl::StrCat(
                  "tessera_requests_total{finish_reason=\"length\",model_name=\"m\"} ", taken)));
  EXPECT_THAT(text, HasSubstr("tessera_admission_rejections_total{model_name=\"m\","
                              "reason=\"queue_requests\"} 1"));
  EXPECT_THAT(
      text,
      HasSubstr("tessera_tenant_requests_total{finish_reason=\"rejected\",tenant=\"default\"} 1"));
}

class BoundedEngineTest : public EngineTest {
 protected:
  BoundedEngineTest() : EngineTest(Options(), {.tokens_max = 100}) {}
};

TEST_F(BoundedEngineTest, TokensThatWaitAreBoundedAndComeBack) {
  StartReady();
  for (int round = 0; round < 3; ++round) {
    ranks_.Hold(true);
    ASSERT_TRUE(Submit(Make(30, 20)).ok());
    ASSERT_TRUE(Submit(Make(30, 20)).ok());
    // While the ranks are held nothing is known to run.
    const absl::Status refused = Submit(Make(1, 1));
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(refused.message()), HasSubstr("100 tokens"));
    EXPECT_GE(RetryAfterOf(refused).value_or(0), 1);
    ranks_.Hold(false);
    EXPECT_TRUE(engine_.WaitUntilIdle(kPatience));
  }
}

TEST_F(EngineTest, DrainRefusesNewOnesAndFinishesWhatWasTaken) {
  StartReady();
  ranks_.Hold(true);
  ASSERT_TRUE(Submit(Make(5, 5)).ok());
  ReadingClient& first = last();
  engine_.BeginDrain();
  EXPECT_EQ(Submit(Make(5, 5)).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(engine_.WaitUntilIdle(absl::Milliseconds(5)));
  ranks_.Hold(false);
  EXPECT_TRUE(engine_.WaitUntilIdle(kPatience));
  EXPECT_TRUE(engine_.Stats().draining);
  first.TakeAll();
  ASSERT_TRUE(first.end().has_value());
  EXPECT_EQ(first.end()->reason, FinishReason::kLength);
}

TEST_F(EngineTest, StopEndsOpenRequestsAndRefusesLaterOnes) {
  StartReady();
  ranks_.Hold(true);
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Submit(Make(5, 5)).ok());
  engine_.Stop();
  engine_.Stop();
  for (const auto& client : clients_) {
    client->TakeAll();
    ASSERT_TRUE(client->end().has_value());
    EXPECT_EQ(client->end()->reason, FinishReason::kError);
    EXPECT_EQ(client->end()->details->error.code(), absl::StatusCode::kUnavailable);
  }
  EXPECT_EQ(Submit(Make(5, 5)).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(engine_.WaitUntilIdle(absl::ZeroDuration()));
}

TEST_F(EngineTest, ADeadlinePassesWithoutAnyEvent) {
  StartReady();
  ranks_.Hold(true);
  auto request = Make(5, 5);
  request->deadline = clock_.Now() + absl::Milliseconds(30);
  ASSERT_TRUE(Submit(request).ok());
  ASSERT_TRUE(last().ReadToEnd());
  EXPECT_EQ(last().end()->reason, FinishReason::kDeadline);
  EXPECT_GE(clock_.Now(), request->deadline);
}

// One of many clients: reads its answer, cancelling or stopping it on the way.
void LiveOneLife(Engine& engine, ReadingClient& client, int kind) {
  const RequestId id = client.request().id;
  if (kind == 1) engine.CancelRequest(id, FinishReason::kCancelled);
  bool told = false;
  while (!client.end().has_value()) {
    ASSERT_TRUE(client.ReadMore()) << "request " << id << " hangs";
    if (kind != 2 || told || client.end().has_value()) continue;
    told = client.choice(0).ended || client.choice(0).tokens.size() >= 6;
    if (!told) continue;
    if (client.choice(0).tokens.size() >= 6) {
      engine.StopAt(id, 0, 3);
    } else {
      engine.EndText(id, 0);
    }
  }
  const RequestUpdate& end = *client.end();
  if (kind == 1) {
    EXPECT_THAT(end.reason, AnyOf(FinishReason::kCancelled, FinishReason::kLength));
  } else {
    EXPECT_EQ(end.reason, kind == 2 ? FinishReason::kStop : FinishReason::kLength);
    EXPECT_EQ(end.details->output_tokens, kind == 2 ? 4u : 20u);
  }
  EXPECT_TRUE(client.stream()->Take().empty());
}

TEST_F(EngineTest, ManyClientsAtOnceWithCancelsStopsAndALostGroup) {
  constexpr int kClients = 6;
  constexpr int kRequestsPerClient = 25;
  StartReady(/*num_blocks=*/60);
  std::atomic<int> ended{0};
  std::vector<std::vector<std::string>> violations(kClients);
  const auto run_client = [&](int number) {
    for (int i = 0; i < kRequestsPerClient; ++i) {
      auto request = Make(static_cast<size_t>(1 + (number * 7 + i * 5) % 40), 20);
      request->tenant = absl::StrCat("tenant", number % 2);
      request->sampling.has_stop_strings = i % 5 == 2;
      ReadingClient client(request, kContextMax);
      // A group that is lost just now refuses; the client tries again.
      absl::Status taken;
      const absl::Time give_up = absl::Now() + kPatience;
      while (!(taken = engine_.Submit(request, client.stream())).ok() && absl::Now() < give_up) {
        absl::SleepFor(absl::Milliseconds(1));
      }
      ASSERT_TRUE(taken.ok()) << taken;
      LiveOneLife(engine_, client, i % 5);
      violations[static_cast<size_t>(number)].insert(violations[static_cast<size_t>(number)].end(),
                                                     client.violations().begin(),
                                                     client.violations().end());
      ++ended;
    }
  };
  std::vector<std::thread> threads;
  for (int number = 0; number < kClients; ++number) threads.emplace_back(run_client, number);
  for (int i = 0; i < 5; ++i) {
    absl::SleepFor(absl::Milliseconds(5));
    ranks_.GetLost();
    absl::SleepFor(absl::Milliseconds(1));
    ranks_.BecomeReady(60);
    engine_.Post(SetTenants{{{.name = "tenant0", .weight = 1.0 + i}, {.name = "tenant1"}}});
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ended, kClients * kRequestsPerClient);
  for (const auto& list : violations) EXPECT_THAT(list, IsEmpty());
  EXPECT_TRUE(engine_.WaitUntilIdle(kPatience));
  EXPECT_EQ(engine_.Stats().running + engine_.Stats().waiting, 0);
}

// Ranks that answer when they are asked to, for an engine without a thread.
class LocalRanks : public StepExecutor {
 public:
  void Submit(cluster::v1::StepPlan plan) override { ranks->Submit(plan); }
  std::unique_ptr<FakeRanks> ranks;
};

TEST(EngineTurnTest, TheLoopRunsUnderAVirtualClockWithoutAThread) {
  ManualClock clock(absl::FromUnixSeconds(5000));
  Metrics metrics({"m"});
  LocalRanks ranks;
  Engine engine(Options(), ranks, clock, metrics);
  std::vector<std::string> violations;
  const GroupReady ready{.group = 0, .epoch = 1, .model = 0, .num_blocks = {100}};
  ranks.ranks = std::make_unique<FakeRanks>(ready, Options(), 2, violations);
  engine.Post(ready);
  engine.Turn(absl::ZeroDuration());
  auto request = MakeRequest(engine.NextRequestId(), 20, 10);
  request->arrival = clock.Now();
  ReadingClient client(request, kContextMax);
  ASSERT_TRUE(engine.Submit(request, client.stream()).ok());
  for (int turn = 0; turn < 100 && !client.end().has_value(); ++turn) {
    engine.Turn(absl::ZeroDuration());
    clock.Advance(absl::Seconds(1));
    if (ranks.ranks->in_flight()) engine.Post(ranks.ranks->Finish());
    client.TakeAll();
  }
  ASSERT_TRUE(client.end().has_value());
  EXPECT_EQ(client.end()->reason, FinishReason::kLength);
  EXPECT_THAT(client.violations(), IsEmpty());
  EXPECT_THAT(violations, IsEmpty());
  EXPECT_GT(engine.NextWakeup(), clock.Now() - absl::Hours(1));
  EXPECT_TRUE(engine.WaitUntilIdle(absl::ZeroDuration()));
  EXPECT_THAT(metrics.Expose(),
              HasSubstr("tessera_e2e_request_latency_seconds_count{model_name=\"m\"} 1"));
}

}  // namespace
}  // namespace tessera::testing
