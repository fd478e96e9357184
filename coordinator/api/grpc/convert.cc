// Message conversion, see convert.h.

#include "coordinator/api/grpc/convert.h"

#include <algorithm>
#include <limits>

#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

uint32_t Bounded(int64_t value) {
  return static_cast<uint32_t>(std::clamp<int64_t>(value, 0, std::numeric_limits<uint32_t>::max()));
}

void FillLogprobs(int32_t token, const TokenLogprobs& scores, v1::TokenLogprobs* proto) {
  proto->set_token_id(token);
  proto->set_logprob(scores.logprob);
  for (const auto& [id, logprob] : scores.top) {
    v1::TokenLogprobs::Alternative* alternative = proto->add_top();
    alternative->set_token_id(id);
    alternative->set_logprob(logprob);
  }
}

}  // namespace

GenerateParams ToParams(const v1::SamplingParams& sampling, std::optional<int32_t> priority) {
  GenerateParams params;
  if (sampling.has_temperature()) params.temperature = sampling.temperature();
  if (sampling.has_top_k()) params.top_k = sampling.top_k();
  if (sampling.has_top_p()) params.top_p = sampling.top_p();
  if (sampling.has_min_p()) params.min_p = sampling.min_p();
  if (sampling.has_presence_penalty()) params.presence_penalty = sampling.presence_penalty();
  if (sampling.has_frequency_penalty()) params.frequency_penalty = sampling.frequency_penalty();
  if (sampling.has_repetition_penalty()) params.repetition_penalty = sampling.repetition_penalty();
  for (const auto& [id, bias] : sampling.logit_bias()) params.logit_bias.emplace_back(id, bias);
  params.allowed_token_ids.assign(sampling.allowed_token_ids().begin(),
                                  sampling.allowed_token_ids().end());
  params.banned_token_ids.assign(sampling.banned_token_ids().begin(),
                                 sampling.banned_token_ids().end());
  params.bad_words.assign(sampling.bad_words().begin(), sampling.bad_words().end());
  if (sampling.has_seed()) params.seed = sampling.seed();
  if (sampling.has_n()) params.n = sampling.n();
  if (sampling.has_max_tokens()) params.max_tokens = sampling.max_tokens();
  if (sampling.has_min_tokens()) params.min_tokens = sampling.min_tokens();
  params.stop.assign(sampling.stop().begin(), sampling.stop().end());
  params.stop_token_ids.assign(sampling.stop_token_ids().begin(), sampling.stop_token_ids().end());
  params.ignore_eos = sampling.ignore_eos();
  params.include_stop = sampling.include_stop();
  if (sampling.logprobs() || sampling.top_logprobs() > 0) {
    params.top_logprobs = sampling.top_logprobs();
  }
  if (sampling.has_prompt_logprobs()) params.prompt_logprobs = sampling.prompt_logprobs();
  params.priority = priority;
  return params;
}

std::vector<ChatTurn> ToTurns(const v1::ChatRequest& request) {
  std::vector<ChatTurn> turns;
  turns.reserve(static_cast<size_t>(request.messages_size()));
  for (const v1::ChatMessage& message : request.messages()) {
    turns.push_back({message.role(), message.content()});
  }
  return turns;
}

v1::Model ToProto(const ServedModel& model, bool ready) {
  v1::Model proto;
  proto.set_name(model.name);
  proto.set_architecture(model.spec.architecture);
  proto.set_parameters(static_cast<uint64_t>(ParameterCount(model.spec)));
  proto.set_context_max(Bounded(model.context_max));
  proto.set_vocabulary_size(Bounded(model.spec.vocab_size));
  proto.set_dtype(DTypeName(model.dtype));
  proto.set_tensor_parallel(Bounded(model.tensor_parallel));
  proto.set_ready(ready);
  proto.set_license(model.license);
  return proto;
}

v1::GenerateResponse ToProto(const ChoiceDelta& delta) {
  v1::GenerateResponse proto;
  proto.set_choice(delta.choice);
  proto.set_text(delta.text);
  proto.mutable_token_ids()->Add(delta.token_ids.begin(), delta.token_ids.end());
  for (size_t i = 0; i < delta.logprobs.size(); ++i) {
    FillLogprobs(delta.token_ids[i], delta.logprobs[i], proto.add_logprobs());
  }
  if (!delta.ended) return proto;
  proto.set_finish_reason(delta.reason == FinishReason::kLength ? v1::FINISH_REASON_LENGTH
                                                                : v1::FINISH_REASON_STOP);
  proto.set_stop_reason(delta.stop_reason);
  return proto;
}

v1::Usage ToProto(const Usage& usage) {
  v1::Usage proto;
  proto.set_prompt_tokens(usage.prompt_tokens);
  proto.set_completion_tokens(usage.completion_tokens);
  proto.set_cached_tokens(usage.cached_tokens);
  return proto;
}

v1::Cost ToProto(const CostReport& report) {
  v1::Cost proto;
  proto.set_currency(report.cost.currency);
  proto.set_total(report.cost.total());
  proto.set_input(report.cost.input);
  proto.set_output(report.cost.output);
  proto.set_energy(report.cost.energy);
  proto.set_saved(report.cost.saved);
  proto.set_prefill_gpu_seconds(report.work[WorkKind::kPrefill]);
  proto.set_decode_gpu_seconds(report.work[WorkKind::kDecode]);
  proto.set_energy_joules(report.energy_joules);
  return proto;
}

void FillPromptLogprobs(absl::Span<const int32_t> prompt, absl::Span<const TokenLogprobs> scores,
                        v1::GenerateResponse* response) {
  for (size_t i = 0; i < scores.size(); ++i) {
    FillLogprobs(prompt[i + 1], scores[i], response->add_prompt_logprobs());
  }
}

}  // namespace tessera::api
