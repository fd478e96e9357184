// Message conversion, see convert.h.

#include "coordinator/api/grpc/convert.h"

#include <algorithm>
#include <limits>

#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

absl::Status RefuseReserved(const v1::SamplingParams& sampling, int32_t priority) {
  const auto refuse = [](const char* field) {
    return Unsupported(field, "is not supported by this server yet");
  };
  if (sampling.has_min_p() && sampling.min_p() != 0) return refuse("min_p");
  if (sampling.has_presence_penalty() && sampling.presence_penalty() != 0) {
    return refuse("presence_penalty");
  }
  if (sampling.has_frequency_penalty() && sampling.frequency_penalty() != 0) {
    return refuse("frequency_penalty");
  }
  if (sampling.has_repetition_penalty() && sampling.repetition_penalty() != 1) {
    return refuse("repetition_penalty");
  }
  if (!sampling.logit_bias().empty()) return refuse("logit_bias");
  if (sampling.has_n() && sampling.n() != 1) return refuse("n");
  if (sampling.has_top_logprobs() && sampling.top_logprobs() != 0) return refuse("top_logprobs");
  if (sampling.has_min_tokens() && sampling.min_tokens() != 0) return refuse("min_tokens");
  if (priority != 0) return refuse("priority");
  return absl::OkStatus();
}

uint32_t Bounded(int64_t value) {
  return static_cast<uint32_t>(std::clamp<int64_t>(value, 0, std::numeric_limits<uint32_t>::max()));
}

}  // namespace

absl::StatusOr<GenerateParams> ToParams(const v1::SamplingParams& sampling, int32_t priority) {
  const absl::Status reserved = RefuseReserved(sampling, priority);
  if (!reserved.ok()) return reserved;
  GenerateParams params;
  if (sampling.has_temperature()) params.temperature = sampling.temperature();
  if (sampling.has_top_k()) params.top_k = sampling.top_k();
  if (sampling.has_top_p()) params.top_p = sampling.top_p();
  if (sampling.has_seed()) params.seed = sampling.seed();
  if (sampling.has_max_tokens()) params.max_tokens = sampling.max_tokens();
  params.stop.assign(sampling.stop().begin(), sampling.stop().end());
  params.stop_token_ids.assign(sampling.stop_token_ids().begin(), sampling.stop_token_ids().end());
  params.ignore_eos = sampling.ignore_eos();
  params.include_stop = sampling.include_stop();
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

void FillEnd(const Generation::Delta& end, v1::GenerateResponse* response) {
  response->set_finish_reason(end.reason == FinishReason::kLength ? v1::FINISH_REASON_LENGTH
                                                                  : v1::FINISH_REASON_STOP);
  response->set_stop_reason(end.stop_reason);
  response->mutable_usage()->set_prompt_tokens(end.usage.prompt_tokens);
  response->mutable_usage()->set_completion_tokens(end.usage.completion_tokens);
  response->mutable_usage()->set_cached_tokens(end.usage.cached_tokens);
}

}  // namespace tessera::api
