// OpenAI response objects, see openai_response.h. Text deltas are valid UTF-8, so dump cannot
// throw; it replaces what is not, all the same.

#include "coordinator/api/http/openai_response.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera::api {
namespace {

using OrderedJson = nlohmann::ordered_json;

std::string Dump(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

const char* FinishName(FinishReason reason) {
  return reason == FinishReason::kLength ? "length" : "stop";
}

OrderedJson UsageJson(const Usage& usage) {
  OrderedJson json;
  json["prompt_tokens"] = usage.prompt_tokens;
  json["completion_tokens"] = usage.completion_tokens;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  json["prompt_tokens_details"]["cached_tokens"] = usage.cached_tokens;
  return json;
}

OrderedJson Envelope(const std::string& id, const char* object, int64_t created,
                     const std::string& model) {
  OrderedJson json;
  json["id"] = id;
  json["object"] = object;
  json["created"] = created;
  json["model"] = model;
  json["choices"] = OrderedJson::array();
  return json;
}

void EndChoice(const Generation::Delta& end, OrderedJson* choice) {
  (*choice)["finish_reason"] = FinishName(end.reason);
  if (!end.stop_reason.empty()) (*choice)["stop_reason"] = end.stop_reason;
}

}  // namespace

std::string SseEvent(const std::string& data) { return absl::StrCat("data: ", data, "\n\n"); }

std::string OpenAiAnswer::Whole(const std::string& text, const Generation::Delta& end) const {
  OrderedJson json = Envelope(id_, chat_ ? "chat.completion" : "text_completion", created_, model_);
  OrderedJson choice;
  choice["index"] = 0;
  if (chat_) {
    choice["message"] = {{"role", "assistant"}, {"content", text}, {"refusal", nullptr}};
  } else {
    choice["text"] = text;
  }
  choice["logprobs"] = nullptr;
  EndChoice(end, &choice);
  json["choices"].push_back(std::move(choice));
  json["usage"] = UsageJson(end.usage);
  return Dump(json);
}

namespace {

// One chunk with one choice. `text` null: the last chunk.
std::string Chunk(OrderedJson envelope, bool chat, const std::string* text, bool with_role,
                  const Generation::Delta* end, bool usage_in_chunks) {
  OrderedJson choice;
  choice["index"] = 0;
  if (chat) {
    choice["delta"] = OrderedJson::object();
    if (with_role) choice["delta"]["role"] = "assistant";
    if (text != nullptr) choice["delta"]["content"] = *text;
  } else {
    choice["text"] = text != nullptr ? *text : "";
  }
  choice["logprobs"] = nullptr;
  choice["finish_reason"] = nullptr;
  if (end != nullptr) EndChoice(*end, &choice);
  envelope["choices"].push_back(std::move(choice));
  if (usage_in_chunks) envelope["usage"] = nullptr;
  return SseEvent(Dump(envelope));
}

}  // namespace

std::string OpenAiAnswer::Opening() const {
  if (!chat_) return "";
  const std::string nothing;
  return Chunk(Envelope(id_, "chat.completion.chunk", created_, model_), true, &nothing, true,
               nullptr, usage_in_chunks_);
}

std::string OpenAiAnswer::Text(const std::string& text) const {
  return Chunk(Envelope(id_, chat_ ? "chat.completion.chunk" : "text_completion", created_, model_),
               chat_, &text, false, nullptr, usage_in_chunks_);
}

std::string OpenAiAnswer::Closing(const Generation::Delta& end) const {
  const char* object = chat_ ? "chat.completion.chunk" : "text_completion";
  std::string events =
      Chunk(Envelope(id_, object, created_, model_), chat_, nullptr, false, &end, usage_in_chunks_);
  if (usage_in_chunks_) {
    OrderedJson usage = Envelope(id_, object, created_, model_);
    usage["usage"] = UsageJson(end.usage);
    events += SseEvent(Dump(usage));
  }
  return events + SseEvent("[DONE]");
}

}  // namespace tessera::api
