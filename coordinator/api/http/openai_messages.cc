// The `messages` of a conversation, see openai_request.h.

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/api/http/openai_request.h"
#include "coordinator/api/status_map.h"

namespace tessera::api {
namespace {

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
    if (value != nullptr && !value->empty() && *value != "") {
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

}  // namespace tessera::api
