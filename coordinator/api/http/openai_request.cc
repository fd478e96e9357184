// OpenAI request bodies, see openai_request.h.

#include "coordinator/api/http/openai_request.h"

#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/status.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

bool IsNumber(const Json& value, double wanted) {
  return value.is_number() && value.get<double>() == wanted;
}
bool IsOne(const Json& value) { return IsNumber(value, 1); }
bool IsFalse(const Json& value) { return value == false; }
bool IsEmpty(const Json& value) {
  return (value.is_object() || value.is_array() || value.is_string()) &&
         (value.empty() || value == "");
}
bool IsTextFormat(const Json& value) {
  return value.is_object() && value.value("type", Json()) == "text";
}
bool IsNoChoice(const Json& value) { return value == "none" || value == "auto"; }
bool IsTextOnly(const Json& value) { return value == Json::array({"text"}); }
bool Never(const Json&) { return false; }

// Parameters that this server knows and does not serve yet: taken when their value asks for
// nothing.
struct ReservedParam {
  const char* name;
  bool (*neutral)(const Json& value);
  const char* instead;
};

constexpr ReservedParam kReserved[] = {
    {"length_penalty", IsOne, "only 1"},
    {"use_beam_search", IsFalse, "only false"},
    {"response_format", IsTextFormat, "only {\"type\": \"text\"}"},
    {"structured_outputs", Never, "leave it out"},
    {"guided_json", Never, "leave it out"},
    {"guided_regex", Never, "leave it out"},
    {"guided_choice", Never, "leave it out"},
    {"guided_grammar", Never, "leave it out"},
    {"tools", IsEmpty, "leave it out"},
    {"tool_choice", IsNoChoice, "only \"none\" or \"auto\""},
    {"functions", IsEmpty, "leave it out"},
    {"function_call", IsNoChoice, "leave it out"},
    {"modalities", IsTextOnly, "only [\"text\"]"},
    {"audio", Never, "leave it out"},
    {"prediction", Never, "leave it out"},
    {"suffix", IsEmpty, "leave it out"},
    {"truncate_prompt_tokens", Never, "shorten the prompt"},
};

// Parameters of /v1/completions that a chat does not have.
constexpr ReservedParam kNotInChat[] = {
    {"best_of", IsOne, "only in /v1/completions"},
    {"echo", IsFalse, "only in /v1/completions"},
};

absl::Status RefuseReserved(const JsonFields& fields, absl::Span<const ReservedParam> params) {
  for (const ReservedParam& param : params) {
    const Json* value = fields.Find(param.name);
    if (value != nullptr && !param.neutral(*value)) {
      return Unsupported(param.name,
                         absl::StrCat("is not supported by this server here: ", param.instead));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadStreamOptions(const JsonFields& fields, OpenAiRequest* out) {
  const Json* options = fields.Find("stream_options");
  if (options == nullptr) return absl::OkStatus();
  if (!options->is_object()) {
    return WithCode(BadParam("stream_options", "must be an object"), "invalid_type");
  }
  if (!out->stream) return BadParam("stream_options", "is only allowed with `stream`: true");
  const JsonFields inner(*options, "stream_options.");
  std::optional<bool> include_usage;
  std::optional<bool> continuous;
  TESSERA_RETURN_IF_ERROR(inner.Read("include_usage", &include_usage));
  TESSERA_RETURN_IF_ERROR(inner.Read("continuous_usage_stats", &continuous));
  if (continuous.value_or(false)) {
    return Unsupported("stream_options.continuous_usage_stats",
                       "is not supported by this server yet: use include_usage");
  }
  out->include_usage = include_usage.value_or(false);
  return absl::OkStatus();
}

// {"token id": bias}
absl::Status ReadLogitBias(const JsonFields& fields, GenerateParams* params) {
  const Json* biases = fields.Find("logit_bias");
  if (biases == nullptr) return absl::OkStatus();
  if (!biases->is_object()) {
    return WithCode(BadParam("logit_bias", "must be an object of token ids and numbers"),
                    "invalid_type");
  }
  if (biases->size() > kLogitBiasMax) {
    return BadParam("logit_bias", absl::StrCat("takes at most ", kLogitBiasMax, " tokens, it has ",
                                               biases->size()));
  }
  for (const auto& [key, value] : biases->items()) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(key, &id)) {
      return BadParam("logit_bias",
                      absl::StrCat("holds \"", key.substr(0, 64), "\", which is no token id"));
    }
    if (!value.is_number()) {
      return WithCode(BadParam("logit_bias", absl::StrCat("must hold numbers, that of token ", id,
                                                          " is of type ", value.type_name())),
                      "invalid_type");
    }
    params->logit_bias.emplace_back(id, value.get<double>());
  }
  return absl::OkStatus();
}

absl::Status ReadSampling(const JsonFields& fields, GenerateParams* params) {
  TESSERA_RETURN_IF_ERROR(fields.Read("temperature", &params->temperature));
  TESSERA_RETURN_IF_ERROR(fields.Read("top_p", &params->top_p));
  TESSERA_RETURN_IF_ERROR(fields.Read("top_k", &params->top_k));
  TESSERA_RETURN_IF_ERROR(fields.Read("min_p", &params->min_p));
  TESSERA_RETURN_IF_ERROR(fields.Read("presence_penalty", &params->presence_penalty));
  TESSERA_RETURN_IF_ERROR(fields.Read("frequency_penalty", &params->frequency_penalty));
  TESSERA_RETURN_IF_ERROR(fields.Read("repetition_penalty", &params->repetition_penalty));
  TESSERA_RETURN_IF_ERROR(ReadLogitBias(fields, params));
  TESSERA_RETURN_IF_ERROR(fields.Read("allowed_token_ids", &params->allowed_token_ids));
  TESSERA_RETURN_IF_ERROR(fields.Read("banned_token_ids", &params->banned_token_ids));
  TESSERA_RETURN_IF_ERROR(fields.ReadStrings("bad_words", &params->bad_words));
  TESSERA_RETURN_IF_ERROR(fields.ReadSeed("seed", &params->seed));
  TESSERA_RETURN_IF_ERROR(fields.Read("n", &params->n));
  TESSERA_RETURN_IF_ERROR(fields.Read("prompt_logprobs", &params->prompt_logprobs));
  return fields.Read("priority", &params->priority);
}

absl::Status ReadEnds(const JsonFields& fields, GenerateParams* params) {
  std::optional<bool> ignore_eos, include_stop, include_stop_str;
  std::optional<int64_t> completion_tokens;
  TESSERA_RETURN_IF_ERROR(fields.Read("max_tokens", &params->max_tokens));
  TESSERA_RETURN_IF_ERROR(fields.Read("max_completion_tokens", &completion_tokens));
  TESSERA_RETURN_IF_ERROR(fields.Read("min_tokens", &params->min_tokens));
  TESSERA_RETURN_IF_ERROR(fields.ReadStrings("stop", &params->stop));
  TESSERA_RETURN_IF_ERROR(fields.Read("stop_token_ids", &params->stop_token_ids));
  TESSERA_RETURN_IF_ERROR(fields.Read("ignore_eos", &ignore_eos));
  TESSERA_RETURN_IF_ERROR(fields.Read("include_stop_str_in_output", &include_stop_str));
  TESSERA_RETURN_IF_ERROR(fields.Read("include_stop", &include_stop));
  params->ignore_eos = ignore_eos.value_or(false);
  params->include_stop = include_stop_str.value_or(false) || include_stop.value_or(false);
  if (!completion_tokens.has_value()) return absl::OkStatus();
  if (params->max_tokens.has_value() && params->max_tokens != completion_tokens) {
    return BadParam("max_tokens", "and `max_completion_tokens` mean the same and differ");
  }
  params->max_tokens = completion_tokens;
  params->max_tokens_name = "max_completion_tokens";
  return absl::OkStatus();
}

absl::StatusOr<OpenAiRequest> ParseCommon(const JsonFields& fields) {
  OpenAiRequest out;
  std::optional<std::string> model;
  std::optional<bool> stream;
  std::optional<bool> include_cost;
  TESSERA_RETURN_IF_ERROR(fields.Read("model", &model));
  TESSERA_RETURN_IF_ERROR(fields.Read("include_cost", &include_cost));
  TESSERA_RETURN_IF_ERROR(fields.Read("stream", &stream));
  TESSERA_RETURN_IF_ERROR(ReadSampling(fields, &out.params));
  TESSERA_RETURN_IF_ERROR(ReadEnds(fields, &out.params));
  TESSERA_RETURN_IF_ERROR(RefuseReserved(fields, kReserved));
  out.model = std::move(model).value_or("");
  out.stream = stream.value_or(false);
  out.include_cost = include_cost.value_or(false);
  if (out.stream && out.params.prompt_logprobs.has_value()) {
    return BadParam("prompt_logprobs", "cannot be streamed; leave out `stream`");
  }
  TESSERA_RETURN_IF_ERROR(ReadStreamOptions(fields, &out));
  return out;
}

// What only a chat has: `logprobs` says whether, `top_logprobs` how many alternatives.
absl::Status ReadChatExtras(const JsonFields& fields, GenerateParams* params) {
  TESSERA_RETURN_IF_ERROR(RefuseReserved(fields, kNotInChat));
  std::optional<bool> logprobs;
  std::optional<int64_t> top;
  TESSERA_RETURN_IF_ERROR(fields.Read("logprobs", &logprobs));
  TESSERA_RETURN_IF_ERROR(fields.Read("top_logprobs", &top));
  if (logprobs.value_or(false)) {
    params->top_logprobs = top.value_or(0);
  } else if (top.value_or(0) != 0) {
    return BadParam("top_logprobs", "is only allowed with `logprobs`: true");
  }
  return absl::OkStatus();
}

// What only /v1/completions has: `logprobs` as a number, `best_of` and `echo`.
absl::Status ReadCompletionExtras(const JsonFields& fields, CompletionRequest* request) {
  GenerateParams& params = request->common.params;
  std::optional<bool> echo;
  TESSERA_RETURN_IF_ERROR(fields.Read("logprobs", &params.top_logprobs));
  TESSERA_RETURN_IF_ERROR(fields.Read("best_of", &params.best_of));
  TESSERA_RETURN_IF_ERROR(fields.Read("echo", &echo));
  params.top_logprobs_name = "logprobs";
  request->echo = echo.value_or(false);
  params.score_prompt = request->echo;
  params.prompt_only = request->echo && params.max_tokens == 0;
  if (request->common.stream && params.choices() > params.answers()) {
    return BadParam("best_of", "above `n` cannot be streamed; leave out `stream`");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ChatCompletionRequest> ParseChatCompletion(std::string_view body) {
  TESSERA_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(body));
  const JsonFields fields(json);
  ChatCompletionRequest request;
  TESSERA_ASSIGN_OR_RETURN(request.common, ParseCommon(fields));
  TESSERA_RETURN_IF_ERROR(ReadChatExtras(fields, &request.common.params));
  const Json* messages = fields.Find("messages");
  if (messages == nullptr) return BadParam("messages", "is missing");
  TESSERA_ASSIGN_OR_RETURN(request.messages, ParseMessages(*messages));
  return request;
}

absl::StatusOr<CompletionRequest> ParseCompletion(std::string_view body) {
  TESSERA_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(body));
  const JsonFields fields(json);
  CompletionRequest request;
  TESSERA_ASSIGN_OR_RETURN(request.common, ParseCommon(fields));
  TESSERA_RETURN_IF_ERROR(ReadCompletionExtras(fields, &request));
  const Json* prompt = fields.Find("prompt");
  if (prompt == nullptr) return BadParam("prompt", "is missing");
  if (prompt->is_string()) {
    request.prompt = prompt->get<std::string>();
    return request;
  }
  if (prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {
    if (prompt->size() > 1) {
      return Unsupported(
          "prompt", absl::StrCat("holds ", prompt->size(), " prompts, the limit is 1 per request"));
    }
    const Json& only = prompt->front();
    if (only.is_string()) {
      request.prompt = only.get<std::string>();
      return request;
    }
    TESSERA_ASSIGN_OR_RETURN(request.prompt, ReadTokenIds(only, "prompt[0]"));
    return request;
  }
  TESSERA_ASSIGN_OR_RETURN(request.prompt, ReadTokenIds(*prompt, "prompt"));
  return request;
}

}  // namespace tessera::api
