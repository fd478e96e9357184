// Log probabilities of given tokens, and the most likely alternatives, from logits that are sharded
// over the vocabulary. Called by the worker's engine thread, on the logits as the model computed
// them; only candidates, single logits and sums of masses travel.
//
// log p(token) = logit - maximum - log(sum of exp(logit - maximum)). The sum is taken over integers
// (masses in units of 2^-40 of the largest), so it has no order: the same bits on every rank, for
// every tp and whatever other rows share the call. Alternatives are sorted, the lower id first
// among equal logits.
//
// Collectives per call, all rows together (AllGatherHost): none without rows, else 2.

#ifndef TESSERA_WORKER_SCORER_H_
#define TESSERA_WORKER_SCORER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"
#include "worker/comm/communicator.h"

namespace tessera {

// What to score.
struct ScoreRow {
  int32_t logits_row = 0;
  int32_t token = 0;  // in [0, vocab_size), or Sampler::kNoToken
  uint32_t top = 0;   // alternatives, at most Scorer::kTopMax
};

// Columns as StepResult has them, in order of the rows.
struct Scores {
  std::vector<float> logprobs;      // [R]
  std::vector<uint32_t> num_top;    // [R] alternatives that follow
  std::vector<int32_t> top_tokens;  // concatenated
  std::vector<float> top_logprobs;  // of top_tokens
};

class Scorer {
 public:
  static constexpr uint32_t kTopMax = 20;

  // The shard of this rank is [vocab_begin, vocab_begin + logits.dims[1]).
  Scorer(Ops& ops, Communicator& comm, int64_t vocab_begin)
      : ops_(ops), comm_(comm), vocab_begin_(vocab_begin) {}

  // logits [L, Vs] float32 on the device, not changed; rows R entries, the same on every rank.
  // Replaces `scores`. A token without a probability (kNoToken, a logit of NaN or -inf, a row
  // without any number) has -inf; such tokens are never alternatives, so that there may be fewer
  // than asked for. Where logits are +inf, they share the probability alone. The status is that of
  // the collectives.
  absl::Status Score(const ExecContext& ctx, Scores& scores, TensorView logits,
                     const std::vector<ScoreRow>& rows);

 private:
  Ops& ops_;
  Communicator& comm_;
  const int64_t vocab_begin_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_SCORER_H_
