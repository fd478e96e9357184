// From what a client sent (text, token ids, a conversation) to the token ids of a prompt that fits
// the model's context. Runs on I/O threads; costs what tokenizing costs.

#ifndef TESSERA_COORDINATOR_API_PROMPT_H_
#define TESSERA_COORDINATOR_API_PROMPT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/served_model.h"

namespace tessera::api {

inline constexpr size_t kMessagesMax = 4096;  // of one conversation
// Text longer than this many bytes per token of context is refused before it is tokenized.
inline constexpr int64_t kPromptBytesPerTokenMax = 256;

struct Prompt {
  std::vector<int32_t> ids;
  uint32_t num_shared_tokens = 0;  // CacheDomain::num_shared_tokens
};

struct ChatTurn {
  std::string role;  // system, developer (taken as system), user, assistant, tool
  std::string content;
};

// `param` names the source in errors ("prompt").
absl::StatusOr<std::vector<int32_t>> TokenizeText(const ServedModel& model, std::string_view text,
                                                  bool add_special_tokens,
                                                  const std::string& param);
absl::StatusOr<std::vector<int32_t>> PromptFromText(const ServedModel& model, std::string_view text,
                                                    const std::string& param);
absl::StatusOr<std::vector<int32_t>> PromptFromTokens(const ServedModel& model,
                                                      std::vector<int32_t> ids,
                                                      const std::string& param);
// The prompt of a conversation, ending where the assistant's next turn begins.
absl::StatusOr<std::vector<int32_t>> PromptFromChat(const ServedModel& model,
                                                    const std::vector<ChatTurn>& turns,
                                                    absl::Time now);
// How many of the first tokens of that prompt its leading system messages alone decide: what it has
// in common with the rendering of just these.
uint32_t CountSystemTokens(const ServedModel& model, const std::vector<ChatTurn>& turns,
                           const std::vector<int32_t>& prompt, absl::Time now);
// Token ids -> text. `skip_special`: control tokens add nothing, else they are written out.
absl::StatusOr<std::string> Detokenize(const ServedModel& model, const std::vector<int32_t>& ids,
                                       bool skip_special, const std::string& param);

}  // namespace tessera::api

#endif  // TESSERA_COORDINATOR_API_PROMPT_H_
