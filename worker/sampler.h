// Draws tokens from logits that are sharded over the vocabulary, without ever gathering them: only
// candidates and histograms travel. Called by the worker's engine thread.
//
// A row's token is a pure function of (its logits, its SampleRow, its TokenRules): the same bits on
// every rank, for every tp and whatever other rows share the call. Order: token rules (see
// worker/token_rules.h), temperature, then three cuts, then one draw by the Gumbel-max rule. Among
// equal logits the lower token id ranks first.
//   top-k  the k most likely tokens
//   top-p  the smallest set of most likely tokens of what top-k left whose mass reaches top_p of
//          the mass that top-k left
//   min-p  of what is left, the tokens whose probability is at least min_p times the largest. This
//          is a threshold logit, maximum + temperature * log(min_p), in double: whatever the other
//          cuts removed, no ratio between tokens has changed
//
// The cuts are exact and sort nothing: a radix search over the float order of the logits, one byte
// at a time, on integer counts and masses (Ops::MassHistogram) whose sum over shards has no order.
//
// Collectives per call, all rows together (AllGatherHost): none without rows; 1 when every row is
// greedy or every row draws from the whole vocabulary; 2 for a mix of these, or with a min-p; with
// top-k or top-p anywhere 6, or 9 when some row has both. Rows that want different rules on the
// same row of logits are sampled after each other, as many times as there are rules.

#ifndef TESSERA_WORKER_SAMPLER_H_
#define TESSERA_WORKER_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"
#include "worker/comm/communicator.h"
#include "worker/token_rules.h"

namespace tessera {

// How to draw one token. Defaults: the most likely token of the first row of logits.
struct SampleRow {
  float temperature = 0.0f;  // below kTemperatureMin: greedy
  uint32_t top_k = 0;        // 0: off
  float top_p = 1.0f;        // 1: off; anything smaller keeps at least one token
  float min_p = 0.0f;        // 0: off; at 1 and above the most likely tokens stay
  uint64_t seed = 0;
  uint32_t position = 0;  // of the token being drawn
  uint32_t choice = 0;
  int32_t logits_row = 0;             // which row of the logits; several choices may draw from one
  const TokenRules* rules = nullptr;  // null: none; lives until Sample returns
};

class Sampler {
 public:
  // Below this a draw cannot be told from the largest logit, and 1 / temperature leaves float32's
  // range.
  static constexpr float kTemperatureMin = 1e-5f;
  // The token of a row that has no number greater than -inf in its logits.
  static constexpr int32_t kNoToken = -1;
  // Rows with an allowed list that are sampled together; more take several passes.
  static constexpr int kMasksMax = 64;

  // The shard of this rank is [vocab_begin, vocab_begin + logits.dims[1]); shards follow each other
  // in rank order and are vocab_size tokens together.
  Sampler(Ops& ops, Communicator& comm, int64_t vocab_begin, int64_t vocab_size)
      : ops_(ops), comm_(comm), vocab_begin_(vocab_begin), vocab_size_(vocab_size) {}

  // logits [L, Vs] float32 on the device; rows R entries with logits_row < L, the same on every
  // rank. `tokens` becomes R ids, the same on every rank; kNoToken marks a row whose logits are
  // broken or all banned (the coordinator ends that request alone, the others are good). Rules are
  // written into the logits and taken back: afterwards they have the bits they had before. The
  // status is that of the collectives, or RESOURCE_EXHAUSTED when there is no memory for masks.
  absl::Status Sample(const ExecContext& ctx, std::vector<int32_t>& tokens, TensorView logits,
                      const std::vector<SampleRow>& rows);

 private:
  // Rows of one pass: no two of them want different rules on the same logits.
  absl::Status SamplePass(const ExecContext& ctx, std::vector<int32_t>& tokens, TensorView logits,
                          const std::vector<SampleRow>& rows, const std::vector<int32_t>& pass);

  Ops& ops_;
  Communicator& comm_;
  const int64_t vocab_begin_;
  const int64_t vocab_size_;
  Buffer masks_;  // [kMasksMax, words of the shard]; taken when first needed
};

}  // namespace tessera

#endif  // TESSERA_WORKER_SAMPLER_H_
