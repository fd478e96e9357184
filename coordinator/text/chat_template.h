// A conversation as the prompt that the model was trained on. Loaded once per model, immutable,
// shared by all I/O threads. The environment is the one of Hugging Face transformers. Strings of
// the conversation that look like control tokens stay text: Render says where, Encode obeys.
// Limits: ChatTemplateLimits.

#ifndef TESSERA_COORDINATOR_TEXT_CHAT_TEMPLATE_H_
#define TESSERA_COORDINATOR_TEXT_CHAT_TEMPLATE_H_

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/text/tokenizer.h"

struct tt_template;

namespace tessera::text {

inline constexpr uint64_t kTemplateBytesMax = 256 << 10;  // source of one template
inline constexpr uint64_t kTemplateFuelMax = 10'000'000;  // instructions of one rendering
inline constexpr uint64_t kTemplateCountMax = 32;         // named templates of one model

struct ChatTemplateLimits {
  uint64_t template_bytes = kTemplateBytesMax;
  uint64_t fuel = kTemplateFuelMax;
  uint64_t output_bytes = kEncodeBytesMax;  // of one rendered prompt
};

struct RenderedPrompt {
  std::string text;
  // Byte offsets in text, ascending, that came from the conversation and must not become part of a
  // control token.
  std::vector<uint32_t> literal;
};

class ChatTemplate {
 public:
  // chat_template.jinja (and additional_chat_templates/*.jinja), else chat_template in
  // tokenizer_config.json: a string, or a list of {name, template}; else chat_template.json.
  // NotFound when the model has none. `other_file`: a file that is taken in place of all these;
  // empty: none.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Load(
      const std::filesystem::path& model_dir, std::shared_ptr<const Tokenizer> tokenizer,
      const std::filesystem::path& other_file = {}, const ChatTemplateLimits& limits = {});

  // One template from its source. `special_tokens_json`: an object (bos_token, eos_token, ...),
  // trusted.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Parse(
      std::string_view source, std::string_view special_tokens_json,
      std::shared_ptr<const Tokenizer> tokenizer, const ChatTemplateLimits& limits = {});

  // `input_json`: an object of the template's variables: messages, tools, add_generation_prompt,
  // and whatever else the request passes. None of its strings is trusted. `now`: for strftime_now,
  // in UTC.
  absl::StatusOr<RenderedPrompt> Render(std::string_view input_json, absl::Time now) const;

  // False where several named ones leave open which is taken; then chats without tools are refused.
  bool has_default() const;

  // Render, then token ids.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view input_json, absl::Time now) const;

 private:
  struct Deleter {
    void operator()(tt_template* chat_template) const;
  };
  using Handle = std::unique_ptr<tt_template, Deleter>;

  explicit ChatTemplate(std::shared_ptr<const Tokenizer> tokenizer)
      : tokenizer_(std::move(tokenizer)) {}
  absl::Status Add(const std::string& name, std::string_view source,
                   std::string_view special_tokens_json, const ChatTemplateLimits& limits);
  absl::StatusOr<const tt_template*> Choose(bool has_tools) const;

  const std::shared_ptr<const Tokenizer> tokenizer_;
  std::map<std::string, Handle> templates_;  // by name; a single one is "default"
};

}  // namespace tessera::text

#endif  // TESSERA_COORDINATOR_TEXT_CHAT_TEMPLATE_H_
