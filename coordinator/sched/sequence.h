// One request's tokens and how far the KV cache has followed them. There are no phases: a new
// prompt, a decode step and a sequence that lost its group differ only in num_computed_tokens.
// Owned by the scheduler, engine thread only.

#ifndef TESSERA_COORDINATOR_SCHED_SEQUENCE_H_
#define TESSERA_COORDINATOR_SCHED_SEQUENCE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "absl/time/time.h"
#include "coordinator/kv/block.h"
#include "coordinator/sched/request.h"

namespace tessera {

struct GroupState;

enum class SequenceStatus { kWaiting, kRunning, kFinished };

struct Sequence {
  Sequence(std::shared_ptr<const Request> request_in, uint64_t ticket_in, int64_t context_max);

  const std::shared_ptr<const Request> request;
  const RequestId request_id;
  const uint64_t ticket;  // order of arrival; a sequence that comes back keeps its place
  const int64_t num_prompt_tokens;
  const int64_t num_tokens_max;  // prompt and output; the last one is never computed
  const absl::InlinedVector<int32_t, 4> stop_token_ids;

  std::vector<int32_t> output;  // committed tokens
  int64_t num_computed_tokens = 0;
  SequenceStatus status = SequenceStatus::kWaiting;
  absl::Time first_scheduled = absl::InfiniteFuture();

  // On a group, while kRunning.
  GroupState* group = nullptr;
  uint64_t id = 0;              // in plans; another one on every admission
  uint64_t last_plan = 0;       // step id of the last plan with a row of this sequence, 0 for none
  int64_t num_held_tokens = 0;  // positions that the tables hold
  BlockTables tables;

  int64_t num_tokens() const { return num_prompt_tokens + static_cast<int64_t>(output.size()); }
  int64_t num_owed_tokens() const { return num_tokens() - num_computed_tokens; }
  // Positions that must fit into the KV cache for the whole possible length.
  int64_t num_kv_tokens_max() const { return num_tokens_max - 1; }
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_SEQUENCE_H_
