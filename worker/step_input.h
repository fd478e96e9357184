// A plan turned into the flat arrays that the forward pass indexes with: first on the host
// (StepInput), then on the device (StepArrays). Made by the engine from a plan that CheckPlan
// accepted, on its thread; both are reused from step to step, so that steady decode allocates
// nothing.

#ifndef TESSERA_WORKER_STEP_INPUT_H_
#define TESSERA_WORKER_STEP_INPUT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "tessera/cluster/v1/step.pb.h"
#include "worker/group_step.h"
#include "worker/plan_check.h"
#include "worker/sampler.h"
#include "worker/scorer.h"
#include "worker/sequence_state.h"

namespace tessera {

// R rows, T tokens. Example: 3 prompt tokens of a new sequence and 1 decode token of another at
// position 7 give query_begin = [0, 3, 4], kv_length = [3, 8], positions = [0, 1, 2, 7].
struct StepInput {
  struct BlockTable {
    int64_t width = 0;             // blocks of the longest row
    std::vector<int32_t> entries;  // [R, width], 0 behind a shorter row's end
  };

  struct Run {  // of rows, see GroupStep
    int64_t first_row = 0;
    int64_t num_rows = 0;
    int64_t first_token = 0;
    bool long_rope = false;
  };

  std::vector<int32_t> tokens;           // [T]
  std::vector<int32_t> positions;        // [T]
  std::vector<int32_t> query_begin;      // [R + 1]
  std::vector<int32_t> kv_length;        // [R]
  std::vector<BlockTable> block_tables;  // [KvGroup]
  std::vector<Run> runs;
  std::vector<int32_t> run_query_begin;  // [R + runs], of every run from 0
  // Rows of logits: [L] index into T, ascending.
  std::vector<int32_t> output_token;
  // Draws in order of row and choice, position of the drawn token included. They point into the
  // sequences, so that those must outlive their use.
  std::vector<SampleRow> sampling;
  std::vector<uint32_t> num_draws;          // [R]
  std::vector<ScoreRow> prompt_scores;      // prompt tokens to score, in order of row and position
  std::vector<uint32_t> num_prompt_scores;  // [R]
  std::vector<uint32_t> sample_scores;      // [R] 0: samples are not scored, else 1 + alternatives

  int64_t num_rows() const { return static_cast<int64_t>(kv_length.size()); }
  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
};

// Brings `sequences` up to date with the plan (resets, new blocks, computed and carried tokens) and
// fills `input`. The plan must have passed CheckPlan with the same limits and sequences.
void ApplyPlan(const cluster::v1::StepPlan& plan, const StepLimits& limits, SequenceMap& sequences,
               StepInput& input);

// Keeps what the rows drew, one token per entry of input.sampling, for the rows of the next plan
// that carry it.
void KeepDraws(const cluster::v1::StepPlan& plan, const StepInput& input,
               const std::vector<int32_t>& drawn, SequenceMap& sequences);

// Forgets the plan's finished sequences; ones that are not known are passed over.
void ForgetFinished(const cluster::v1::StepPlan& plan, SequenceMap& sequences);

// Device memory for the arrays of the largest step that the limits allow.
class StepArrays {
 public:
  static absl::StatusOr<StepArrays> Create(Ops& ops, const StepLimits& limits);

  // Copies the input to the device. One step per KvGroup, which differ in the block table only;
  // valid until the next call.
  const std::vector<GroupStep>& Upload(const ExecContext& ctx, const StepInput& input);

  uint64_t bytes() const;

 private:
  explicit StepArrays(Ops& ops) : ops_(&ops) {}

  Ops* ops_;  // not null
  Buffer tokens_;
  Buffer positions_;
  Buffer query_begin_;
  Buffer run_query_begin_;
  Buffer kv_length_;
  Buffer output_token_;
  std::vector<Buffer> block_tables_;  // per KvGroup
  std::vector<GroupStep> steps_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_STEP_INPUT_H_
