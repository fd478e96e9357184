// What a sequence takes from its request once and for all; see sequence.h.

#include "coordinator/sched/sequence.h"

#include <algorithm>

namespace tessera {

Sequence::Sequence(std::shared_ptr<const Request> request_in, uint64_t ticket_in,
                   int64_t context_max)
    : request(std::move(request_in)),
      request_id(request->id),
      ticket(ticket_in),
      num_prompt_tokens(static_cast<int64_t>(request->prompt.size())),
      num_tokens_max(
          std::min(num_prompt_tokens + int64_t{request->sampling.max_tokens}, context_max)),
      stop_token_ids(request->sampling.stop_token_ids.begin(),
                     request->sampling.stop_token_ids.end()) {}

}  // namespace tessera
