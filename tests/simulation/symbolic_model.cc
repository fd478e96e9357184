// The hash functions of the symbolic model; see symbolic_model.h.

#include "tests/simulation/symbolic_model.h"

#include <algorithm>
#include <bit>
#include <map>

#include "coordinator/sim/random.h"

namespace tessera::simulation {
namespace {

using sim::Mix;

// Collects numbers into one hash; order counts.
class Hasher {
 public:
  Hasher& Add(uint64_t value) {
    hash_ = Mix(hash_ * 31 + Mix(value + 0x9e3779b97f4a7c15u));
    return *this;
  }
  Hasher& Add(float value) { return Add(uint64_t{std::bit_cast<uint32_t>(value)}); }
  template <typename Tokens>
  Hasher& AddAll(const Tokens& tokens) {
    Add(static_cast<uint64_t>(tokens.size()));
    for (int32_t token : tokens) Add(static_cast<uint64_t>(static_cast<uint32_t>(token)));
    return *this;
  }
  uint64_t hash() const { return hash_; }

 private:
  uint64_t hash_ = 1;
};

// The wire and the scheduler name the same parameters; both go through here.
template <typename Get>
uint64_t HashOf(const Get& get) {
  Hasher hasher;
  hasher.Add(get.temperature).Add(uint64_t{get.top_k}).Add(get.top_p).Add(get.min_p);
  hasher.Add(get.presence).Add(get.frequency).Add(get.repetition == 0 ? 1 : get.repetition);
  for (const auto& [token, bias] : get.bias) hasher.Add(uint64_t(token)).Add(bias);
  hasher.AddAll(get.allowed).AddAll(get.banned);
  return hasher.hash();
}

struct Knobs {
  float temperature, top_p, min_p, presence, frequency, repetition;
  uint32_t top_k;
  std::map<int32_t, float> bias;
  std::vector<int32_t> allowed, banned;
};

}  // namespace

uint64_t Extend(uint64_t state, int32_t token, int64_t position) {
  return Mix(state ^
             Mix((static_cast<uint64_t>(position) << 32 | static_cast<uint32_t>(token)) + 1));
}

DrawParams ParamsOf(const Request& request) {
  const SamplingParams& sampling = request.sampling;
  Knobs knobs{sampling.temperature,
              sampling.top_p,
              sampling.min_p,
              sampling.presence_penalty,
              sampling.frequency_penalty,
              sampling.repetition_penalty,
              sampling.top_k,
              {sampling.logit_bias.begin(), sampling.logit_bias.end()},
              sampling.allowed_token_ids,
              sampling.banned_token_ids};
  DrawParams params;
  params.hash = HashOf(knobs);
  params.seed = sampling.seed;
  params.num_prompt_tokens = static_cast<uint32_t>(request.prompt.size());
  params.min_tokens = sampling.min_tokens;
  if (sampling.min_tokens > 0) params.min_tokens_banned = sampling.stop_token_ids;
  params.penalties = sampling.presence_penalty != 0 || sampling.frequency_penalty != 0 ||
                     sampling.repetition_penalty != 1;
  params.logprobs = sampling.logprobs;
  params.top_logprobs = sampling.logprobs ? sampling.top_logprobs : 0;
  params.prompt_logprobs = sampling.prompt_logprobs;
  return params;
}

DrawParams ParamsOf(const cluster::v1::SequenceReset& reset) {
  const cluster::v1::SamplingParams& sampling = reset.sampling();
  Knobs knobs{sampling.temperature(),
              sampling.top_p(),
              sampling.min_p(),
              sampling.presence_penalty(),
              sampling.frequency_penalty(),
              sampling.repetition_penalty(),
              sampling.top_k(),
              {sampling.logit_bias().begin(), sampling.logit_bias().end()},
              {sampling.allowed_token_ids().begin(), sampling.allowed_token_ids().end()},
              {sampling.banned_token_ids().begin(), sampling.banned_token_ids().end()}};
  DrawParams params;
  params.hash = HashOf(knobs);
  params.seed = sampling.seed();
  params.num_prompt_tokens = reset.num_prompt_tokens();
  params.min_tokens = sampling.min_tokens();
  params.min_tokens_banned = {sampling.min_tokens_banned().begin(),
                              sampling.min_tokens_banned().end()};
  const float repetition = sampling.repetition_penalty();
  params.penalties = sampling.presence_penalty() != 0 || sampling.frequency_penalty() != 0 ||
                     (repetition != 0 && repetition != 1);
  params.logprobs = sampling.logprobs();
  params.top_logprobs = sampling.logprobs() ? sampling.top_logprobs() : 0;
  params.prompt_logprobs = sampling.prompt_logprobs();
  return params;
}

int32_t DrawToken(const DrawParams& params, uint64_t state, uint64_t history_state,
                  int64_t num_tokens, uint32_t choice) {
  Hasher hasher;
  hasher.Add(state).Add(params.hash).Add(params.seed).Add(uint64_t{params.num_prompt_tokens});
  hasher.Add(static_cast<uint64_t>(num_tokens)).Add(uint64_t{choice});
  if (params.penalties) hasher.Add(history_state);
  uint64_t draw = hasher.hash();
  if ((params.seed & 0xff) == kFailingSeedByte && draw % 11 == 0) return -1;
  const bool short_yet = num_tokens < int64_t{params.num_prompt_tokens} + params.min_tokens;
  while (true) {
    const int32_t token = static_cast<int32_t>((draw >> 8) % kVocabSize);
    const bool banned = std::find(params.min_tokens_banned.begin(), params.min_tokens_banned.end(),
                                  token) != params.min_tokens_banned.end();
    if (!short_yet || !banned) return token;
    draw = Mix(draw + 1);
  }
}

TokenLogprobs Score(uint64_t state, int32_t token, uint32_t num_top) {
  const auto logprob = [state](int32_t id) {
    return -static_cast<float>(Mix(state ^ Mix(static_cast<uint64_t>(id) + 77)) % 4096) / 256;
  };
  TokenLogprobs scored;
  scored.logprob = logprob(token);
  const int32_t first = static_cast<int32_t>(Mix(state + 5) % kVocabSize);
  for (uint32_t i = 0; i < num_top; ++i) {
    const int32_t id = (first + static_cast<int32_t>(i)) % kVocabSize;
    scored.top.emplace_back(id, logprob(id));
  }
  return scored;
}

}  // namespace tessera::simulation
