// What an undisturbed run of one request, alone on a machine, gives: computed straight from the
// symbolic model, without scheduler, blocks or ranks.

#ifndef TESSERA_TESTS_SIMULATION_REFERENCE_H_
#define TESSERA_TESTS_SIMULATION_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "coordinator/sched/event.h"
#include "coordinator/sched/request.h"

namespace tessera::simulation {

// Sequences of tokens whose text is a stop string; the text side looks for them.
using StopStrings = std::vector<std::vector<int32_t>>;

struct ReferenceChoice {
  // Up to its own end: stop token, max_tokens, end of the context, failing logits.
  std::vector<int32_t> tokens;
  FinishReason natural_reason = FinishReason::kStop;
  // With stop strings looked for as well: the tokens that count, and why they end there.
  size_t num_tokens = 0;
  FinishReason reason = FinishReason::kStop;
  std::vector<TokenLogprobs> logprobs;  // of `tokens`, when wanted

  bool text_stops() const { return num_tokens < tokens.size() || reason != natural_reason; }
};

struct Reference {
  std::vector<ReferenceChoice> choices;
  std::vector<TokenLogprobs> prompt_logprobs;  // from position 1 on, when wanted
  bool fails = false;                          // some choice meets failing logits before its end
};

Reference ComputeReference(const Request& request, const StopStrings& stops, int64_t context_max);

// The index of the token that completes a stop string, within tokens[0, size); size if none does.
size_t FindStop(const std::vector<int32_t>& tokens, const StopStrings& stops);

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_REFERENCE_H_
