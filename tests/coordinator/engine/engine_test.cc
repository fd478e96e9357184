// The engine with real threads: several clients, ranks that answer from a thread of their own, the
// clock of the machine. What is checked does not depend on how fast anything is.

#include "coordinator/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/coordinator/engine/threaded_ranks.h"
#include "tests/coordinator/sched/request_log.h"

namespace tessera::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr absl::Duration kPatience = absl::Seconds(60);  // never reached unless something hangs

SchedulerOptions Options() {
  SchedulerOptions options;
  options.block_size = 4;
  options.tokens_max = 32;
  options.rows_max = 8;
  options.chunk_max = 8;
  options.waiting_max = 64;
  options.heartbeat_interval = absl::Milliseconds(20);
  options.models.resize(1);
  options.models[0].context_max = 100;
  options.models[0].kv_groups.resize(1);
  return options;
}

// A consumer that collects its updates; it may be woken from the engine thread.
class Client {
 public:
  Client() : stream_(std::make_shared<RequestStream>([this] { Wake(); })) {}

  const std::shared_ptr<RequestStream>& stream() const { return stream_; }
  // Waits for more; false when nothing came in time.
  bool WaitForUpdates(std::vector<RequestUpdate>& out) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, absl::ToChronoSeconds(kPatience), [this] { return woken_; }))
      return false;
    woken_ = false;
    lock.unlock();
    out = stream_->Take();
    return true;
  }

 private:
  void Wake() {
    // Notified under the lock: the client may be gone right after.
    std::lock_guard lock(mutex_);
    woken_ = true;
    changed_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool woken_ = false;
  const std::shared_ptr<RequestStream> stream_;
};

class EngineTest : public ::testing::Test {
 protected:
  explicit EngineTest(SchedulerOptions options = Options())
      : ranks_(options), engine_(options, ranks_, clock_, metrics_) {
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
    auto request = std::make_shared<Request>();
    request->id = engine_.NextRequestId();
    request->public_id = absl::StrCat(request->id);
    for (size_t i = 0; i < prompt; ++i) {
      request->prompt.push_back(static_cast<int32_t>((request->id + i) % kVocabSize));
    }
    request->sampling.max_tokens = max_tokens;
    request->sampling.seed = 5000 + request->id;
    request->arrival = clock_.Now();
    return request;
  }
  // Reads the stream to its end into the log.
  void ReadToEnd(Client& client, RequestLog& log, RequestId id) {
    while (!log.at(id).end.has_value()) {
      std::vector<RequestUpdate> updates;
      ASSERT_TRUE(client.WaitForUpdates(updates)) << "request " << id << " hangs";
      for (const RequestUpdate& update : updates) log.Take(update, clock_.Now());
    }
  }

  RealClock clock_;
  Metrics metrics_{{"m"}};
  ThreadedRanks ranks_;
  Engine engine_;
};

TEST_F(EngineTest, OneRequestIsAnsweredAndCounted) {
  StartReady();
  std::vector<std::string> violations;
  RequestLog log(violations);
  Client client;
  auto request = Make(20, 10);
  log.Add(request, 100);
  ASSERT_TRUE(engine_.Submit(request, client.stream()).ok());
  ReadToEnd(client, log, request->id);
  EXPECT_EQ(log.at(request->id).emitted, log.at(request->id).expected.tokens);
  EXPECT_TRUE(engine_.WaitUntilIdle(kPatience));
  EXPECT_THAT(violations, IsEmpty());
  const std::string text = metrics_.Expose();
  EXPECT_THAT(text, HasSubstr("tessera_prompt_tokens_total{model_name=\"m\"} 20"));
  EXPECT_THAT(text, HasSubstr("tessera_generation_tokens_total{model_name=\"m\"} 10"));
  // 20 prompt tokens in chunks of 8, then nine decode steps: the last chunk samples the first
  // token.
  EXPECT_THAT(text, HasSubstr("tessera_steps_total{model_name=\"m\"} 12"));
}

TEST_F(EngineTest, WithoutAReadyGroupNothingIsTaken) {
  engine_.Start();
  Client client;
  const absl::Status status = engine_.Submit(Make(3, 3), client.stream());
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no group of this model is ready"));
  auto stranger = Make(3, 3);
  stranger->model = 9;
  EXPECT_EQ(engine_.Submit(stranger, client.stream()).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(engine_.WaitUntilIdle(absl::ZeroDuration()));
  EXPECT_THAT(
      metrics_.Expose(),
      HasSubstr(
          "tessera_admission_rejections_total{model_name=\"m\",reason=\"no_ready_group\"} 1"));
}

TEST_F(EngineTest, AFullQueueRefusesBeforeAnyWork) {
  StartReady();
  ranks_.Hold(true);
  std::vector<std::unique_ptr<Client>> clients;
  int taken = 0;
  absl::Status refused;
  // 8 may run, 64 wait; how many are taken in between depends on when the engine looks.
  for (int i = 0; i < 200 && refused.ok(); ++i) {
    refused =
        engine_.Submit(Make(3, 3), clients.emplace_back(std::make_unique<Client>())->stream());
    if (refused.ok()) ++taken;
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_GE(taken, 64);
  EXPECT_LE(taken, 72);
  ranks_.Hold(false);
  EXPECT_TRUE(engine_.WaitUntilIdle(kPatience));
  EXPECT_THAT(metrics_.Expose(),
              HasSubstr(absl::StrCat(
                  "tessera_requests_total{finish_reason=\"length\",model_name=\"m\"} ", taken)));
}

TEST_F(EngineTest, DrainRefusesNewOnesAndFinishesWhatWasTaken) {
  StartReady();
  ranks_.Hold(true);
  Client client;
  auto request = Make(5, 5);
  ASSERT_TRUE(engine_.Submit(request, client.stream()).ok());
  engine_.BeginDrain();
  Client late;
  EXPECT_EQ(engine_.Submit(Make(5, 5), late.stream()).code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(engine_.WaitUntilIdle(absl::Milliseconds(5)));
  ranks_.Hold(false);
  EXPECT_TRUE(engine_.WaitUntilIdle(kPatience));
  EXPECT_TRUE(engine_.Stats().draining);
  std::vector<RequestUpdate> updates = client.stream()->Take();
  ASSERT_FALSE(updates.empty());
  EXPECT_EQ(updates.back().reason, FinishReason::kLength);
}

TEST_F(EngineTest, StopEndsOpenRequestsAndRefusesLaterOnes) {
  StartReady();
  ranks_.Hold(true);
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(
        engine_.Submit(Make(5, 5), clients.emplace_back(std::make_unique<Client>())->stream())
            .ok());
  }
  engine_.Stop();
  engine_.Stop();
  for (const auto& client : clients) {
    const std::vector<RequestUpdate> updates = client->stream()->Take();
    ASSERT_EQ(updates.size(), 1u);
    EXPECT_TRUE(updates[0].finished);
    EXPECT_EQ(updates[0].reason, FinishReason::kError);
    EXPECT_EQ(updates[0].error.code(), absl::StatusCode::kUnavailable);
  }
  Client late;
  EXPECT_EQ(engine_.Submit(Make(5, 5), late.stream()).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(engine_.WaitUntilIdle(absl::ZeroDuration()));
}

TEST_F(EngineTest, ADeadlinePassesWithoutAnyEvent) {
  StartReady();
  ranks_.Hold(true);
  Client client;
  auto request = Make(5, 5);
  request->deadline = clock_.Now() + absl::Milliseconds(30);
  ASSERT_TRUE(engine_.Submit(request, client.stream()).ok());
  std::vector<RequestUpdate> updates;
  ASSERT_TRUE(client.WaitForUpdates(updates));
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_EQ(updates[0].reason, FinishReason::kDeadline);
  EXPECT_GE(clock_.Now(), request->deadline);
}

TEST_F(EngineTest, ManyClientsAtOnceWithCancelsStopsAndALostGroup) {
  constexpr int kClients = 6;
  constexpr int kRequestsPerClient = 25;
  StartReady(/*num_blocks=*/60);
  std::atomic<int> ended{0};
  std::vector<std::vector<std::string>> violations(kClients);
  const auto run_client = [&](int number) {
    RequestLog log(violations[number]);
    for (int i = 0; i < kRequestsPerClient; ++i) {
      Client client;
      auto request = Make(static_cast<size_t>(1 + (number * 7 + i * 5) % 40), 20);
      LoggedRequest& logged = log.Add(request, 100);
      // A group that is lost just now refuses; the client tries again.
      absl::Status taken;
      const absl::Time give_up = absl::Now() + kPatience;
      while (!(taken = engine_.Submit(request, client.stream())).ok() && absl::Now() < give_up) {
        absl::SleepFor(absl::Milliseconds(1));
      }
      ASSERT_TRUE(taken.ok()) << taken;
      if (i % 5 == 1) {
        logged.cancelled = true;
        engine_.CancelRequest(request->id, FinishReason::kCancelled);
      }
      while (!logged.end.has_value()) {
        std::vector<RequestUpdate> updates;
        ASSERT_TRUE(client.WaitForUpdates(updates)) << "request " << request->id << " hangs";
        for (const RequestUpdate& update : updates) log.Take(update, clock_.Now());
        if (i % 5 == 2 && logged.emitted.size() >= 6 && !logged.stop_index.has_value() &&
            !logged.end.has_value()) {
          engine_.StopAt(request->id, 0, 3);
          // Tokens up to now are out or on their way.
          while (!logged.end.has_value()) {
            if (!client.WaitForUpdates(updates)) break;
            for (const RequestUpdate& update : updates) {
              if (update.finished && update.tokens.empty()) logged.stop_index = 3;
              log.Take(update, clock_.Now());
            }
          }
        }
      }
      EXPECT_TRUE(client.stream()->Take().empty());
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
    engine_.Stats();
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(ended, kClients * kRequestsPerClient);
  for (const auto& list : violations) EXPECT_THAT(list, IsEmpty());
  EXPECT_TRUE(engine_.WaitUntilIdle(kPatience));
  EXPECT_EQ(engine_.Stats().running + engine_.Stats().waiting, 0);
}

}  // namespace
}  // namespace tessera::testing
