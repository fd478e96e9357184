// Draws one token per row from logits that are sharded over the vocabulary, without ever gathering
// them: only candidates and histograms travel. Called by the worker's engine thread.
//
// A row's token is a pure function of (its logits, its SampleRow): the same bits on every rank, for
// every tp and whatever other rows share the call. Order of the cuts: temperature, then top-k, then
// top-p over what top-k left (the smallest set of most likely tokens whose mass reaches top_p of
// that total), then one draw by the Gumbel-max rule. Among equal logits the lower token id ranks
// first.
//
// The cut is exact and sorts nothing: a radix search over the float order of the logits, one byte
// at a time, on integer counts and masses (Ops::MassHistogram) whose sum over shards has no order.
//
// Collectives per call, all rows together (AllGatherHost): none without rows; 1 when every row is
// greedy or every row draws from the whole vocabulary; 2 for a mix of these; with a cut anywhere 6,
// or 9 when some row has both top-k and top-p.

#ifndef TESSERA_WORKER_SAMPLER_H_
#define TESSERA_WORKER_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"
#include "worker/comm/communicator.h"

namespace tessera {

// How to draw one row. Defaults: the most likely token.
struct SampleRow {
  float temperature = 0.0f;  // below kTemperatureMin: greedy
  uint32_t top_k = 0;        // 0: off
  float top_p = 1.0f;        // 1: off; anything smaller keeps at least one token
  uint64_t seed = 0;
  uint32_t position = 0;  // of the token being drawn
  uint32_t choice = 0;
};

class Sampler {
 public:
  // Below this a draw cannot be told from the largest logit, and 1 / temperature leaves float32's
  // range.
  static constexpr float kTemperatureMin = 1e-5f;
  // The token of a row that has no number greater than -inf in its logits.
  static constexpr int32_t kNoToken = -1;

  // The shard of this rank is [vocab_begin, vocab_begin + logits.dims[1]); shards follow each other
  // in rank order and are vocab_size tokens together.
  Sampler(Ops& ops, Communicator& comm, int64_t vocab_begin, int64_t vocab_size)
      : ops_(ops), comm_(comm), vocab_begin_(vocab_begin), vocab_size_(vocab_size) {}

  // logits [R, Vs] float32 on the device; rows R entries, the same on every rank. `tokens` becomes
  // R ids, the same on every rank; kNoToken marks a row whose logits are broken (the coordinator
  // ends that request alone, the others are good). The status is that of the collectives.
  absl::Status Sample(const ExecContext& ctx, std::vector<int32_t>& tokens, TensorView logits,
                      const std::vector<SampleRow>& rows);

 private:
  Ops& ops_;
  Communicator& comm_;
  const int64_t vocab_begin_;
  const int64_t vocab_size_;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_SAMPLER_H_
