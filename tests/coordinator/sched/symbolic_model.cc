// The hash functions of the symbolic model; see symbolic_model.h.

#include "tests/coordinator/sched/symbolic_model.h"

#include <algorithm>
#include <bit>

namespace tessera::testing {
namespace {

// The finalizer of splitmix64.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t Extend(uint64_t state, int32_t token, int64_t position) {
  return Mix(state ^ Mix(static_cast<uint64_t>(position) << 32 | static_cast<uint32_t>(token)));
}

int32_t SampleToken(uint64_t state, int64_t num_tokens, float temperature, uint64_t seed,
                    uint32_t choice) {
  const uint64_t draw = Mix(state ^ Mix(seed) ^ Mix(std::bit_cast<uint32_t>(temperature)) ^
                            static_cast<uint64_t>(num_tokens) ^ Mix(uint64_t{choice} << 40));
  if (seed == kFailingSeed && draw % 7 == 0) return -1;
  return static_cast<int32_t>((draw >> 8) % kVocabSize);
}

float ScoreOf(uint64_t state, int32_t token) {
  return -static_cast<float>(Mix(state ^ Mix(static_cast<uint32_t>(token))) % 1000) / 100;
}

Answer ExpectedAnswer(const Request& request, int64_t context_max, uint32_t choice) {
  uint64_t state = 0;
  int64_t num_tokens = 0;
  for (int32_t token : request.prompt) state = Extend(state, token, num_tokens++);
  Answer answer;
  while (true) {
    const SamplingParams& params = request.sampling;
    const int32_t token = SampleToken(state, num_tokens, params.temperature, params.seed, choice);
    if (token < 0) {
      answer.reason = FinishReason::kError;
      return answer;
    }
    answer.tokens.push_back(token);
    state = Extend(state, token, num_tokens++);
    if (std::count(params.stop_token_ids.begin(), params.stop_token_ids.end(), token) > 0) {
      answer.reason = FinishReason::kStop;
      return answer;
    }
    if (answer.tokens.size() == params.max_tokens || num_tokens == context_max) {
      answer.reason = FinishReason::kLength;
      return answer;
    }
  }
}

}  // namespace tessera::testing
