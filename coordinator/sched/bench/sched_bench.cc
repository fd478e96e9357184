// Time the scheduler takes per step in steady decode: apply the StepDone of one step, build the
// next plan, hand out the updates. Arguments: running sequences. Serialization of the plan is a
// benchmark of its own.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "base/check.h"
#include "coordinator/sched/scheduler.h"

namespace tessera {
namespace {

using cluster::v1::StepPlan;
using cluster::v1::StepResult;

constexpr int64_t kContext = 32768;  // tokens
constexpr int64_t kPrompt = 64;      // tokens
constexpr int64_t kBlockSize = 16;   // tokens

// A group in steady decode, answered by a rank that always samples token 7.
class SteadyDecode {
 public:
  explicit SteadyDecode(int64_t sequences) : sequences_(sequences) { Restart(); }

  void Restart() {
    SchedulerOptions options;
    options.block_size = kBlockSize;
    options.rows_max = sequences_;
    options.tokens_max = sequences_ * kPrompt;
    options.waiting_max = sequences_;
    options.models.resize(1);
    options.models[0].context_max = kContext;
    options.models[0].kv_groups.resize(1);
    scheduler_ = std::make_unique<Scheduler>(options);
    const uint32_t blocks = static_cast<uint32_t>(sequences_ * kContext / kBlockSize);
    scheduler_->Apply(GroupReady{.group = 0, .epoch = 1, .model = 0, .num_blocks = {blocks}}, now_);
    for (int64_t i = 0; i < sequences_; ++i) {
      auto request = std::make_shared<Request>();
      request->id = static_cast<RequestId>(i + 1);
      request->prompt.assign(kPrompt, 5);
      request->sampling.max_tokens = kContext;
      request->sampling.stop_token_ids = {2};
      scheduler_->Apply(NewRequest{std::move(request)}, now_);
    }
    steps_left_ = kContext - kPrompt - 2;
    Turn();
    Answer();
    Turn();
  }

  // The scheduler's own work for one step.
  void Turn() {
    if (done_.rank_results.size() == 1) scheduler_->Apply(done_, now_);
    std::vector<StepPlan> plans = scheduler_->Schedule(now_);
    updates_ = scheduler_->TakeUpdates();
    TESSERA_CHECK(plans.size() == 1 && plans[0].sequence_size() == sequences_);
    plan_ = std::move(plans[0]);
    --steps_left_;
  }

  // What the ranks would say to the plan.
  void Answer() {
    done_.rank_results.resize(1);
    StepResult& result = done_.rank_results[0];
    result.Clear();
    result.set_term(plan_.term());
    result.set_epoch(plan_.epoch());
    result.set_step(plan_.step());
    result.mutable_num_sampled()->Resize(static_cast<int>(sequences_), 1);
    result.mutable_sampled()->Resize(static_cast<int>(sequences_), 7);
  }

  int64_t steps_left() const { return steps_left_; }
  const StepPlan& plan() const { return plan_; }

 private:
  const int64_t sequences_;
  const absl::Time now_ = absl::UnixEpoch();
  std::unique_ptr<Scheduler> scheduler_;
  StepPlan plan_;
  StepDone done_;
  std::vector<RequestUpdate> updates_;
  int64_t steps_left_ = 0;
};

void BM_StepInSteadyDecode(benchmark::State& state) {
  SteadyDecode decode(state.range(0));
  for (auto _ : state) {
    TESSERA_CHECK(decode.steps_left() > 0) << "more iterations than the context has tokens";
    decode.Answer();
    const absl::Time begin = absl::Now();
    decode.Turn();
    state.SetIterationTime(absl::ToDoubleSeconds(absl::Now() - begin));
  }
}
BENCHMARK(BM_StepInSteadyDecode)
    ->Arg(1)
    ->Arg(64)
    ->Arg(1024)
    ->UseManualTime()
    ->Iterations(5000)
    ->Unit(benchmark::kMicrosecond);

void BM_SerializePlan(benchmark::State& state) {
  SteadyDecode decode(state.range(0));
  std::string bytes;
  for (auto _ : state) {
    decode.plan().SerializeToString(&bytes);
    benchmark::DoNotOptimize(bytes.data());
  }
  state.counters["bytes"] = static_cast<double>(bytes.size());
}
BENCHMARK(BM_SerializePlan)->Arg(1)->Arg(64)->Arg(1024)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tessera
