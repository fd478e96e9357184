// Small plans that a rank accepts, for the tests of the plan check and of the step input to damage
// or to apply.

#ifndef TESSERA_TESTS_WORKER_STEP_PLANS_H_
#define TESSERA_TESTS_WORKER_STEP_PLANS_H_

#include <cstdint>
#include <vector>

#include "tessera/cluster/v1/step.pb.h"
#include "worker/plan_check.h"
#include "worker/sequence_state.h"

namespace tessera {

inline StepLimits Limits() {
  return {.rows_max = 4,
          .tokens_max = 8,
          .context_max = 64,
          .block_size = 4,
          .vocab_size = 100,
          .num_blocks = {10}};
}

inline void AddRow(cluster::v1::StepPlan& plan, uint64_t sequence, uint32_t start,
                   const std::vector<int32_t>& tokens, const std::vector<uint32_t>& blocks,
                   cluster::v1::OutputKind output) {
  plan.add_sequence(sequence);
  plan.add_num_new_tokens(tokens.size());
  plan.add_start_position(start);
  plan.add_output(output);
  plan.add_num_choices(output == cluster::v1::OUTPUT_SAMPLE ? 1 : 0);
  plan.add_token_source(cluster::v1::TOKENS_EXPLICIT);
  for (int32_t token : tokens) plan.add_tokens(token);
  plan.add_num_new_blocks(blocks.size());
  for (uint32_t block : blocks) plan.add_block_ids(block);
}

inline cluster::v1::SequenceReset* AddReset(cluster::v1::StepPlan& plan, uint32_t row) {
  cluster::v1::SequenceReset* reset = plan.add_resets();
  reset->set_row(row);
  reset->mutable_sampling()->set_temperature(0.5f);
  reset->mutable_sampling()->set_top_p(0.9f);
  reset->mutable_sampling()->set_top_k(7);
  reset->mutable_sampling()->set_seed(42);
  return reset;
}

// Sequence 7 is known with 5 computed tokens in blocks 2, 3; sequence 8 is new with 3 tokens.
inline SequenceMap KnownSequences() {
  SequenceMap sequences;
  sequences[7] = {.block_tables = {{2, 3}}, .num_computed = 5, .sampling = {}};
  return sequences;
}

inline cluster::v1::StepPlan GoodPlan() {
  cluster::v1::StepPlan plan;
  AddRow(plan, 7, 5, {11}, {}, cluster::v1::OUTPUT_SAMPLE);
  AddRow(plan, 8, 0, {21, 22, 23}, {9}, cluster::v1::OUTPUT_NONE);
  AddReset(plan, 1);
  return plan;
}

// Row 0 carries the token that sequence 7 drew in row 3 of step 8.
inline cluster::v1::StepPlan CarryingPlan() {
  cluster::v1::StepPlan plan;
  plan.set_step(9);
  AddRow(plan, 7, 5, {}, {}, cluster::v1::OUTPUT_SAMPLE);
  plan.set_num_new_tokens(0, 1);
  plan.set_token_source(0, cluster::v1::TOKENS_LAST_SAMPLED);
  plan.add_source_step(8);
  plan.add_source_row(3);
  AddRow(plan, 8, 0, {21, 22, 23}, {9}, cluster::v1::OUTPUT_NONE);
  AddReset(plan, 1);
  return plan;
}

inline SequenceMap KnownDraws() {
  SequenceMap sequences = KnownSequences();
  sequences[7].last_draw = {.step = 8, .row = 3, .token = 55};
  return sequences;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_STEP_PLANS_H_
