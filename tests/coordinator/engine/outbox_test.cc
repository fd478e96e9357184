// Streams get their updates, metrics count each thing once.

#include "coordinator/engine/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "coordinator/engine/step_meter.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

const absl::Time kStart = absl::FromUnixSeconds(3600);

class OutboxTest : public ::testing::Test {
 protected:
  std::shared_ptr<RequestStream> Open(RequestId id, size_t prompt) {
    auto request = std::make_shared<Request>();
    request->id = id;
    request->prompt.assign(prompt, 1);
    request->arrival = kStart;
    auto stream = std::make_shared<RequestStream>([this] { ++wakes_; });
    outbox_.Open(request, stream);
    return stream;
  }
  RequestUpdate Token(RequestId id, uint32_t index, absl::Time scheduled = kStart) {
    RequestUpdate update;
    update.request = id;
    update.first_index = index;
    update.tokens = {9};
    update.first_scheduled = scheduled;
    return update;
  }
  int64_t Publish(RequestUpdate update, absl::Time now) {
    std::vector<RequestUpdate> updates;
    updates.push_back(std::move(update));
    return outbox_.Publish(std::move(updates), now);
  }

  Metrics metrics_{{"m"}};
  Outbox outbox_{metrics_};
  int wakes_ = 0;
};

TEST_F(OutboxTest, UpdatesReachTheirStreamInOrderWithOneWakeWhileNobodyTakes) {
  auto first = Open(1, 3);
  auto second = Open(2, 3);
  Publish(Token(1, 0), kStart);
  Publish(Token(2, 0), kStart);
  Publish(Token(1, 1), kStart);
  EXPECT_EQ(wakes_, 2);
  const std::vector<RequestUpdate> updates = first->Take();
  ASSERT_EQ(updates.size(), 2u);
  EXPECT_EQ(updates[1].first_index, 1u);
  EXPECT_TRUE(first->Take().empty());
  EXPECT_EQ(second->Take().size(), 1u);
  Publish(Token(1, 2), kStart);
  EXPECT_EQ(wakes_, 3);
}

TEST_F(OutboxTest, TimesAndTokensAreCountedOnce) {
  Open(1, 30);
  Publish(Token(1, 0, kStart + absl::Seconds(1)), kStart + absl::Seconds(3));
  RequestUpdate two = Token(1, 1);
  two.tokens = {4, 5};
  Publish(two, kStart + absl::Seconds(4));
  RequestUpdate end = Token(1, 3);
  end.finished = true;
  end.reason = FinishReason::kLength;
  end.output_tokens = 4;
  EXPECT_EQ(Publish(end, kStart + absl::Seconds(6)), 1);
  const std::string text = metrics_.Expose();
  for (const char* line : {"tessera_prompt_tokens_total{model_name=\"m\"} 30",
                           "tessera_generation_tokens_total{model_name=\"m\"} 4",
                           "tessera_request_queue_time_seconds_sum{model_name=\"m\"} 1",
                           "tessera_time_to_first_token_seconds_sum{model_name=\"m\"} 3",
                           "tessera_inter_token_latency_seconds_count{model_name=\"m\"} 3",
                           "tessera_inter_token_latency_seconds_sum{model_name=\"m\"} 3",
                           "tessera_e2e_request_latency_seconds_sum{model_name=\"m\"} 6",
                           "tessera_request_prompt_tokens_sum{model_name=\"m\"} 30",
                           "tessera_request_generation_tokens_sum{model_name=\"m\"} 4",
                           "tessera_requests_total{finish_reason=\"length\",model_name=\"m\"} 1"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST_F(OutboxTest, ARefusalCountsAsRejectedAndNotAsServed) {
  Open(1, 30);
  RequestUpdate end;
  end.request = 1;
  end.finished = true;
  end.reason = FinishReason::kRejected;
  end.error = absl::InvalidArgumentError("too long");
  EXPECT_EQ(Publish(end, kStart), 1);
  const std::string text = metrics_.Expose();
  EXPECT_THAT(text,
              HasSubstr("tessera_requests_total{finish_reason=\"rejected\",model_name=\"m\"} 1"));
  EXPECT_THAT(
      text, HasSubstr("tessera_admission_rejections_total{model_name=\"m\",reason=\"invalid\"} 1"));
  EXPECT_THAT(text, HasSubstr("tessera_e2e_request_latency_seconds_count{model_name=\"m\"} 0"));
}

TEST_F(OutboxTest, CloseAllEndsWhatIsOpenOnce) {
  auto done = Open(1, 3);
  auto open = Open(2, 3);
  RequestUpdate end = Token(1, 0);
  end.finished = true;
  Publish(end, kStart);
  Publish(Token(2, 0), kStart);
  EXPECT_EQ(outbox_.CloseAll(absl::UnavailableError("bye"), kStart), 1);
  EXPECT_EQ(done->Take().size(), 1u);
  const std::vector<RequestUpdate> updates = open->Take();
  ASSERT_EQ(updates.size(), 2u);
  EXPECT_EQ(updates[1].reason, FinishReason::kError);
  EXPECT_EQ(updates[1].error.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(updates[1].output_tokens, 1u);
  EXPECT_EQ(outbox_.CloseAll(absl::UnavailableError("bye"), kStart), 0);
}

TEST(StepMeterTest, StepsAndRanksAreCountedOnceAndHeartbeatsAreNotSteps) {
  Metrics metrics({"a", "b"});
  StepMeter meter(metrics);
  meter.Observe(GroupReady{.group = 4, .epoch = 2, .model = 1, .num_blocks = {8}}, kStart);
  StepDone done{.group = 4, .rank_results = {}};
  for (uint32_t rank = 0; rank < 2; ++rank) {
    auto& result = done.rank_results.emplace_back();
    result.set_epoch(2);
    result.set_group(4);
    result.set_rank(rank);
    result.set_step(1);
    result.set_step_ns(1'000'000'000 * (rank + 1));
    result.set_idle_before_ns(500'000'000);
    result.set_rows(3);
    result.set_tokens_computed(40);
    auto* interval = result.add_intervals();
    interval->set_kind(cluster::v1::DeviceInterval::COLLECTIVE);
    interval->set_duration_ns(250'000'000);
  }
  meter.Observe(done, kStart);
  meter.Observe(done, kStart);  // the same one again
  done.rank_results[0].set_epoch(1);
  done.rank_results[0].set_step(9);
  meter.Observe(done, kStart);  // of an older epoch
  done.rank_results[0].set_epoch(2);
  for (auto& result : done.rank_results) {
    result.set_step(2);
    result.set_rows(0);
    result.clear_intervals();
    result.set_step_ns(0);
    result.set_idle_before_ns(0);
  }
  meter.Observe(done, kStart);  // a heartbeat
  const std::string text = metrics.Expose();
  for (const char* line :
       {"tessera_steps_total{model_name=\"b\"} 1",
        "tessera_step_time_seconds_sum{model_name=\"b\"} 2",
        "tessera_step_rows_sum{model_name=\"b\"} 3", "tessera_step_tokens_sum{model_name=\"b\"} 40",
        "tessera_rank_steps_total{group=\"4\",rank=\"1\"} 2",
        "tessera_rank_device_seconds_total{group=\"4\",kind=\"collective\",rank=\"0\"} 0.25",
        "tessera_rank_device_seconds_total{group=\"4\",kind=\"idle\",rank=\"0\"} 0.5",
        "tessera_rank_device_seconds_total{group=\"4\",kind=\"overhead\",rank=\"1\"} 1.75"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST(StepMeterTest, GaugesComeFromTheSchedulerAndTheFullestKvGroup) {
  Metrics metrics({"a"});
  StepMeter meter(metrics);
  SchedulerStats stats;
  stats.models = {ModelStats{.waiting = 3, .running = 2}};
  GroupStats group;
  group.ready = true;
  group.blocks_total = {100, 10};
  group.blocks_free = {90, 5};
  stats.groups = {group, group};
  meter.Observe(stats);
  const std::string text = metrics.Expose();
  EXPECT_THAT(text, HasSubstr("tessera_requests_waiting{model_name=\"a\"} 3"));
  EXPECT_THAT(text, HasSubstr("tessera_requests_running{model_name=\"a\"} 2"));
  EXPECT_THAT(text, HasSubstr("tessera_kv_cache_usage_ratio{model_name=\"a\"} 0.5"));
}

}  // namespace
}  // namespace tessera
