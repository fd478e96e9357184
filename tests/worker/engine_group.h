// Engines of one group inside a test: a tiny model, tp ranks over loopback, plans executed by all
// of them at once.

#ifndef TESSERA_TESTS_WORKER_ENGINE_GROUP_H_
#define TESSERA_TESTS_WORKER_ENGINE_GROUP_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "models/checkpoint.h"
#include "tests/models/model_files.h"
#include "tests/worker/tiny_model.h"
#include "worker/comm/loopback.h"
#include "worker/engine.h"

namespace tessera {

class EngineGroupTest : public testing::Test {
 protected:
  void Start(int tp, absl::Duration call_deadline = absl::Seconds(30)) {
    WriteTinyModel(dir_, TinyConfig(), "F32", 11);
    absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(dir_.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    std::vector<Ops*> ops;
    for (int rank = 0; rank < tp; ++rank) {
      ops_.push_back(*NewCpuOps());
      ops.push_back(ops_.back().get());
    }
    auto comms = NewLoopback(ops, call_deadline);
    for (int rank = 0; rank < tp; ++rank) {
      EngineOptions options;
      options.term = 3;
      options.epoch = 5;
      options.group = 1;
      options.spec = TinySpec(TinyConfig());
      options.kv_dtype = DType::kFloat32;
      options.limits = {.rows_max = 16,
                        .tokens_max = 128,
                        .context_max = 256,
                        .block_size = 16,
                        .vocab_size = kTinyVocab,
                        .num_blocks = {64}};
      auto weights = LoadWeights(*ops[rank], {}, options.spec, **checkpoint,
                                 {.rank = rank, .tp = tp, .dtype = DType::kFloat32}, clock_,
                                 [](uint64_t, uint64_t) { return absl::OkStatus(); });
      ASSERT_TRUE(weights.ok()) << weights.status();
      auto engine = Engine::Create(options, *ops[rank], nullptr, *std::move(weights),
                                   std::move(comms[rank]), clock_);
      ASSERT_TRUE(engine.ok()) << engine.status();
      engines_.push_back(*std::move(engine));
    }
  }

  cluster::v1::StepPlan NewPlan() {
    cluster::v1::StepPlan plan;
    plan.set_term(3);
    plan.set_epoch(5);
    plan.set_group(1);
    plan.set_step(++step_);
    return plan;
  }

  // Every rank executes the plan, each on its own thread.
  std::vector<cluster::v1::StepResult> Execute(const cluster::v1::StepPlan& plan) {
    std::vector<cluster::v1::StepResult> results(engines_.size());
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < engines_.size(); ++rank) {
      threads.emplace_back([&, rank] {
        const absl::Status status = engines_[rank]->Execute(plan, results[rank]);
        EXPECT_TRUE(status.ok()) << "rank " << rank << ": " << status;
      });
    }
    for (std::thread& thread : threads) thread.join();
    return results;
  }

  TempDir dir_;
  RealClock clock_;
  std::vector<std::unique_ptr<Ops>> ops_;
  std::vector<std::unique_ptr<Engine>> engines_;
  uint64_t step_ = 0;
};

inline void AddRow(cluster::v1::StepPlan& plan, uint64_t sequence, uint32_t start,
                   const std::vector<int32_t>& tokens, const std::vector<uint32_t>& new_blocks,
                   bool sample) {
  plan.add_sequence(sequence);
  plan.add_num_new_tokens(tokens.size());
  plan.add_start_position(start);
  plan.add_output(sample ? cluster::v1::OUTPUT_SAMPLE : cluster::v1::OUTPUT_NONE);
  plan.add_num_choices(sample ? 1 : 0);
  plan.add_token_source(cluster::v1::TOKENS_EXPLICIT);
  for (int32_t token : tokens) plan.add_tokens(token);
  plan.add_num_new_blocks(new_blocks.size());
  for (uint32_t block : new_blocks) plan.add_block_ids(block);
  if (start == 0) plan.add_resets()->set_row(plan.sequence_size() - 1);
}

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_ENGINE_GROUP_H_
