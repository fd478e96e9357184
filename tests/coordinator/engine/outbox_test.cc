// Streams get their updates, metrics count each thing once.

#include "coordinator/engine/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/engine/step_meter.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const absl::Time kStart = absl::FromUnixSeconds(3600);

class OutboxTest : public ::testing::Test {
 protected:
  std::shared_ptr<RequestStream> Open(RequestId id, size_t prompt, uint32_t num_choices = 1) {
    auto request = std::make_shared<Request>();
    request->id = id;
    request->prompt.assign(prompt, 1);
    request->arrival = kStart;
    request->tenant = "acme";
    request->sampling.max_tokens = 10;
    request->sampling.num_choices = num_choices;
    auto stream = std::make_shared<RequestStream>([this] { ++wakes_; });
    outbox_.Open(request, stream);
    return stream;
  }
  RequestUpdate Token(RequestId id, uint32_t index, absl::Time scheduled = kStart) {
    RequestUpdate update;
    update.request = id;
    update.first_index = index;
    update.token = 9;
    update.details.Make().first_scheduled = scheduled;
    return update;
  }
  TurnOutcome Publish(RequestUpdate update, absl::Time now) {
    std::vector<RequestUpdate> updates;
    updates.push_back(std::move(update));
    return outbox_.Publish(absl::MakeSpan(updates), now);
  }

  Metrics metrics_{{"m"}};
  Ledger ledger_{{}, {}};
  Outbox outbox_{metrics_, ledger_};
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
  Publish(Token(1, 1), kStart + absl::Seconds(4));
  RequestUpdate end = Token(1, 2);
  end.finished = true;
  end.reason = FinishReason::kLength;
  end.details.Make().output_tokens = 3;
  end.details.Make().cached_tokens = 16;
  EXPECT_EQ(Publish(end, kStart + absl::Seconds(6)).ended, 1);
  const std::string text = metrics_.Expose();
  for (const char* line :
       {"tessera_prompt_tokens_total{model_name=\"m\"} 30",
        "tessera_generation_tokens_total{model_name=\"m\"} 3",
        "tessera_request_queue_time_seconds_sum{model_name=\"m\"} 1",
        "tessera_time_to_first_token_seconds_sum{model_name=\"m\"} 3",
        "tessera_inter_token_latency_seconds_count{model_name=\"m\"} 2",
        "tessera_inter_token_latency_seconds_sum{model_name=\"m\"} 3",
        "tessera_e2e_request_latency_seconds_sum{model_name=\"m\"} 6",
        "tessera_request_prompt_tokens_sum{model_name=\"m\"} 30",
        "tessera_request_generation_tokens_sum{model_name=\"m\"} 3",
        "tessera_request_computed_prompt_tokens_sum{model_name=\"m\"} 14",
        "tessera_request_time_per_output_token_seconds_sum{model_name=\"m\"} 1.5",
        "tessera_request_decode_time_seconds_sum{model_name=\"m\"} 3",
        "tessera_request_max_tokens_sum{model_name=\"m\"} 10",
        "tessera_requests_slo_total{met=\"false\",model_name=\"m\",slo=\"ttft\"} 1",
        "tessera_cached_prompt_tokens_total{model_name=\"m\"} 16",
        "tessera_tenant_prompt_tokens_total{tenant=\"acme\"} 30",
        "tessera_tenant_generation_tokens_total{tenant=\"acme\"} 3",
        "tessera_tenant_requests_total{finish_reason=\"length\",tenant=\"acme\"} 1",
        "tessera_requests_total{finish_reason=\"length\",model_name=\"m\"} 1"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST_F(OutboxTest, ChoicesShareAStreamAndAreCountedTogether) {
  auto stream = Open(1, 30, 3);
  // The prompt's last row samples once for every choice; one of them ends with that.
  std::vector<RequestUpdate> first;
  for (uint16_t choice = 0; choice < 3; ++choice) {
    RequestUpdate& update = first.emplace_back(Token(1, 0));
    update.choice = choice;
    update.details.Make().logprobs = {
        TokenLogprobs{.logprob = -0.5f, .top = {{9, -0.5f}, {4, -2.0f}}}};
    update.ended = choice == 1;
  }
  EXPECT_EQ(outbox_.Publish(absl::MakeSpan(first), kStart + absl::Seconds(1)).ended, 0);
  RequestUpdate second = Token(1, 1);
  second.choice = 2;
  second.ended = true;
  Publish(second, kStart + absl::Seconds(2));
  RequestUpdate third = Token(1, 1);
  third.ended = true;
  Publish(third, kStart + absl::Seconds(4));
  RequestUpdate end;
  end.request = 1;
  end.finished = true;
  end.details.Make().output_tokens = 5;
  EXPECT_EQ(Publish(end, kStart + absl::Seconds(5)).ended, 1);
  const std::vector<RequestUpdate> updates = stream->Take();
  ASSERT_EQ(updates.size(), 6u);
  EXPECT_EQ(updates[1].choice, 1u);
  EXPECT_TRUE(updates[1].ended);
  ASSERT_EQ(updates[1].details->logprobs.size(), 1u);
  EXPECT_EQ(updates[1].details->logprobs[0].top.size(), 2u);
  EXPECT_TRUE(updates[5].finished);
  const std::string text = metrics_.Expose();
  for (const char* line : {"tessera_prompt_tokens_total{model_name=\"m\"} 30",
                           "tessera_generation_tokens_total{model_name=\"m\"} 5",
                           "tessera_time_to_first_token_seconds_count{model_name=\"m\"} 1",
                           "tessera_inter_token_latency_seconds_count{model_name=\"m\"} 2",
                           "tessera_inter_token_latency_seconds_sum{model_name=\"m\"} 4",
                           "tessera_request_generation_tokens_sum{model_name=\"m\"} 5",
                           "tessera_request_queue_time_seconds_count{model_name=\"m\"} 1",
                           // The slowest choice: two tokens, three seconds apart.
                           "tessera_request_time_per_output_token_seconds_sum{model_name=\"m\"} 3",
                           "tessera_request_longest_generation_tokens_sum{model_name=\"m\"} 2",
                           "tessera_request_choices_sum{model_name=\"m\"} 3",
                           "tessera_requests_total{finish_reason=\"stop\",model_name=\"m\"} 1"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

TEST_F(OutboxTest, ARequestWaitsUntilItRunsOrEnds) {
  Open(1, 30, 2);
  Open(2, 5);
  Open(3, 7);
  RequestUpdate early;  // says nothing about any row
  early.request = 1;
  EXPECT_EQ(Publish(early, kStart).begun.tokens, 0);
  EXPECT_EQ(Publish(Token(1, 0), kStart).begun.tokens, 30 + 2 * 10);
  EXPECT_EQ(Publish(Token(1, 1), kStart).begun.tokens, 0);  // once
  RequestUpdate refused;
  refused.request = 2;
  refused.details.Make();
  refused.finished = true;
  refused.reason = FinishReason::kDeadline;
  const TurnOutcome outcome = Publish(refused, kStart);
  EXPECT_EQ(outcome.begun.tokens, 15);
  EXPECT_GT(outcome.begun.bytes, 0);
  EXPECT_EQ(outbox_.CloseAll(absl::UnavailableError("bye"), kStart).begun.tokens, 17);
}

TEST_F(OutboxTest, TheOldestWaitingRequestIsKnownByItsAge) {
  const auto age = [this](absl::Duration since_start) {
    outbox_.Publish({}, kStart + since_start);
    return metrics_.model(0).oldest_waiting->Value();
  };
  EXPECT_EQ(age(absl::Seconds(1)), 0);
  Open(1, 30);
  Open(2, 30);
  EXPECT_EQ(age(absl::Seconds(2)), 2);
  Publish(Token(1, 0), kStart);
  EXPECT_EQ(age(absl::Seconds(3)), 3);  // the other one
  RequestUpdate end;
  end.request = 2;
  end.details.Make();
  end.finished = true;
  end.reason = FinishReason::kCancelled;
  Publish(end, kStart + absl::Seconds(4));
  EXPECT_EQ(age(absl::Seconds(5)), 0);
}

TEST_F(OutboxTest, BrokenUpdatesAreNotHandedOut) {
  Open(1, 3, 2);
  RequestUpdate gap = Token(1, 1);
  EXPECT_DEATH(Publish(gap, kStart), "gets token 1 after 0 tokens");
  RequestUpdate stranger = Token(1, 0);
  stranger.choice = 2;
  EXPECT_DEATH(Publish(stranger, kStart), "no choice 2");
  RequestUpdate last = Token(1, 0);
  last.ended = true;
  Publish(last, kStart);
  EXPECT_DEATH(Publish(Token(1, 1), kStart), "has ended before");
}

TEST_F(OutboxTest, ARefusalCountsAsRejectedAndNotAsServed) {
  Open(1, 30);
  RequestUpdate end;
  end.request = 1;
  end.finished = true;
  end.reason = FinishReason::kRejected;
  end.details.Make().error = absl::InvalidArgumentError("too long");
  EXPECT_EQ(Publish(end, kStart).ended, 1);
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
  EXPECT_EQ(outbox_.CloseAll(absl::UnavailableError("bye"), kStart).ended, 1);
  EXPECT_EQ(done->Take().size(), 1u);
  const std::vector<RequestUpdate> updates = open->Take();
  ASSERT_EQ(updates.size(), 2u);
  EXPECT_EQ(updates[1].reason, FinishReason::kError);
  EXPECT_EQ(updates[1].details->error.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(updates[1].details->output_tokens, 1u);
  EXPECT_EQ(outbox_.CloseAll(absl::UnavailableError("bye"), kStart).ended, 0);
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
    result.set_expert_tokens(70 + rank);
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
    result.clear_expert_tokens();
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
        "tessera_rank_expert_tokens_total{group=\"4\",rank=\"0\"} 70",
        "tessera_rank_expert_tokens_total{group=\"4\",rank=\"1\"} 71",
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
  group.blocks_cached = {60, 0};
  stats.groups = {group, group};
  meter.Observe(stats);
  const std::string text = metrics.Expose();
  EXPECT_THAT(text, HasSubstr("tessera_requests_waiting{model_name=\"a\"} 3"));
  EXPECT_THAT(text, HasSubstr("tessera_requests_running{model_name=\"a\"} 2"));
  EXPECT_THAT(text, HasSubstr("tessera_kv_cache_usage_ratio{model_name=\"a\"} 0.5"));
  const auto blocks = [](int kv_group, const char* state) {
    return absl::StrCat("tessera_kv_cache_blocks{kv_group=\"", kv_group,
                        "\",model_name=\"a\",state=\"", state, "\"} ");
  };
  // Of both groups.
  EXPECT_THAT(text, HasSubstr(absl::StrCat(blocks(0, "held"), 20)));
  EXPECT_THAT(text, HasSubstr(absl::StrCat(blocks(0, "cached"), 120)));
  EXPECT_THAT(text, HasSubstr(absl::StrCat(blocks(0, "empty"), 60)));
  EXPECT_THAT(text, HasSubstr(absl::StrCat(blocks(1, "held"), 10)));
  for (GroupStats& lost : stats.groups) lost.ready = false;
  meter.Observe(stats);
  EXPECT_THAT(metrics.Expose(), HasSubstr(absl::StrCat(blocks(0, "empty"), 0)));
}

// One answered step: nanoseconds of each rank, and of these in collectives.
StepDone Answered(uint64_t step, const std::vector<std::pair<uint64_t, uint64_t>>& ranks) {
  StepDone done{.group = 4, .rank_results = {}};
  for (const auto& [step_ns, collective_ns] : ranks) {
    auto& result = done.rank_results.emplace_back();
    result.set_epoch(2);
    result.set_group(4);
    result.set_rank(static_cast<uint32_t>(done.rank_results.size() - 1));
    result.set_step(step);
    result.set_rows(1);
    result.set_step_ns(step_ns);
    auto* interval = result.add_intervals();
    interval->set_kind(cluster::v1::DeviceInterval::COLLECTIVE);
    interval->set_duration_ns(collective_ns);
  }
  return done;
}

TEST(StepMeterTest, TheSlowestRankIsTheOneForWhichTheOthersWait) {
  Metrics metrics({"a"});
  StepMeter meter(metrics);
  meter.Observe(GroupReady{.group = 4, .epoch = 2, .model = 0, .num_blocks = {8}}, kStart);
  // All take 100 ns; rank 2 works for 80 of them, the others for 40, 20 and 40.
  meter.Observe(Answered(1, {{100, 60}, {100, 80}, {100, 20}, {100, 60}}), kStart);
  const std::string text = metrics.Expose();
  for (const char* line : {"tessera_step_rank_skew_ratio_sum{group=\"4\"} 2\n",
                           "tessera_step_rank_skew_ratio_count{group=\"4\"} 1\n",
                           "tessera_rank_slowest_steps_total{group=\"4\",rank=\"2\"} 1\n",
                           "tessera_rank_slowest_steps_total{group=\"4\",rank=\"0\"} 0\n"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
  meter.Observe(Answered(2, {{0, 0}, {0, 0}}), kStart);  // nothing to compare
  EXPECT_THAT(metrics.Expose(), HasSubstr("tessera_step_rank_skew_ratio_count{group=\"4\"} 1\n"));
}

TEST(StepMeterTest, AForecastIsComparedOnce) {
  Metrics metrics({"a"});
  StepMeter meter(metrics);
  meter.Observe(GroupReady{.group = 4, .epoch = 2, .model = 0, .num_blocks = {8}}, kStart);
  SchedulerStats stats;
  stats.models.resize(1);
  stats.groups.resize(1);
  stats.groups[0].group = 4;
  meter.Observe(stats);  // there is none yet
  stats.groups[0].forecast = {.count = 1, .predicted_seconds = 3, .measured_seconds = 2};
  meter.Observe(stats);
  meter.Observe(stats);
  stats.groups[0].forecast = {.count = 5, .predicted_seconds = 2, .measured_seconds = 2};
  meter.Observe(stats);
  const std::string text = metrics.Expose();
  EXPECT_THAT(text, HasSubstr("tessera_step_time_error_ratio_sum{model_name=\"a\"} 0.5\n"));
  EXPECT_THAT(text, HasSubstr("tessera_step_time_error_ratio_count{model_name=\"a\"} 2\n"));
}

TEST(StepMeterTest, AGroupOfOneHasNoSkew) {
  Metrics metrics({"a"});
  StepMeter meter(metrics);
  meter.Observe(GroupReady{.group = 4, .epoch = 2, .model = 0, .num_blocks = {8}}, kStart);
  meter.Observe(Answered(1, {{100, 0}}), kStart);
  EXPECT_THAT(metrics.Expose(), Not(HasSubstr("tessera_step_rank_skew_ratio_count")));
}

TEST(StepMeterTest, ALossCountsOncePerEpoch) {
  Metrics metrics({"a"});
  StepMeter meter(metrics);
  const auto losses = [&](int count) {
    return absl::StrCat("tessera_group_losses_total{group=\"4\",model_name=\"a\"} ", count, "\n");
  };
  const GroupLost lost{.group = 4, .epoch = 2, .reason = absl::UnavailableError("rank 1")};
  meter.Observe(lost, kStart);  // of a group that was never ready
  meter.Observe(GroupReady{.group = 4, .epoch = 2, .model = 0, .num_blocks = {8}}, kStart);
  meter.Observe(lost, kStart);
  meter.Observe(lost, kStart);
  EXPECT_THAT(metrics.Expose(), HasSubstr(losses(1)));
  meter.Observe(GroupReady{.group = 4, .epoch = 3, .model = 0, .num_blocks = {8}}, kStart);
  meter.Observe(lost, kStart);  // stale
  EXPECT_THAT(metrics.Expose(), HasSubstr(losses(1)));
  meter.Observe(GroupLost{.group = 4, .epoch = 3, .reason = lost.reason}, kStart);
  EXPECT_THAT(metrics.Expose(), HasSubstr(losses(2)));
}

TEST(StepMeterTest, CountersFollowTheSchedulersSums) {
  Metrics metrics({"a", "b"});
  StepMeter meter(metrics);
  SchedulerStats stats;
  stats.models.resize(2);
  stats.models[1] = {.waiting_tokens = 70,
                     .computed_tokens = 100,
                     .recomputed_tokens = 20,
                     .overrun_tokens = 3,
                     .prefix_query_tokens = 64,
                     .prefix_hit_tokens = 48,
                     .preemptions = 2};
  meter.Observe(stats);
  meter.Observe(stats);
  stats.models[1].computed_tokens = 105;
  stats.models[1].preemptions = 3;
  meter.Observe(stats);
  const std::string text = metrics.Expose();
  for (const char* line : {"tessera_tokens_waiting{model_name=\"b\"} 70",
                           "tessera_computed_tokens_total{model_name=\"b\"} 105",
                           "tessera_computed_tokens_total{model_name=\"a\"} 0",
                           "tessera_recomputed_tokens_total{model_name=\"b\"} 20",
                           "tessera_overrun_tokens_total{model_name=\"b\"} 3",
                           "tessera_prefix_cache_queries_total{model_name=\"b\"} 64",
                           "tessera_prefix_cache_hits_total{model_name=\"b\"} 48",
                           "tessera_preemptions_total{model_name=\"b\"} 3"}) {
    EXPECT_THAT(text, HasSubstr(line));
  }
}

}  // namespace
}  // namespace tessera
