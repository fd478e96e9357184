// What the invariance test compares with: requests with the tokens that each of their choices
// draws and the logits at every position, computed alone, in one chunk, by one rank.

#ifndef TESSERA_TESTS_WORKER_INVARIANCE_SCRIPT_H_
#define TESSERA_TESTS_WORKER_INVARIANCE_SCRIPT_H_

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "tessera/cluster/v1/step.pb.h"
#include "tests/worker/rank_group.h"

namespace tessera {

struct ScriptedChoice {
  std::vector<int32_t> text;  // prompt and what was drawn after it
  // [position][V], after the token at that position, while the sequence is short; and once it is
  // long, of models with longrope.
  std::vector<std::vector<float>> logits;
  std::vector<std::vector<float>> long_logits;
};

struct ScriptedRequest {
  cluster::v1::SamplingParams sampling;
  int64_t num_prompt_tokens = 0;
  std::vector<ScriptedChoice> choices;
};

// Prompts of 1 to 40 tokens, many of which begin alike; 1 to 3 choices of 1 to 7 drawn tokens;
// every sampling parameter in some request.
std::vector<ScriptedRequest> MakeRequests(RankGroup& alone, int count, std::mt19937& random);

// The tokens of `text` as a row of a plan: reset, whole table, one choice drawn after the last.
cluster::v1::StepPlan PlanAlone(const ScriptedRequest& request, uint32_t choice,
                                const std::vector<int32_t>& text, const StepLimits& limits,
                                uint64_t step);

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_INVARIANCE_SCRIPT_H_
