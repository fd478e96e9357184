// Finds the templates of a model folder and passes conversations to the Rust text library. Runs on
// the loading thread (Load, Parse) and on I/O threads (Render, Encode).
#include "coordinator/text/chat_template.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/text/ffi.h"
#include "coordinator/text/model_files.h"
#include "coordinator/text/tokenizer_settings.h"

namespace tessera::text {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kDefaultName[] = "default";
constexpr char kToolUseName[] = "tool_use";

struct Source {
  std::string name;
  std::string text;
};

absl::StatusOr<std::vector<Source>> SourcesFromConfig(const std::filesystem::path& path) {
  TESSERA_ASSIGN_OR_RETURN(const Json config, ReadConfig(path));
  std::vector<Source> sources;
  if (!config.contains("chat_template") || config["chat_template"].is_null()) return sources;
  const Json& value = config["chat_template"];
  if (value.is_string()) {
    sources.push_back({kDefaultName, value.get<std::string>()});
    return sources;
  }
  const absl::Status malformed = absl::DataLossError(absl::StrCat(
      path.string(), ": chat_template is neither a string nor a list of {name, template}"));
  if (!value.is_array()) return malformed;
  for (const Json& entry : value) {
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() ||
        !entry.contains("template") || !entry["template"].is_string()) {
      return malformed;
    }
    sources.push_back({entry["name"].get<std::string>(), entry["template"].get<std::string>()});
  }
  return sources;
}

// chat_template.jinja and additional_chat_templates/*.jinja.
absl::StatusOr<std::vector<Source>> SourcesFromFiles(const std::filesystem::path& model_dir,
                                                     const ChatTemplateLimits& limits) {
  std::vector<Source> sources;
  absl::StatusOr<std::string> text =
      ReadModelFile(model_dir / "chat_template.jinja", limits.template_bytes);
  if (text.ok()) {
    sources.push_back({kDefaultName, *std::move(text)});
  } else if (!absl::IsNotFound(text.status())) {
    return text.status();
  }
  std::error_code error;
  std::filesystem::directory_iterator more(model_dir / "additional_chat_templates", error);
  for (; !error && more != std::filesystem::directory_iterator(); more.increment(error)) {
    if (more->path().extension() != ".jinja") continue;
    TESSERA_ASSIGN_OR_RETURN(std::string extra, ReadModelFile(more->path(), limits.template_bytes));
    sources.push_back({more->path().stem().string(), std::move(extra)});
  }
  return sources;
}

// Files go before tokenizer_config.json. The last resort is where the reference keeps the template
// of models that also take images.
absl::StatusOr<std::vector<Source>> FindSources(const std::filesystem::path& model_dir,
                                                const ChatTemplateLimits& limits) {
  TESSERA_ASSIGN_OR_RETURN(std::vector<Source> sources, SourcesFromFiles(model_dir, limits));
  for (const char* config : {"tokenizer_config.json", "chat_template.json"}) {
    if (!sources.empty()) break;
    TESSERA_ASSIGN_OR_RETURN(sources, SourcesFromConfig(model_dir / config));
  }
  return sources;
}

}  // namespace

void ChatTemplate::Deleter::operator()(tt_template* chat_template) const {
  tt_template_free(chat_template);
}

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::Load(
    const std::filesystem::path& model_dir, std::shared_ptr<const Tokenizer> tokenizer,
    const std::filesystem::path& other_file, const ChatTemplateLimits& limits) {
  TESSERA_ASSIGN_OR_RETURN(const TokenizerSettings settings, ReadTokenizerSettings(model_dir));
  std::vector<Source> sources;
  if (other_file.empty()) {
    TESSERA_ASSIGN_OR_RETURN(sources, FindSources(model_dir, limits));
  } else {
    absl::StatusOr<std::string> text = ReadModelFile(other_file, limits.template_bytes);
    // Asked for by name, so that it must be there.
    if (absl::IsNotFound(text.status())) {
      return absl::InvalidArgumentError(text.status().message());
    }
    TESSERA_RETURN_IF_ERROR(text.status());
    sources.push_back({kDefaultName, *std::move(text)});
  }
  if (sources.empty()) {
    return absl::NotFoundError(
        absl::StrCat(model_dir.string(),
                     ": no chat template. Add a chat_template.jinja, or use the completions "
                     "endpoint, which takes plain text."));
  }
  if (sources.size() > kTemplateCountMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(model_dir.string(), ": more than ", kTemplateCountMax, " chat templates"));
  }
  std::shared_ptr<ChatTemplate> result(new ChatTemplate(std::move(tokenizer)));
  const std::string special_tokens_json =
      settings.special_tokens.dump(-1, ' ', false, Json::error_handler_t::replace);
  for (const Source& source : sources) {
    const absl::Status added = result->Add(source.name, source.text, special_tokens_json, limits);
    if (!added.ok()) {
      return absl::Status(added.code(), absl::StrCat(model_dir.string(), ": template '",
                                                     source.name, "': ", added.message()));
    }
  }
  return result;
}

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::Parse(
    std::string_view source, std::string_view special_tokens_json,
    std::shared_ptr<const Tokenizer> tokenizer, const ChatTemplateLimits& limits) {
  std::shared_ptr<ChatTemplate> result(new ChatTemplate(std::move(tokenizer)));
  TESSERA_RETURN_IF_ERROR(result->Add(kDefaultName, source, special_tokens_json, limits));
  return result;
}

absl::Status ChatTemplate::Add(const std::string& name, std::string_view source,
                               std::string_view special_tokens_json,
                               const ChatTemplateLimits& limits) {
  const tt_template_limits raw_limits = {limits.template_bytes, limits.fuel, limits.output_bytes};
  tt_template* handle = nullptr;
  OwnedBytes error;
  TESSERA_RETURN_IF_ERROR(
      ToStatus(tt_template_new(source.data(), source.size(), special_tokens_json.data(),
                               special_tokens_json.size(), &raw_limits, &handle, error.out()),
               error));
  templates_[name] = Handle(handle);
  return absl::OkStatus();
}

absl::StatusOr<const tt_template*> ChatTemplate::Choose(bool has_tools) const {
  auto found = templates_.end();
  if (has_tools) found = templates_.find(kToolUseName);
  if (found == templates_.end()) found = templates_.find(kDefaultName);
  if (found == templates_.end()) {
    return absl::FailedPreconditionError(
        "the model has several chat templates, but none is named 'default'");
  }
  return found->second.get();
}

bool ChatTemplate::has_default() const { return templates_.contains(kDefaultName); }

absl::StatusOr<RenderedPrompt> ChatTemplate::Render(std::string_view input_json,
                                                    absl::Time now) const {
  bool has_tools = false;
  if (templates_.contains(kToolUseName)) {
    const Json input = Json::parse(input_json, nullptr, /*allow_exceptions=*/false);
    has_tools = input.is_object() && input.contains("tools") && !input["tools"].is_null();
  }
  TESSERA_ASSIGN_OR_RETURN(const tt_template* chosen, Choose(has_tools));
  OwnedBytes text;
  OwnedIds literal;
  OwnedBytes error;
  TESSERA_RETURN_IF_ERROR(
      ToStatus(tt_template_render(chosen, tokenizer_->handle_, input_json.data(), input_json.size(),
                                  absl::ToUnixSeconds(now), text.out(), literal.out(), error.out()),
               error));
  return RenderedPrompt{text.str(), literal.vector<uint32_t>()};
}

absl::StatusOr<std::vector<int32_t>> ChatTemplate::Encode(std::string_view input_json,
                                                          absl::Time now) const {
  TESSERA_ASSIGN_OR_RETURN(const RenderedPrompt prompt, Render(input_json, now));
  return tokenizer_->Encode(
      prompt.text, {.add_special_tokens = false, .parse_special = true, .literal = prompt.literal});
}

}  // namespace tessera::text
