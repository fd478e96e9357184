// Every token is drawn after its whole text was computed anew in one chunk: slow and plain.

#include "tests/worker/invariance_script.h"

#include <algorithm>

#include "base/check.h"
#include "worker/plan_check.h"

namespace tessera {
namespace {

using cluster::v1::SamplingParams;
using cluster::v1::StepPlan;

constexpr uint64_t kAlone = 1;  // sequence

int32_t RandomToken(const RankGroup& group, std::mt19937& random) {
  return static_cast<int32_t>(random() % group.spec().vocab_size);
}

SamplingParams RandomSampling(const RankGroup& group, std::mt19937& random) {
  SamplingParams sampling;
  sampling.set_top_p(1);
  if (random() % 4 != 0) sampling.set_temperature(0.5f + static_cast<float>(random() % 100) / 50);
  sampling.set_seed(random());
  if (random() % 3 == 0) sampling.set_top_k(1 + random() % 20);
  if (random() % 3 == 0) sampling.set_top_p(0.5f);
  if (random() % 3 == 0) sampling.set_min_p(0.02f);
  if (random() % 3 == 0) sampling.set_repetition_penalty(1.3f);
  if (random() % 3 == 0) sampling.set_frequency_penalty(0.4f);
  if (random() % 3 == 0) sampling.set_presence_penalty(-0.3f);
  if (random() % 4 == 0) (*sampling.mutable_logit_bias())[RandomToken(group, random)] = 2.5f;
  if (random() % 4 == 0) sampling.add_banned_token_ids(RandomToken(group, random));
  if (random() % 4 == 0) {
    for (int i = 0; i < 9; ++i) sampling.add_allowed_token_ids(RandomToken(group, random));
  }
  if (random() % 4 == 0) {
    sampling.set_min_tokens(2);
    for (int i = 0; i < 5; ++i) sampling.add_min_tokens_banned(RandomToken(group, random));
  }
  if (random() % 4 == 0) sampling.set_prompt_logprobs(1 + random() % 3);
  return sampling;
}

// Draws `length` tokens after the prompt.
ScriptedChoice MakeChoice(RankGroup& alone, const ScriptedRequest& request, uint32_t choice,
                          const std::vector<int32_t>& prompt, size_t length) {
  ScriptedChoice made = {.text = prompt, .logits = {}, .long_logits = {}};
  uint64_t step = 0;
  while (made.text.size() < prompt.size() + length) {
    StepPlan plan = PlanAlone(request, choice, made.text, alone.limits(), ++step);
    plan.mutable_resets(0)->set_long_rope(alone.IsLong(static_cast<int64_t>(made.text.size())));
    const auto outcome = alone.Execute(plan);
    TESSERA_CHECK(outcome.ok()) << outcome.status();
    // Everything may be banned; the sequence then ends, as it would for a client.
    if (outcome->drawn[0] == Sampler::kNoToken) break;
    made.text.push_back(outcome->drawn[0]);
  }
  alone.Clear();
  made.logits = alone.Step({{kAlone, made.text, /*long_rope=*/false}})[0];
  alone.Clear();
  made.long_logits = alone.Step({{kAlone, made.text, /*long_rope=*/true}})[0];
  alone.Clear();
  return made;
}

}  // namespace

StepPlan PlanAlone(const ScriptedRequest& request, uint32_t choice,
                   const std::vector<int32_t>& text, const StepLimits& limits, uint64_t step) {
  StepPlan plan;
  plan.set_step(step);
  plan.add_sequence(kAlone);
  plan.add_num_new_tokens(text.size());
  plan.add_start_position(0);
  plan.add_output(cluster::v1::OUTPUT_SAMPLE);
  plan.add_num_choices(1);
  plan.add_token_source(cluster::v1::TOKENS_EXPLICIT);
  plan.mutable_tokens()->Assign(text.begin(), text.end());
  const int64_t blocks = BlocksFor(static_cast<int64_t>(text.size()), limits.block_size);
  for (size_t group = 0; group < limits.num_blocks.size(); ++group) {
    plan.add_num_new_blocks(blocks);
    for (int64_t block = 0; block < blocks; ++block) plan.add_block_ids(block);
  }
  cluster::v1::SequenceReset* reset = plan.add_resets();
  reset->set_choice(choice);
  reset->set_num_prompt_tokens(request.num_prompt_tokens);
  *reset->mutable_sampling() = request.sampling;
  if (ReadsTokens(request.sampling)) reset->mutable_history()->Assign(text.begin(), text.end());
  return plan;
}

std::vector<ScriptedRequest> MakeRequests(RankGroup& alone, int count, std::mt19937& random) {
  std::vector<int32_t> common(40);
  for (int32_t& token : common) token = RandomToken(alone, random);
  std::vector<ScriptedRequest> requests;
  while (static_cast<int>(requests.size()) < count) {
    std::vector<int32_t> prompt = common;
    prompt.resize(1 + random() % common.size());
    // Two of three prompts differ from the others behind some point.
    if (random() % 3 != 0) {
      const size_t from = random() % prompt.size();
      for (size_t i = from; i < prompt.size(); ++i) prompt[i] = RandomToken(alone, random);
    }
    ScriptedRequest request;
    request.sampling = RandomSampling(alone, random);
    request.num_prompt_tokens = static_cast<int64_t>(prompt.size());
    const uint32_t num_choices = random() % 3 == 0 ? 2 + random() % 2 : 1;
    for (uint32_t choice = 0; choice < num_choices; ++choice) {
      request.choices.push_back(MakeChoice(alone, request, choice, prompt, 1 + random() % 7));
    }
    // A sequence that cannot draw at all teaches nothing here.
    const bool drew = std::all_of(
        request.choices.begin(), request.choices.end(),
        [&](const ScriptedChoice& choice) { return choice.text.size() > prompt.size(); });
    if (drew) requests.push_back(std::move(request));
  }
  return requests;
}

}  // namespace tessera
