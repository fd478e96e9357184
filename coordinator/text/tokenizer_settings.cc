// See the header. tokenizer_config.json goes first; special_tokens_map.json counts only for folders
// of the time before tokenizer_config.json listed the added tokens, and there it goes first.
#include "coordinator/text/tokenizer_settings.h"

#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/text/model_files.h"

namespace tessera::text {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kConfigFile[] = "tokenizer_config.json";
constexpr char kMapFile[] = "special_tokens_map.json";
constexpr char kListed[] = "added_tokens_decoder";
constexpr char kAdditional[] = "additional_special_tokens";
constexpr const char* kNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};

absl::Status Damaged(const std::filesystem::path& file, const std::string& key,
                     const std::string& wanted) {
  return absl::DataLossError(absl::StrCat(file.string(), ": \"", key, "\" must be ", wanted));
}

// Tokenizers whose class has special tokens where the files name none (null: not even then), or
// writes the begin and end token itself, whatever tokenizer.json says.
struct TokenizerClass {
  std::string_view name;
  bool writes;
  const char* bos;
  const char* eos;
  const char* unk;
  const char* pad;
};
constexpr TokenizerClass kClasses[] = {
    {"LlamaTokenizer", true, "<s>", "</s>", "<unk>", nullptr},
    {"GemmaTokenizer", true, "<bos>", "<eos>", "<unk>", "<pad>"},
    {"Qwen2Tokenizer", false, nullptr, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>"},
    {"GPT2Tokenizer", false, "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", nullptr},
};

// The class of a folder that does not name one.
constexpr std::pair<std::string_view, std::string_view> kClassOfType[] = {
    {"llama", "LlamaTokenizer"},       {"mistral", "LlamaTokenizer"},
    {"ministral", "LlamaTokenizer"},   {"mistral3", "LlamaTokenizer"},
    {"mixtral", "LlamaTokenizer"},     {"phi3", "LlamaTokenizer"},
    {"phimoe", "LlamaTokenizer"},      {"deepseek_v2", "LlamaTokenizer"},
    {"deepseek_v3", "LlamaTokenizer"}, {"gemma", "GemmaTokenizer"},
    {"gemma2", "GemmaTokenizer"},      {"gemma3", "GemmaTokenizer"},
    {"gemma3_text", "GemmaTokenizer"}, {"qwen2", "Qwen2Tokenizer"},
    {"qwen2_moe", "Qwen2Tokenizer"},   {"qwen3", "Qwen2Tokenizer"},
    {"qwen3_moe", "Qwen2Tokenizer"},
};

std::string TextAt(const Json& object, const char* key) {
  return object.contains(key) && object[key].is_string() ? object[key].get<std::string>() : "";
}

const TokenizerClass* ClassOf(const Json& tokenizer_config, const Json& model_config) {
  std::string name = TextAt(tokenizer_config, "tokenizer_class");
  if (name.empty()) name = TextAt(model_config, "tokenizer_class");
  if (name.empty()) {
    const std::string type = TextAt(model_config, "model_type");
    for (const auto& [of_type, of_class] : kClassOfType) {
      if (type == of_type) name = of_class;
    }
  }
  std::string_view plain = name;
  if (plain.ends_with("Fast")) plain.remove_suffix(4);
  for (const TokenizerClass& one : kClasses) {
    if (plain == one.name) return &one;
  }
  return nullptr;
}

// A token is written as "<s>" or as {"content": "<s>", "lstrip": ..., ...}. Comes back as the
// latter, with all its switches.
absl::StatusOr<Json> FullToken(const Json& token, const std::filesystem::path& file,
                               const std::string& key, bool always_special) {
  const bool is_object = token.is_object() && token.contains("content");
  const Json& content = is_object ? token["content"] : token;
  if (!content.is_string()) return Damaged(file, key, "a token: a string, or {\"content\": ...}");
  Json full = {{"content", content}};
  for (const char* name : {"single_word", "lstrip", "rstrip", "special"}) {
    full[name] = false;
    if (!is_object || !token.contains(name)) continue;
    if (!token[name].is_boolean()) {
      return Damaged(file, absl::StrCat(key, ".", name), "true or false");
    }
    full[name] = token[name];
  }
  if (always_special) full["special"] = true;
  full["normalized"] = !full["special"].get<bool>();
  if (is_object && token.contains("normalized")) {
    if (!token["normalized"].is_boolean()) {
      return Damaged(file, absl::StrCat(key, ".normalized"), "true or false");
    }
    full["normalized"] = token["normalized"];
  }
  return full;
}

// added_tokens_decoder, by id as the reference goes through it.
absl::StatusOr<std::vector<Json>> ListedTokens(const Json& config,
                                               const std::filesystem::path& file) {
  std::vector<Json> tokens;
  if (!config.contains(kListed)) return tokens;
  const Json& listed = config[kListed];
  if (!listed.is_object() || listed.size() > kAddedTokensMax) {
    return Damaged(file, kListed,
                   absl::StrCat("an object of at most ", kAddedTokensMax, " tokens by their ids"));
  }
  std::map<uint32_t, Json> by_id;
  for (const auto& [id_text, token] : listed.items()) {
    const std::string key = absl::StrCat(kListed, ".", id_text);
    uint32_t id = 0;
    if (!absl::SimpleAtoi(id_text, &id)) return Damaged(file, key, "under a token id");
    if (!token.is_object()) return Damaged(file, key, "a token: {\"content\": ...}");
    TESSERA_ASSIGN_OR_RETURN(by_id[id], FullToken(token, file, key, false));
  }
  for (auto& [id, token] : by_id) tokens.push_back(std::move(token));
  return tokens;
}

// The special tokens of one file, with their switches: {"bos_token": {...}, ...}. Null stands for
// "none".
absl::Status AddNamed(const Json& source, const std::filesystem::path& file, Json& named) {
  for (const char* name : kNames) {
    if (!source.contains(name)) continue;
    if (source[name].is_null()) {
      named[name] = nullptr;
      continue;
    }
    TESSERA_ASSIGN_OR_RETURN(named[name], FullToken(source[name], file, name, true));
  }
  if (!source.contains(kAdditional) || source[kAdditional].is_null()) return absl::OkStatus();
  const Json& additional = source[kAdditional];
  if (!additional.is_array() || additional.size() > kAddedTokensMax) {
    return Damaged(file, kAdditional, "a list of tokens");
  }
  Json& list = named[kAdditional];
  if (!list.is_array()) list = Json::array();
  for (const Json& token : additional) {
    TESSERA_ASSIGN_OR_RETURN(Json full, FullToken(token, file, kAdditional, true));
    list.push_back(std::move(full));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> Switch(const Json& config, const char* key, bool otherwise,
                            const std::filesystem::path& file) {
  if (!config.contains(key) || config[key].is_null()) return otherwise;
  if (!config[key].is_boolean()) return Damaged(file, key, "true or false");
  return config[key].get<bool>();
}

// The begin and end token that the class writes: {"bos": "<s>" or null, "eos": ...}.
absl::StatusOr<Json> WrittenTokens(const Json& config, const std::filesystem::path& file,
                                   const Json& special_tokens) {
  Json written = Json::object();
  for (const auto& [key, name, otherwise] :
       {std::tuple("bos", "bos_token", true), std::tuple("eos", "eos_token", false)}) {
    const std::string add = absl::StrCat("add_", name);
    TESSERA_ASSIGN_OR_RETURN(const bool wanted, Switch(config, add.c_str(), otherwise, file));
    written[key] = nullptr;
    if (!wanted) continue;
    if (!special_tokens.contains(name)) {
      return absl::DataLossError(
          absl::StrCat(file.string(), ": \"", add, "\" is on, and there is no \"", name, "\""));
    }
    written[key] = special_tokens[name];
  }
  return written;
}

}  // namespace

absl::StatusOr<TokenizerSettings> ReadTokenizerSettings(const std::filesystem::path& model_dir) {
  const std::filesystem::path file = model_dir / kConfigFile;
  TESSERA_ASSIGN_OR_RETURN(const Json config, ReadConfig(file));
  TESSERA_ASSIGN_OR_RETURN(const Json map, ReadConfig(model_dir / kMapFile));
  TESSERA_ASSIGN_OR_RETURN(const Json model_config, ReadConfig(model_dir / "config.json"));
  const TokenizerClass* of = ClassOf(config, model_config);

  TESSERA_ASSIGN_OR_RETURN(const std::vector<Json> listed, ListedTokens(config, file));
  Json named = Json::object();
  if (of != nullptr) {
    for (const auto& [name, text] :
         {std::pair("bos_token", of->bos), std::pair("eos_token", of->eos),
          std::pair("unk_token", of->unk), std::pair("pad_token", of->pad)}) {
      if (text == nullptr) continue;
      TESSERA_ASSIGN_OR_RETURN(named[name], FullToken(Json(text), file, name, true));
    }
  }
  TESSERA_RETURN_IF_ERROR(AddNamed(config, file, named));
  if (!config.contains(kListed)) {
    TESSERA_RETURN_IF_ERROR(AddNamed(map, model_dir / kMapFile, named));
  }

  TokenizerSettings settings;
  settings.special_tokens = Json::object();
  Json special = Json::array();
  for (const auto& [name, token] : named.items()) {
    if (token.is_null()) continue;
    if (!token.is_array()) {
      settings.special_tokens[name] = token["content"];
      special.push_back(token);
      continue;
    }
    Json texts = Json::array();
    for (const Json& one : token) {
      texts.push_back(one["content"]);
      special.push_back(one);
    }
    settings.special_tokens[name] = std::move(texts);
  }
  settings.changes = {{"listed", listed}, {"special", special}, {"written", nullptr}};
  if (of != nullptr && of->writes) {
    TESSERA_ASSIGN_OR_RETURN(settings.changes["written"],
                             WrittenTokens(config, file, settings.special_tokens));
  }
  // The one class with an opinion leaves it open.
  settings.changes["add_prefix_space"] = nullptr;
  if (of == nullptr || of->name != "LlamaTokenizer") {
    TESSERA_ASSIGN_OR_RETURN(settings.changes["add_prefix_space"],
                             Switch(config, "add_prefix_space", false, file));
  }
  return settings;
}

}  // namespace tessera::text
