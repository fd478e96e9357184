// What sequences take from their request once and for all; see sequence.h.

#include "coordinator/sched/sequence.h"

#include <algorithm>
#include <utility>

namespace tessera {

Sequence::Sequence(RequestState& parent, uint32_t choice_in, int64_t context_max)
    : wants_logprobs(parent.request->sampling.logprobs),
      request(&parent),
      tokens(parent.request->prompt),
      num_tokens_max(std::min(
          static_cast<int64_t>(tokens.size()) + int64_t{parent.request->sampling.max_tokens},
          context_max)),
      choice(choice_in),
      num_prompt_tokens(static_cast<int64_t>(tokens.size())) {}

RequestState::RequestState(std::shared_ptr<const Request> request_in, uint64_t ticket_in,
                           TenantState& tenant_in)
    : id(request_in->id),
      tenant(tenant_in),
      stop_token_ids(request_in->sampling.stop_token_ids.begin(),
                     request_in->sampling.stop_token_ids.end()),
      request(std::move(request_in)),
      ticket(ticket_in) {}

}  // namespace tessera
