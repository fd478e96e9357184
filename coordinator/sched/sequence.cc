// What sequences take from their request once and for all; see sequence.h.

#include "coordinator/sched/sequence.h"

#include <algorithm>
#include <utility>

namespace tessera {

Sequence::Sequence(RequestState& parent, uint32_t choice_in, int64_t context_max)
    : tokens(parent.request->prompt),
      num_tokens_max(std::min(
          static_cast<int64_t>(tokens.size()) + int64_t{parent.request->sampling.max_tokens},
          context_max)),
      request(&parent),
      choice(choice_in),
      num_prompt_tokens(static_cast<int64_t>(tokens.size())) {}

RequestState::RequestState(std::shared_ptr<const Request> request_in, uint64_t ticket_in,
                           TenantState& tenant_in)
    : request(std::move(request_in)),
      id(request->id),
      ticket(ticket_in),
      tenant(tenant_in),
      stop_token_ids(request->sampling.stop_token_ids.begin(),
                     request->sampling.stop_token_ids.end()) {}

}  // namespace tessera
