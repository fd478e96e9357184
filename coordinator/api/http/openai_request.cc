// OpenAI request bodies, see openai_request.h.

#include "coordinator/api/http/openai_request.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

bool IsNumber(const Json& value, double wanted) {
  return value.is_number() && value.get<double>() == wanted;
}
bool IsOne(const Json& value) { return IsNumber(value, 1); }
bool IsZero(const Json& value) { return IsNumber(value, 0); }
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
    {"n", IsOne, "only 1 answer per request; send the request several times"},
    {"best_of", IsOne, "only 1"},
    {"logprobs", IsFalse, "leave it out"},
    {"top_logprobs", IsZero, "leave it out"},
    {"prompt_logprobs", Never, "leave it out"},
    {"logit_bias", IsEmpty, "leave it out"},
    {"presence_penalty", IsZero, "only 0"},
    {"frequency_penalty", IsZero, "only 0"},
    {"repetition_penalty", IsOne, "only 1"},
    {"length_penalty", IsOne, "only 1"},
    {"min_p", IsZero, "only 0; use top_p or top_k"},
    {"min_tokens", IsZero, "only 0"},
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
    {"echo", IsFalse, "only false"},
    {"suffix", IsEmpty, "leave it out"},
    {"bad_words", IsEmpty, "leave it out"},
    {"allowed_token_ids", IsEmpty, "leave it out"},
    {"truncate_prompt_tokens", Never, "shorten the prompt"},
    {"priority", IsZero, "only 0"},
};

absl::Status RefuseReserved(const JsonFields& fields) {
  for (const ReservedParam& param : kReserved) {
    const Json* value = fields.Find(param.name);
    if (value != nullptr && !param.neutral(*value)) {
      return Unsupported(param.name,
                         absl::StrCat("is not supported by this server yet: ", param.instead));
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

absl::StatusOr<OpenAiRequest> ParseCommon(const JsonFields& fields) {
  OpenAiRequest out;
  GenerateParams& params = out.params;
  std::optional<std::string> model;
  std::optional<bool> stream, ignore_eos, include_stop;
  std::optional<int64_t> completion_tokens;
  TESSERA_RETURN_IF_ERROR(fields.Read("model", &model));
  TESSERA_RETURN_IF_ERROR(fields.Read("stream", &stream));
  TESSERA_RETURN_IF_ERROR(fields.Read("temperature", &params.temperature));
  TESSERA_RETURN_IF_ERROR(fields.Read("top_p", &params.top_p));
  TESSERA_RETURN_IF_ERROR(fields.Read("top_k", &params.top_k));
  TESSERA_RETURN_IF_ERROR(fields.ReadSeed("seed", &params.seed));
  TESSERA_RETURN_IF_ERROR(fields.Read("max_tokens", &params.max_tokens));
  TESSERA_RETURN_IF_ERROR(fields.Read("max_completion_tokens", &completion_tokens));
  TESSERA_RETURN_IF_ERROR(fields.ReadStrings("stop", &params.stop));
  TESSERA_RETURN_IF_ERROR(fields.Read("stop_token_ids", &params.stop_token_ids));
  TESSERA_RETURN_IF_ERROR(fields.Read("ignore_eos", &ignore_eos));
  TESSERA_RETURN_IF_ERROR(fields.Read("include_stop_str_in_output", &include_stop));
  TESSERA_RETURN_IF_ERROR(RefuseReserved(fields));
  out.model = std::move(model).value_or("");
  out.stream = stream.value_or(false);
  params.ignore_eos = ignore_eos.value_or(false);
  params.include_stop = include_stop.value_or(false);
  if (completion_tokens.has_value()) {
    if (params.max_tokens.has_value() && params.max_tokens != completion_tokens) {
      return BadParam("max_tokens", "and `max_completion_tokens` mean the same and differ");
    }
    params.max_tokens = completion_tokens;
    params.max_tokens_name = "max_completion_tokens";
  }
  TESSERA_RETURN_IF_ERROR(ReadStreamOptions(fields, &out));
  return out;
}

// A string, or an array of text parts, which are joined.
absl::StatusOr<std::string> ParseContent(const Json& content, const std::string& path) {
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) {
    return WithCode(
        BadParam(path, absl::StrCat("must be a string or an array of parts, it is of type ",
                                    content.type_name())),
        "invalid_type");
  }
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const std::string part_path = absl::StrCat(path, "[", i, "]");
    if (!content[i].is_object()) {
      return WithCode(BadParam(part_path, "must be an object"), "invalid_type");
    }
    const JsonFields part(content[i], part_path + ".");
    std::optional<std::string> type, part_text;
    TESSERA_RETURN_IF_ERROR(part.Read("type", &type));
    if (type.has_value() && *type != "text") {
      return Unsupported(part_path, absl::StrCat("is of type \"", type->substr(0, 64),
                                                 "\"; this server takes parts of type \"text\""));
    }
    TESSERA_RETURN_IF_ERROR(part.Read("text", &part_text));
    if (!type.has_value() || !part_text.has_value()) {
      return BadParam(part_path, "must have `type` and `text`");
    }
    text += *part_text;
  }
  return text;
}

absl::StatusOr<ChatTurn> ParseMessage(const Json& message, const std::string& path) {
  if (!message.is_object()) {
    return WithCode(BadParam(path, "must be an object"), "invalid_type");
  }
  const JsonFields fields(message, path + ".");
  for (const char* name : {"tool_calls", "function_call", "audio"}) {
    const Json* value = fields.Find(name);
    if (value != nullptr && !IsEmpty(*value)) {
      return Unsupported(fields.Path(name), "is not supported by this server yet: leave it out");
    }
  }
  std::optional<std::string> role;
  TESSERA_RETURN_IF_ERROR(fields.Read("role", &role));
  if (!role.has_value()) return BadParam(fields.Path("role"), "is missing");
  const Json* content = fields.Find("content");
  if (content == nullptr) return BadParam(fields.Path("content"), "is missing");
  ChatTurn turn;
  turn.role = *std::move(role);
  TESSERA_ASSIGN_OR_RETURN(turn.content, ParseContent(*content, fields.Path("content")));
  return turn;
}

}  // namespace

absl::StatusOr<std::vector<ChatTurn>> ParseMessages(const Json& messages) {
  if (!messages.is_array()) {
    return WithCode(
        BadParam("messages", absl::StrCat("must be an array of messages, it is of type ",
                                          messages.type_name())),
        "invalid_type");
  }
  if (messages.empty()) return BadParam("messages", "must not be empty");
  if (messages.size() > kMessagesMax) {
    return BadParam("messages", absl::StrCat("takes at most ", kMessagesMax, " messages, it has ",
                                             messages.size()));
  }
  std::vector<ChatTurn> turns;
  turns.reserve(messages.size());
  for (size_t i = 0; i < messages.size(); ++i) {
    TESSERA_ASSIGN_OR_RETURN(ChatTurn turn,
                             ParseMessage(messages[i], absl::StrCat("messages[", i, "]")));
    turns.push_back(std::move(turn));
  }
  return turns;
}

absl::StatusOr<ChatCompletionRequest> ParseChatCompletion(std::string_view body) {
  TESSERA_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(body));
  const JsonFields fields(json);
  ChatCompletionRequest request;
  TESSERA_ASSIGN_OR_RETURN(request.common, ParseCommon(fields));
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
