// The bodies of /v1/chat/completions and /v1/completions -> checked values. Fields that are
// reserved (tools, response_format, suffix ...) are refused by name unless they ask for nothing;
// unknown ones are ignored. Bytes from outside; fuzzed. Any thread.

#ifndef TESSERA_COORDINATOR_API_HTTP_OPENAI_REQUEST_H_
#define TESSERA_COORDINATOR_API_HTTP_OPENAI_REQUEST_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/api/json_request.h"
#include "coordinator/api/prompt.h"
#include "coordinator/api/validate.h"

namespace tessera::api {

struct OpenAiRequest {
  std::string model;  // may be empty: the only one
  GenerateParams params;
  bool stream = false;
  bool include_usage = false;
  bool include_cost = false;
};

struct ChatCompletionRequest {
  OpenAiRequest common;
  std::vector<ChatTurn> messages;
};

struct CompletionRequest {
  OpenAiRequest common;
  std::variant<std::string, std::vector<int32_t>> prompt;  // text or token ids
  bool echo = false;                                       // the answer begins with the prompt
};

absl::StatusOr<ChatCompletionRequest> ParseChatCompletion(std::string_view body);
absl::StatusOr<CompletionRequest> ParseCompletion(std::string_view body);
// The value of `messages`; also what /tokenize takes.
absl::StatusOr<std::vector<ChatTurn>> ParseMessages(const Json& messages);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_HTTP_OPENAI_REQUEST_H_
