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
#include "coordinator/kv/block_manager.h"
#include "coordinator/sched/scheduler.h"

namespace tessera {
namespace {

using cluster::v1::StepPlan;
using cluster::v1::StepResult;

constexpr int64_t kContext = 32768;  // tokens
constexpr int64_t kPrompt = 64;      // tokens
constexpr int64_t kBlockSize = 16;   // tokens
constexpr int64_t kEarlierSteps = 5000;

// A group in steady decode, answered by a rank that always samples token 7; one plan runs while the
// next is queued, as in production.
class SteadyDecode {
 public:
  explicit SteadyDecode(int64_t sequences) : sequences_(sequences) {
    SchedulerOptions options;
    options.block_size = kBlockSize;
    options.rows_max = sequences_;
    options.tokens_max = sequences_ * kPrompt;
    options.waiting_max = sequences_;
    options.models.resize(1);
    options.models[0].context_max = kContext;
    options.models[0].kv_groups.resize(1);
    scheduler_ = std::make_unique<Scheduler>(options);
    const uint32_t blocks = static_cast<uint32_t>(sequences_ * (kContext / kBlockSize + 1));
    scheduler_->Apply(GroupReady{.group = 0, .epoch = 1, .model = 0, .num_blocks = {blocks}}, now_);
    // A server that has run for a while: earlier answers have left their memory behind.
    Begin();
    for (int64_t i = 0; i < kEarlierSteps; ++i) {
      Answer();
      Turn();
    }
    for (int64_t i = 0; i < sequences_; ++i) {
      scheduler_->Apply(Cancel{.request = static_cast<RequestId>(i + 1)}, now_);
    }
    for (size_t i = in_flight_.size(); i > 0; --i) {
      Answer();
      scheduler_->Apply(done_, now_);
    }
    scheduler_->TakeUpdates(updates_);
    Begin();
  }

  // What the ranks would say to the oldest plan.
  void Answer() {
    done_.rank_results.resize(1);
    StepResult& result = done_.rank_results[0];
    const StepPlan& plan = in_flight_.front();
    result.Clear();
    result.set_term(plan.term());
    result.set_epoch(plan.epoch());
    result.set_step(plan.step());
    result.set_step_ns(10'000'000);
    result.mutable_num_sampled()->Resize(static_cast<int>(sequences_), 1);
    result.mutable_sampled()->Resize(static_cast<int>(sequences_), 7);
    in_flight_.erase(in_flight_.begin());
  }

  // The scheduler's own work for one step.
  void Turn() {
    scheduler_->Apply(done_, now_);
    std::vector<StepPlan> plans = scheduler_->Schedule(now_);
    scheduler_->TakeUpdates(updates_);
    TESSERA_CHECK(plans.size() == 1 && plans[0].sequence_size() == sequences_);
    in_flight_.push_back(std::move(plans[0]));
    --steps_left_;
  }

  int64_t steps_left() const { return steps_left_; }
  const StepPlan& plan() const { return in_flight_.back(); }

 private:
  // Requests for all of the group's rows; two plans are in flight afterwards.
  void Begin() {
    for (int64_t i = 0; i < sequences_; ++i) {
      auto request = std::make_shared<Request>();
      request->id = next_id_++;
      request->prompt.assign(kPrompt, static_cast<int32_t>(i));
      request->sampling.max_tokens = kContext;
      request->sampling.stop_token_ids = {2};
      scheduler_->Apply(NewRequest{std::move(request)}, now_);
    }
    steps_left_ = kContext - kPrompt - 4;
    in_flight_ = scheduler_->Schedule(now_);
    TESSERA_CHECK(in_flight_.size() == 2);
  }

  const int64_t sequences_;
  RequestId next_id_ = 1;
  const absl::Time now_ = absl::UnixEpoch();
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<StepPlan> in_flight_;
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

// Naming a prompt's blocks and finding them in the cache; time per block.
void BM_PrefixLookup(benchmark::State& state) {
  const int64_t num_blocks = state.range(0);
  const PrefixKey key = {1, 2, 3};
  std::vector<int32_t> tokens(static_cast<size_t>(num_blocks * kBlockSize));
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * 7919 % 128000);
  PrefixChain chain{.root = PrefixRoot(key, "model"), .hashes = {}, .tokens = tokens};
  std::vector<BlockHash> hashes;
  const auto name_all = [&] {
    hashes.clear();
    for (int64_t i = 0; i < num_blocks; ++i) {
      const auto block = chain.tokens.subspan(static_cast<size_t>(i * kBlockSize), kBlockSize);
      hashes.push_back(ChainBlock(key, i == 0 ? chain.root : hashes.back(), block));
    }
    chain.hashes = hashes;
  };
  BlockManager blocks(kBlockSize,
                      std::vector<PoolSpec>{{.num_blocks = static_cast<uint32_t>(num_blocks)}});
  BlockTables tables;
  std::vector<BlockCopy> copies;
  name_all();
  blocks.Open({}, 0, tables);
  TESSERA_CHECK(blocks.Extend(0, num_blocks * kBlockSize, 1, tables, copies));
  blocks.SetContent(chain, 0, num_blocks, tables);
  for (auto _ : state) {
    name_all();
    TESSERA_CHECK(blocks.FindPrefix(chain).blocks == num_blocks);
  }
  state.counters["per_block"] = benchmark::Counter(
      static_cast<double>(num_blocks),
      benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}
BENCHMARK(BM_PrefixLookup)->Arg(64)->Arg(8192)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tessera
