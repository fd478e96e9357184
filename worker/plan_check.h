// The guard in front of a rank: decides whether a StepPlan from the network may run. Everything
// that the later stages index with is checked here, once, so that they need not. Pure: reads the
// plan, the limits of the assignment and the sequences known so far, changes nothing. Called on the
// engine thread.

#ifndef TESSERA_WORKER_PLAN_CHECK_H_
#define TESSERA_WORKER_PLAN_CHECK_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "tessera/cluster/v1/step.pb.h"
#include "worker/sequence_state.h"

namespace tessera {

// Choices that one row draws, and draws of a whole step.
inline constexpr uint32_t kChoicesPerRowMax = 128;
inline constexpr int64_t kStepDrawsMax = 65536;
// Stands in a table for a block that lies behind the window of its KvGroup.
inline constexpr uint32_t kNoBlock = 0xffffffffu;

// What one step may ask for; fixed by the assignment.
struct StepLimits {
  int64_t rows_max = 0;              // rows, and also rows of logits
  int64_t tokens_max = 0;            // tokens of one step
  int64_t context_max = 0;           // tokens of one sequence
  int64_t block_size = 0;            // tokens of one block
  int64_t vocab_size = 0;            // token ids are in [0, vocab_size)
  std::vector<uint32_t> num_blocks;  // per KvGroup; block ids are below it
  // Per KvGroup: how many tokens a query sees, itself included, 0 for all; empty: no window at all.
  std::vector<int64_t> windows = {};
};

// Blocks that a sequence of `tokens` tokens needs in each KvGroup.
constexpr int64_t BlocksFor(int64_t tokens, int64_t block_size) {
  return (tokens + block_size - 1) / block_size;
}

// Whether the ranks must know a sequence's tokens, so that its reset has to carry them.
bool ReadsTokens(const cluster::v1::SamplingParams& params);

// INVALID_ARGUMENT naming the column and the row, UNIMPLEMENTED naming a field that is reserved,
// RESOURCE_EXHAUSTED when the rank keeps kSequencesMax sequences already.
absl::Status CheckPlan(const cluster::v1::StepPlan& plan, const StepLimits& limits,
                       const SequenceMap& sequences);

}  // namespace tessera

#endif  // TESSERA_WORKER_PLAN_CHECK_H_
