// One walk over the rows, which know how many draws and scored prompt tokens are theirs.

#include "worker/step_output.h"

namespace tessera {

void FillScoreRows(const StepInput& input, const std::vector<int32_t>& drawn,
                   std::vector<ScoreRow>& rows) {
  rows.clear();
  size_t next_prompt = 0;
  size_t next_draw = 0;
  for (int64_t row = 0; row < input.num_rows(); ++row) {
    for (uint32_t i = 0; i < input.num_prompt_scores[row]; ++i) {
      rows.push_back(input.prompt_scores[next_prompt++]);
    }
    for (uint32_t i = 0; i < input.num_draws[row]; ++i, ++next_draw) {
      if (input.sample_scores[row] == 0) continue;
      rows.push_back({.logits_row = input.sampling[next_draw].logits_row,
                      .token = drawn[next_draw],
                      .top = input.sample_scores[row] - 1});
    }
  }
}

void FillColumns(const StepInput& input, const std::vector<int32_t>& drawn, const Scores& scores,
                 cluster::v1::StepResult& result) {
  result.mutable_num_sampled()->Assign(input.num_draws.begin(), input.num_draws.end());
  // Sampler::kNoToken included: the coordinator ends that request and no other.
  result.mutable_sampled()->Assign(drawn.begin(), drawn.end());
  result.set_rows(static_cast<uint32_t>(input.num_rows()));
  result.set_tokens_computed(static_cast<uint32_t>(input.num_tokens()));
  if (scores.logprobs.empty()) return;
  for (int64_t row = 0; row < input.num_rows(); ++row) {
    const uint32_t samples = input.sample_scores[row] == 0 ? 0 : input.num_draws[row];
    result.add_num_scored(input.num_prompt_scores[row] + samples);
  }
  result.mutable_logprobs()->Assign(scores.logprobs.begin(), scores.logprobs.end());
  result.mutable_num_top()->Assign(scores.num_top.begin(), scores.num_top.end());
  result.mutable_top_tokens()->Assign(scores.top_tokens.begin(), scores.top_tokens.end());
  result.mutable_top_logprobs()->Assign(scores.top_logprobs.begin(), scores.top_logprobs.end());
}

}  // namespace tessera
