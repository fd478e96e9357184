// A language model made of hashes: the next token is a pseudo-random function of every token so
// far, the sampling parameters and the position. Any wrong, missing or stale token changes
// everything after it, so an answer that equals the expected one proves that the whole history was
// right.

#ifndef TESSERA_TESTS_COORDINATOR_SCHED_SYMBOLIC_MODEL_H_
#define TESSERA_TESTS_COORDINATOR_SCHED_SYMBOLIC_MODEL_H_

#include <cstdint>
#include <vector>

#include "coordinator/sched/request.h"

namespace tessera::testing {

inline constexpr int32_t kVocabSize = 64;
// A request with this seed meets logits that cannot be sampled now and then.
inline constexpr uint64_t kFailingSeed = 13;

// The state after one more token.
uint64_t Extend(uint64_t state, int32_t token, int64_t position);
// The token after `state`, which holds `num_tokens` tokens; -1 where sampling fails.
int32_t SampleToken(uint64_t state, int64_t num_tokens, float temperature, uint64_t seed,
                    uint32_t choice);
// The log probability of `token` behind `state`.
float ScoreOf(uint64_t state, int32_t token);

struct Answer {
  std::vector<int32_t> tokens;
  FinishReason reason = FinishReason::kStop;
};

// What an undisturbed run alone on a machine gives.
Answer ExpectedAnswer(const Request& request, int64_t context_max, uint32_t choice = 0);

}  // namespace tessera::testing

#endif  // TESSERA_TESTS_COORDINATOR_SCHED_SYMBOLIC_MODEL_H_
