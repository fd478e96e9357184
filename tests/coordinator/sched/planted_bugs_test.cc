// The test of the tests: with a bug planted between the scheduler and the fakes, the checks must
// notice.

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/coordinator/sched/symbolic_model.h"
#include "tests/coordinator/sched/workload.h"

namespace tessera::testing {
namespace {

using cluster::v1::StepPlan;

struct PlantedBug {
  std::string name;
  Faults faults;
};

std::vector<PlantedBug> PlanBugs() {
  const auto bug = [](std::string name, std::function<void(StepPlan&)> plan) {
    return PlantedBug{std::move(name), Faults{.plan = std::move(plan), .done = {}, .updates = {}}};
  };
  return {
      bug("a block goes to two sequences",
          [](StepPlan& plan) {
            if (plan.block_ids_size() > 1) plan.set_block_ids(1, plan.block_ids(0));
          }),
      bug("a block is another one than the scheduler thinks",
          [last = 0u](StepPlan& plan) mutable {
            for (uint32_t& id : *plan.mutable_block_ids()) std::swap(id, last);
          }),
      bug("a block is not told",
          [](StepPlan& plan) {
            if (plan.block_ids_size() == 0) return;
            plan.mutable_block_ids()->RemoveLast();
            for (int i = plan.num_new_blocks_size() - 1; i >= 0; --i) {
              if (plan.num_new_blocks(i) == 0) continue;
              plan.set_num_new_blocks(i, plan.num_new_blocks(i) - 1);
              break;
            }
          }),
      bug("a start position is off by one",
          [](StepPlan& plan) {
            for (uint32_t& start : *plan.mutable_start_position()) {
              if (start > 2) --start;
            }
          }),
      bug("a decode row carries the wrong token",
          [](StepPlan& plan) {
            const int last = plan.tokens_size() - 1;
            if (last >= 0) plan.set_tokens(last, (plan.tokens(last) + 1) % kVocabSize);
          }),
      bug("a column is short",
          [](StepPlan& plan) {
            if (plan.sequence_size() > 0) plan.mutable_num_choices()->RemoveLast();
          }),
      bug("a row is forgotten",
          [](StepPlan& plan) {
            // The last row, when it is a plain decode row.
            const int last = plan.sequence_size() - 1;
            if (last < 0 || plan.num_new_tokens(last) != 1 || plan.resets_size() > 0) return;
            const int kv_groups = plan.num_new_blocks_size() / (last + 1);
            for (int i = 0; i < kv_groups; ++i) {
              if (plan.num_new_blocks(last * kv_groups + i) > 0) return;
            }
            plan.mutable_sequence()->RemoveLast();
            plan.mutable_num_new_tokens()->RemoveLast();
            plan.mutable_start_position()->RemoveLast();
            plan.mutable_output()->RemoveLast();
            plan.mutable_num_choices()->RemoveLast();
            plan.mutable_token_source()->RemoveLast();
            plan.mutable_tokens()->RemoveLast();
            for (int i = 0; i < kv_groups; ++i) plan.mutable_num_new_blocks()->RemoveLast();
          }),
      bug("a reset has another seed",
          [](StepPlan& plan) {
            for (auto& reset : *plan.mutable_resets()) {
              reset.mutable_sampling()->set_seed(reset.sampling().seed() + 1);
            }
          }),
      bug("a reset is missing", [](StepPlan& plan) { plan.clear_resets(); }),
      bug("ranks are not told what to forget",
          [](StepPlan& plan) { plan.clear_finished_sequences(); }),
      bug("a plan has the wrong epoch", [](StepPlan& plan) { plan.set_epoch(plan.epoch() + 1); }),
      bug("steps are not counted up", [](StepPlan& plan) { plan.set_step(1); }),
  };
}

std::vector<PlantedBug> OtherBugs() {
  const auto updates = [](std::string name, std::function<void(std::vector<RequestUpdate>&)> f) {
    return PlantedBug{std::move(name), Faults{.plan = {}, .done = {}, .updates = std::move(f)}};
  };
  return {
      updates("an update is lost",
              [count = 0](std::vector<RequestUpdate>& all) mutable {
                if (!all.empty() && ++count % 5 == 0) all.pop_back();
              }),
      updates("an update comes twice",
              [](std::vector<RequestUpdate>& all) {
                if (!all.empty()) all.push_back(all.front());
              }),
      updates("two updates change places",
              [](std::vector<RequestUpdate>& all) {
                for (RequestUpdate& update : all) update.first_index ^= 1;
              }),
      updates("an end is told as another",
              [](std::vector<RequestUpdate>& all) {
                for (RequestUpdate& update : all) {
                  if (update.reason == FinishReason::kLength) update.reason = FinishReason::kStop;
                }
              }),
      updates("overrun is counted",
              [](std::vector<RequestUpdate>& all) {
                for (RequestUpdate& update : all) update.output_tokens += update.finished ? 1 : 0;
              }),
      PlantedBug{"a sampled token is another",
                 Faults{.plan = {},
                        .done =
                            [](StepDone& done) {
                              auto& result = done.rank_results.front();
                              if (result.sampled_size() > 0) {
                                result.set_sampled(0, (result.sampled(0) + 1) % kVocabSize);
                              }
                            },
                        .updates = {}}},
      PlantedBug{"answers never arrive",
                 Faults{.plan = {},
                        .done = [](StepDone& done) { done.rank_results.clear(); },
                        .updates = {}}},
  };
}

void ExpectNoticed(const std::vector<PlantedBug>& bugs) {
  for (const PlantedBug& bug : bugs) {
    int noticed = 0;
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      if (!Workload(seed, bug.faults).Run().empty()) ++noticed;
    }
    // Not every life meets every bug, most do.
    EXPECT_GE(noticed, 10) << "not noticed: " << bug.name;
  }
}

TEST(PlantedBugsTest, WrongPlansAreNoticed) { ExpectNoticed(PlanBugs()); }
TEST(PlantedBugsTest, WrongAnswersAndUpdatesAreNoticed) { ExpectNoticed(OtherBugs()); }

}  // namespace
}  // namespace tessera::testing
