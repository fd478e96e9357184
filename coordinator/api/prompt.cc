// Prompts from text, tokens and conversations, see prompt.h.

#include "coordinator/api/prompt.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/status_map.h"
#include "coordinator/text/utf8.h"

namespace tessera::api {
namespace {

// The text room's errors are about what the client sent, also where a limit was hit: never "come
// back later". Damage and panics stay internal.
absl::Status AboutInput(const absl::Status& status, const std::string& param) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kResourceExhausted:
      return BadParam(param, absl::StrCat("cannot be taken: ", status.message()));
    default:
      return status;
  }
}

absl::Status CheckTextSize(const ServedModel& model, size_t bytes, const std::string& param) {
  if (static_cast<int64_t>(bytes) <= model.context_max * kPromptBytesPerTokenMax) {
    return absl::OkStatus();
  }
  return WithCode(
      BadParam(param, absl::StrCat("has ", bytes, " bytes, more than the model's context of ",
                                   model.context_max, " tokens can hold")),
      "context_length_exceeded");
}

absl::Status CheckIds(const ServedModel& model, const std::vector<int32_t>& ids,
                      const std::string& param) {
  for (const int32_t id : ids) {
    if (id < 0 || id >= model.spec.vocab_size) {
      return BadParam(param, absl::StrCat("holds the token id ", id,
                                          ", the model's vocabulary has the ids 0 to ",
                                          model.spec.vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> CheckFits(const ServedModel& model, std::vector<int32_t> ids,
                                               const std::string& param) {
  if (ids.empty()) return BadParam(param, "must not be empty");
  TESSERA_RETURN_IF_ERROR(CheckIds(model, ids, param));
  if (static_cast<int64_t>(ids.size()) >= model.context_max) {
    return WithCode(
        BadParam(param, absl::StrCat("has ", ids.size(), " tokens, the model's context of ",
                                     model.context_max, " takes at most ", model.context_max - 1,
                                     " with room for one token of output")),
        "context_length_exceeded");
  }
  return ids;
}

std::string TemplateRole(const ChatTurn& turn) {
  return turn.role == "developer" ? "system" : turn.role;
}

// The variables of the chat template for the first `count` turns.
std::string TemplateInput(const std::vector<ChatTurn>& turns, size_t count,
                          bool add_generation_prompt) {
  nlohmann::ordered_json input;
  input["messages"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < count; ++i) {
    input["messages"].push_back({{"role", TemplateRole(turns[i])}, {"content", turns[i].content}});
  }
  input["add_generation_prompt"] = add_generation_prompt;
  return input.dump();
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> TokenizeText(const ServedModel& model, std::string_view text,
                                                  bool add_special_tokens,
                                                  const std::string& param) {
  text::EncodeOptions options;
  options.add_special_tokens = add_special_tokens;
  auto ids = model.tokenizer->Encode(text, options);
  if (!ids.ok()) return AboutInput(ids.status(), param);
  return ids;
}

absl::StatusOr<std::vector<int32_t>> PromptFromText(const ServedModel& model, std::string_view text,
                                                    const std::string& param) {
  if (text.empty()) return BadParam(param, "must not be empty");
  TESSERA_RETURN_IF_ERROR(CheckTextSize(model, text.size(), param));
  TESSERA_ASSIGN_OR_RETURN(auto ids, TokenizeText(model, text, true, param));
  return CheckFits(model, std::move(ids), param);
}

absl::StatusOr<std::vector<int32_t>> PromptFromTokens(const ServedModel& model,
                                                      std::vector<int32_t> ids,
                                                      const std::string& param) {
  return CheckFits(model, std::move(ids), param);
}

absl::StatusOr<std::vector<int32_t>> PromptFromChat(const ServedModel& model,
                                                    const std::vector<ChatTurn>& turns,
                                                    absl::Time now) {
  if (model.chat_template == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("model `", model.name,
                     "` has no chat template; send a plain prompt to /v1/completions or Generate"));
  }
  if (turns.empty()) return BadParam("messages", "must not be empty");
  if (turns.size() > kMessagesMax) {
    return BadParam("messages", absl::StrCat("takes at most ", kMessagesMax, " messages, it has ",
                                             turns.size()));
  }
  size_t bytes = 0;
  for (size_t i = 0; i < turns.size(); ++i) {
    const std::string role = TemplateRole(turns[i]);
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      return BadParam(absl::StrCat("messages[", i, "].role"),
                      "must be system, developer, user, assistant or tool");
    }
    if (!text::IsUtf8(turns[i].content)) {
      return BadParam(absl::StrCat("messages[", i, "].content"), "must be valid UTF-8");
    }
    bytes += turns[i].content.size();
  }
  TESSERA_RETURN_IF_ERROR(CheckTextSize(model, bytes, "messages"));
  auto ids = model.chat_template->Encode(TemplateInput(turns, turns.size(), true), now);
  if (!ids.ok()) return AboutInput(ids.status(), "messages");
  return CheckFits(model, *std::move(ids), "messages");
}

uint32_t CountSystemTokens(const ServedModel& model, const std::vector<ChatTurn>& turns,
                           const std::vector<int32_t>& prompt, absl::Time now) {
  size_t leading = 0;
  while (leading < turns.size() && TemplateRole(turns[leading]) == "system") ++leading;
  if (leading == 0) return 0;
  const auto alone = model.chat_template->Encode(TemplateInput(turns, leading, false), now);
  if (!alone.ok()) return 0;  // a template that wants a user's turn: nothing is known to be common
  const auto [differs, ignored] =
      std::mismatch(prompt.begin(), prompt.end(), alone->begin(), alone->end());
  return static_cast<uint32_t>(differs - prompt.begin());
}

absl::StatusOr<std::string> Detokenize(const ServedModel& model, const std::vector<int32_t>& ids,
                                       bool skip_special, const std::string& param) {
  TESSERA_RETURN_IF_ERROR(CheckIds(model, ids, param));
  auto text = model.tokenizer->Decode(ids, skip_special);
  if (!text.ok()) return AboutInput(text.status(), param);
  return text;
}

}  // namespace tessera::api
