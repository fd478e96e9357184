// What sequences take from their request once and for all; see sequence.h.

#include "coordinator/sched/sequence.h"

#include <algorithm>
#include <utility>

namespace tessera {
namespace {

// Output tokens that a sequence has room for from the start; growing copies the whole prompt.
constexpr int32_t kReservedMax = 4096;

int32_t StopOf(const Request& request, size_t index) {
  const std::vector<int32_t>& stops = request.sampling.stop_token_ids;
  return index < stops.size() ? stops[index] : Sequence::kNoStop;
}

}  // namespace

Sequence::Sequence(RequestState& parent, uint32_t choice_in, int64_t context_max,
                   int64_t rope_switch_in)
    : wants_logprobs(parent.request->sampling.logprobs),
      has_more_stops(parent.request->sampling.stop_token_ids.size() > 2),
      choice(static_cast<uint16_t>(choice_in)),
      num_known_tokens(static_cast<int32_t>(parent.request->prompt.size())),
      num_tokens_max(static_cast<int32_t>(std::min(
          int64_t{num_known_tokens} + int64_t{parent.request->sampling.max_tokens}, context_max))),
      request_id(parent.id),
      tenant(&parent.tenant),
      request(&parent),
      num_prompt_tokens(num_known_tokens),
      stops{StopOf(*parent.request, 0), StopOf(*parent.request, 1)},
      rope_switch(static_cast<int32_t>(rope_switch_in)) {
  ChooseRope();
  const std::vector<int32_t>& prompt = parent.request->prompt;
  const int32_t output_max = num_tokens_max - num_prompt_tokens;
  kept_tokens.reserve(prompt.size() + static_cast<size_t>(std::min(output_max, kReservedMax)));
  kept_tokens.assign(prompt.begin(), prompt.end());
}

bool Sequence::ChooseRope() {
  const bool before = std::exchange(long_rope, rope_switch > 0 && num_tokens() > rope_switch);
  num_computable = static_cast<int32_t>(num_kv_tokens_max());
  if (rope_switch > 0 && !long_rope) num_computable = std::min(num_computable, rope_switch);
  return long_rope != before;
}

RequestState::RequestState(std::shared_ptr<const Request> request_in, uint64_t ticket_in,
                           TenantState& tenant_in)
    : id(request_in->id), tenant(tenant_in), request(std::move(request_in)), ticket(ticket_in) {}

bool RequestState::HasRowsInFlight() const {
  return std::any_of(sequences.begin(), sequences.end(),
                     [](const auto& sequence) { return sequence->rows_in_flight > 0; });
}

}  // namespace tessera
