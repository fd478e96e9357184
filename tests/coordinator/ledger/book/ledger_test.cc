// Records and charges: one record per request, when its account is closed; every charge once.

#include "coordinator/ledger/book/ledger.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace tessera {
namespace {

class LedgerTest : public ::testing::Test {
 protected:
  LedgerTest() {
    SchedulerOptions options;
    options.models.resize(1);
    options.models[0].context_max = 100;
    options.models[0].kv_groups.resize(1);
    scheduler_ = std::make_unique<Scheduler>(options);
  }

  void Tell(const Event& event) {
    scheduler_->Apply(event, now_);
    ledger_.Observe(event, *scheduler_, now_);
    for (const cluster::v1::StepPlan& plan : scheduler_->Schedule(now_)) {
      ledger_.OnPlan(plan, now_);
      plans_.push_back(plan);
    }
    std::vector<RequestUpdate> updates;
    scheduler_->TakeUpdates(updates);
    for (const RequestUpdate& update : updates) {
      if (update.finished) ledger_.OnFinished(*requests_.at(update.request), update, now_);
    }
    ledger_.OnClosed(scheduler_->TakeAccounts());
  }
  void Ready(uint64_t epoch) {
    Tell(GroupReady{.group = 0,
                    .epoch = epoch,
                    .model = 0,
                    .num_blocks = {100},
                    .num_ranks = 2,
                    .assigned = now_ - absl::Seconds(3)});
  }
  void Add(RequestId id, uint32_t max_tokens) {
    auto request = std::make_shared<Request>();
    request->id = id;
    request->public_id = "r" + std::to_string(id);
    request->tenant = "acme";
    request->arrival = now_;
    request->prompt = {1, 2, 3, 4};
    request->sampling.max_tokens = max_tokens;
    requests_[id] = request;
    Tell(NewRequest{request});
  }
  // Both ranks answer the oldest plan: it took `seconds`, right behind the one before.
  void Answer(double seconds) {
    const cluster::v1::StepPlan plan = plans_.front();
    plans_.erase(plans_.begin());
    now_ += absl::Seconds(seconds);
    StepDone done;
    done.group = 0;
    for (uint32_t rank = 0; rank < 2; ++rank) {
      cluster::v1::StepResult& result = done.rank_results.emplace_back();
      result.set_term(plan.term());
      result.set_epoch(plan.epoch());
      result.set_step(plan.step());
      result.set_rank(rank);
      result.set_rows(static_cast<uint32_t>(plan.sequence_size()));
      result.set_step_ns(static_cast<uint64_t>(seconds * 1e9));
      for (int row = 0; row < plan.sequence_size(); ++row) {
        const bool samples = plan.output(row) == cluster::v1::OUTPUT_SAMPLE;
        result.add_num_sampled(samples ? 1 : 0);
        if (samples) result.add_sampled(7);
      }
    }
    Tell(done);
  }
  void Settle() { ledger_.Settle(*scheduler_, now_); }
  double Charged(const std::string& tenant, GpuKind kind) { return charged_[{tenant, kind}]; }
  double AllCharged() const {
    double sum = 0;
    for (const auto& [key, seconds] : charged_) sum += seconds;
    return sum;
  }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  std::unique_ptr<Scheduler> scheduler_;
  std::map<RequestId, std::shared_ptr<const Request>> requests_;
  std::vector<cluster::v1::StepPlan> plans_;
  std::map<std::pair<std::string, GpuKind>, double> charged_;
  double wall_ = 0;
  std::vector<UsageRecord> records_;
  Ledger ledger_{{"m"},
                 {.charge =
                      [this](const GpuCharge& charge) {
                        EXPECT_EQ(charge.model, 0u);
                        charged_[{charge.tenant, charge.kind}] += charge.seconds;
                      },
                  .wall = [this](uint32_t, double seconds) { wall_ += seconds; },
                  .record = [this](UsageRecord record) { records_.push_back(std::move(record)); }}};
};

TEST_F(LedgerTest, ARecordHasWhatTheRequestUsed) {
  Ready(1);
  Add(1, 3);
  const absl::Time arrival = now_;
  Answer(1);
  Answer(0.5);
  Answer(0.25);
  ASSERT_EQ(records_.size(), 1u);
  const UsageRecord& record = records_.front();
  EXPECT_EQ(record.request_id, "r1");
  EXPECT_EQ(record.tenant, "acme");
  EXPECT_EQ(record.model, "m");
  EXPECT_EQ(record.arrival, arrival);
  EXPECT_EQ(record.finished, now_);
  EXPECT_EQ(record.reason, FinishReason::kLength);
  EXPECT_EQ(record.prompt_tokens, 4u);
  EXPECT_EQ(record.output_tokens, 3u);
  EXPECT_DOUBLE_EQ(record.work[WorkKind::kPrefill], 2);
  EXPECT_DOUBLE_EQ(record.work[WorkKind::kDecode], 1.5);
}

TEST_F(LedgerTest, ChargesSumUpToTheWallClock) {
  Ready(1);
  Add(1, 3);
  Answer(1);
  Answer(0.5);
  Settle();
  EXPECT_DOUBLE_EQ(Charged("acme", GpuKind::kPrefill), 2);
  EXPECT_DOUBLE_EQ(Charged("acme", GpuKind::kDecode), 1);
  EXPECT_DOUBLE_EQ(Charged("", GpuKind::kLoad), 6);
  Settle();
  EXPECT_DOUBLE_EQ(AllCharged(), 9);  // each once
  EXPECT_DOUBLE_EQ(wall_, 9);
  now_ += absl::Seconds(2);
  Tell(GroupLost{.group = 0, .epoch = 1, .reason = absl::UnavailableError("gone")});
  now_ += absl::Seconds(1);
  Settle();
  EXPECT_DOUBLE_EQ(Charged("", GpuKind::kRecovery), 6);
  EXPECT_DOUBLE_EQ(AllCharged(), 15);
  EXPECT_DOUBLE_EQ(wall_, 15);
}

TEST_F(LedgerTest, ARecordWaitsForRowsInFlight) {
  Ready(1);
  Add(1, 50);
  Answer(1);
  Tell(Cancel{.request = 1});
  EXPECT_TRUE(records_.empty());
  EXPECT_EQ(ledger_.open_records(), 1u);
  Answer(0.5);
  Answer(0.25);
  ASSERT_EQ(records_.size(), 1u);
  EXPECT_EQ(records_[0].reason, FinishReason::kCancelled);
  EXPECT_DOUBLE_EQ(records_[0].work[WorkKind::kOverrun], 1.5);
  Settle();
  EXPECT_DOUBLE_EQ(Charged("acme", GpuKind::kOverrun), 1.5);
}

TEST_F(LedgerTest, AtTheEndRecordsDoNotWait) {
  Ready(1);
  Add(1, 50);
  Answer(1);
  Tell(Cancel{.request = 1});
  ledger_.CloseAll();
  ASSERT_EQ(records_.size(), 1u);
  EXPECT_DOUBLE_EQ(records_[0].work[WorkKind::kPrefill], 2);
  ledger_.CloseAll();
  EXPECT_EQ(records_.size(), 1u);
}

TEST_F(LedgerTest, WhoIsRefusedHasARecordToo) {
  Add(1, 0);
  ASSERT_EQ(records_.size(), 1u);
  EXPECT_EQ(records_[0].reason, FinishReason::kRejected);
  EXPECT_EQ(records_[0].work.total(), 0);
}

}  // namespace
}  // namespace tessera
