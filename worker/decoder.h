// The forward pass. TextModel is what the engine calls; the decoder below is the transformer that
// every family is an instance of, built from ModelSpec's numbers and choices alone. Engine thread
// only.

#ifndef TESSERA_WORKER_DECODER_H_
#define TESSERA_WORKER_DECODER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"
#include "worker/comm/communicator.h"
#include "worker/group_step.h"
#include "worker/kv_cache.h"
#include "worker/plan_check.h"
#include "worker/step_timer.h"
#include "worker/weights.h"

namespace tessera {

class TextModel {
 public:
  virtual ~TextModel() = default;
  // Computes one step, writing the keys and values of its tokens. `steps` has one per KvGroup.
  // Returns float32 [outputs, Vs], this rank's shard of the logits of steps[0].all.output_token,
  // valid until the next call. An error is the communicator's: the group is lost.
  virtual absl::StatusOr<TensorView> Forward(const ExecContext& ctx,
                                             const std::vector<GroupStep>& steps,
                                             StepTimer& timer) = 0;
  // Scratch that Forward needs in ExecContext::workspace.
  virtual size_t workspace_bytes() const = 0;
  // Memory that the model's own buffers hold.
  virtual uint64_t buffer_bytes() const = 0;
  // (token, expert) pairs that this rank computed since the last call; 0 of a model without
  // experts. Synchronizes.
  virtual uint64_t TakeExpertLoad(const ExecContext& ctx) = 0;
};

// What a decoder is made of; everything must outlive it.
struct DecoderParts {
  const ModelSpec& spec;
  const Weights& weights;
  const KvCache& kv;
  Ops& ops;
  Communicator& comm;
};

// All memory is taken here, for the largest step that the limits allow. RESOURCE_EXHAUSTED when
// there is not enough.
absl::StatusOr<std::unique_ptr<TextModel>> NewDecoder(const DecoderParts& parts,
                                                      const StepLimits& limits);

}  // namespace tessera

#endif  // TESSERA_WORKER_DECODER_H_
