// A language model made of hashes: the next token is a pseudo-random function of every token so
// far, all sampling parameters, the border between prompt and output, the choice and the position.
// Any wrong, missing or stale token or parameter changes everything after it.

#ifndef TESSERA_TESTS_SIMULATION_SYMBOLIC_MODEL_H_
#define TESSERA_TESTS_SIMULATION_SYMBOLIC_MODEL_H_

#include <cstdint>
#include <vector>

#include "coordinator/sched/event.h"
#include "coordinator/sched/request.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera::simulation {

inline constexpr int32_t kVocabSize = 64;
// A request whose seed ends in this byte meets logits without a number now and then.
inline constexpr uint64_t kFailingSeedByte = 13;

// The state after one more token; before the first it is 0.
uint64_t Extend(uint64_t state, int32_t token, int64_t position);

// Everything but the tokens that a draw depends on.
struct DrawParams {
  uint64_t hash = 0;  // of all that a rank is told about sampling
  uint64_t seed = 0;
  uint32_t num_prompt_tokens = 0;
  uint32_t min_tokens = 0;
  std::vector<int32_t> min_tokens_banned;
  bool penalties = false;  // reads the tokens themselves
  bool logprobs = false;
  uint32_t top_logprobs = 0;
  uint32_t prompt_logprobs = 0;

  bool needs_history() const { return penalties || prompt_logprobs > 0; }
};
DrawParams ParamsOf(const Request& request);
DrawParams ParamsOf(const cluster::v1::SequenceReset& reset);

// The token after `num_tokens` tokens that lead to `state`; -1 where the logits fail.
// `history_state` is the state of the token history, which penalties read.
int32_t DrawToken(const DrawParams& params, uint64_t state, uint64_t history_state,
                  int64_t num_tokens, uint32_t choice);

// Log probability of `token` after `state`, and the `num_top` most likely ones there.
TokenLogprobs Score(uint64_t state, int32_t token, uint32_t num_top);

}  // namespace tessera::simulation

#endif  // TESSERA_TESTS_SIMULATION_SYMBOLIC_MODEL_H_
