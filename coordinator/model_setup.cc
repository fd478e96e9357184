// See the header.

#include "coordinator/model_setup.h"

#include <spdlog/spdlog.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "coordinator/text/byte_tokenizer.h"
#include "coordinator/text/chat_template.h"
#include "coordinator/text/tokenizer.h"
#include "models/checkpoint.h"
#include "models/generation_defaults.h"
#include "models/model_directory.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

constexpr int64_t kBlockSize = 16;  // tokens
constexpr uint64_t kKvBytesDefault = uint64_t{1} << 30;
// Tokens that a tokenizer may have and the model may not: those of images in models of text alone.
constexpr int64_t kTokensBeyondMax = 256;

DType ChooseDType(const std::string& flag, DType checkpoint) {
  if (flag == "float32") return DType::kFloat32;
  if (flag == "bfloat16") return DType::kBFloat16;
  return checkpoint == DType::kFloat32 ? DType::kFloat32 : DType::kBFloat16;
}

// Enough for one whole context, and for many shorter ones.
absl::StatusOr<uint64_t> DefaultKvBytes(const ModelSpec& spec, MemoryRequest request) {
  request.budget_bytes = uint64_t{1} << 50;
  request.kv_bytes_max = 0;
  TESSERA_ASSIGN_OR_RETURN(const MemoryPlan plan, PlanMemory(spec, request));
  const uint64_t context = static_cast<uint64_t>(plan.context_max + kBlockSize);
  return std::max(kKvBytesDefault, context * plan.kv_bytes_per_token);
}

// The file that --chat-template [NAME=]FILE gives this model; empty: none.
std::filesystem::path OtherTemplate(const CoordinatorOptions& options, const std::string& name) {
  std::filesystem::path file;
  for (const std::string& flag : options.chat_templates) {
    const size_t equals = flag.find('=');
    if (equals == std::string::npos) {
      file = flag;
    } else if (flag.substr(0, equals) == name) {
      return flag.substr(equals + 1);
    }
  }
  return file;
}

// The model's own, or bytes as tokens where the weights are made up and there is none.
absl::StatusOr<std::shared_ptr<const text::Tokenizer>> OpenTokenizer(
    const ModelDirectory& named, const CoordinatorOptions& options) {
  if (options.load_format != "dummy" ||
      std::filesystem::exists(named.directory / "tokenizer.json")) {
    return text::Tokenizer::Load(named.directory);
  }
  spdlog::warn("model {}: no tokenizer.json; a token is a byte", named.name);
  return text::Tokenizer::Parse(text::ByteTokenizerJson(), "the byte tokenizer");
}

// Tokenizer, chat template, and the end tokens that only the tokenizer knows.
absl::Status OpenText(const ModelDirectory& named, const CoordinatorOptions& options,
                      ServedModel& served) {
  TESSERA_ASSIGN_OR_RETURN(served.tokenizer, OpenTokenizer(named, options));
  const text::Tokenizer& tokenizer = *served.tokenizer;
  if (const int64_t beyond = tokenizer.id_end() - served.spec.vocab_size; beyond > 0) {
    const std::string what =
        absl::StrCat("tokenizer.json has token id ", tokenizer.id_end() - 1,
                     ", beyond config.json's vocab_size ", served.spec.vocab_size);
    if (beyond > kTokensBeyondMax) return absl::InvalidArgumentError(what);
    spdlog::warn("model {}: {}; prompts with such tokens are refused", named.name, what);
  }
  absl::StatusOr<std::shared_ptr<const text::ChatTemplate>> chat_template =
      text::ChatTemplate::Load(named.directory, served.tokenizer,
                               OtherTemplate(options, named.name));
  if (chat_template.ok()) {
    served.chat_template = *std::move(chat_template);
    if (!served.chat_template->has_default()) {
      spdlog::warn(
          "model {}: it has several chat templates and none is named 'default'; chats are "
          "refused unless one fits, --chat-template names a file to take",
          named.name);
    }
  } else if (!absl::IsNotFound(chat_template.status())) {
    return chat_template.status();  // a model without a template is fine, a damaged one is not
  }
  GenerationDefaults& defaults = served.defaults;
  const auto is_beyond = [&](int32_t id) { return id >= served.spec.vocab_size; };
  if (std::erase_if(defaults.eos_token_ids, is_beyond) > 0) {
    defaults.warnings.push_back(
        "\"eos_token_id\" has ids beyond config.json's vocab_size; they are left out");
  }
  const std::optional<int32_t> eos = tokenizer.TokenToId(tokenizer.eos_token());
  if (defaults.eos_token_ids.empty() && eos.has_value() && *eos < served.spec.vocab_size) {
    defaults.eos_token_ids = {*eos};
    defaults.warnings.push_back(
        absl::StrCat("neither generation_config.json nor config.json has an \"eos_token_id\"; the "
                     "tokenizer's ",
                     tokenizer.eos_token(), " ends answers"));
  }
  for (const std::string& warning : defaults.warnings) {
    spdlog::warn("model {}: {}", named.name, warning);
  }
  return absl::OkStatus();
}

// How the ranks load and compute; and a word about what makes answers worthless.
void AskForMode(const CoordinatorOptions& options, const std::string& name, ModelTarget& target) {
  target.deterministic = options.deterministic;
  target.eager = options.eager;
  if (options.load_format == "dummy") {
    target.load_format = "dummy";
    spdlog::warn("model {}: weights are made up (--load-format dummy), answers are noise", name);
  }
  target.solo = options.comm == "solo";
  if (target.solo) {
    spdlog::warn("model {}: rank 0 of {} runs alone (--comm solo), answers are not the model's",
                 name, options.tp);
  }
}

absl::Status OpenModel(const CoordinatorOptions& options, const ModelDirectory& named,
                       ModelSetup& setup) {
  const std::string directory = named.directory.string();
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                           options.load_format == "dummy" ? Checkpoint::WithoutWeights(directory)
                                                          : Checkpoint::Open(directory));
  ServedModel served;
  served.index = static_cast<uint32_t>(setup.served.size());
  served.name = named.name;
  served.directory = directory;
  TESSERA_ASSIGN_OR_RETURN(served.spec, ParseModelSpec(checkpoint->config_json()));
  TESSERA_ASSIGN_OR_RETURN(
      served.defaults,
      ParseGenerationDefaults(checkpoint->config_json(), checkpoint->generation_config_json()));
  TESSERA_RETURN_IF_ERROR(CheckTensorParallel(served.spec, options.tp));
  TESSERA_RETURN_IF_ERROR(CheckTensors(served.spec, *checkpoint));

  TESSERA_RETURN_IF_ERROR(OpenText(named, options, served));

  ModelTarget target;
  target.name = named.name;
  target.dir_name = named.directory.filename().string();
  target.manifest_digest = checkpoint->digest();
  target.spec = served.spec;
  target.memory_max = options.memory_bytes;
  AskForMode(options, named.name, target);
  MemoryRequest& memory = target.memory;
  memory.tp = options.tp;
  memory.dtype = ChooseDType(options.dtype, served.spec.checkpoint_dtype);
  memory.kv_dtype = memory.dtype;
  memory.float8_weights = options.quantize == "fp8";
  memory.block_size = kBlockSize;
  memory.context_max = options.context_max;
  memory.tokens_max = options.tokens_max;
  memory.rows_max = options.rows_max;
  memory.chunk_max = options.chunk_max;
  memory.kv_bytes_max = options.kv_memory_bytes;
  if (memory.kv_bytes_max == 0) {
    TESSERA_ASSIGN_OR_RETURN(memory.kv_bytes_max, DefaultKvBytes(served.spec, memory));
  }

  served.context_max = options.context_max > 0 ? options.context_max : served.spec.context_max;
  if (served.context_max > served.spec.context_max) {
    return absl::InvalidArgumentError(absl::StrCat("--context-max ", served.context_max,
                                                   " is beyond the model's own limit of ",
                                                   served.spec.context_max, " tokens"));
  }
  served.tensor_parallel = options.tp;
  served.dtype = memory.dtype;
  served.license = LicenseOf(directory);
  spdlog::info("model {}: {} from {}, licence {}", served.name, served.spec.architecture, directory,
               served.license);

  // Cached keys and values are those of these weights, computed and kept in these types.
  setup.scheduled.push_back(
      {.context_max = served.context_max,
       .kv_groups = served.spec.kv_groups,
       .rope_switch = RopeSwitch(served.spec, served.context_max),
       .cache_salt = absl::StrCat(target.manifest_digest, "\n", DTypeName(memory.dtype), "\n",
                                  DTypeName(memory.kv_dtype), "\n", options.quantize)});
  setup.targets.push_back(std::move(target));
  setup.served.push_back(std::move(served));
  return absl::OkStatus();
}

// Every --chat-template must be for a model that is served.
absl::Status CheckTemplateFlags(const CoordinatorOptions& options,
                                const std::set<std::string>& names) {
  for (const std::string& flag : options.chat_templates) {
    const size_t equals = flag.find('=');
    if (equals == std::string::npos && names.size() == 1) continue;
    if (equals != std::string::npos && names.count(flag.substr(0, equals)) != 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--chat-template ", flag, " must say for which model: NAME=FILE with NAME of ",
                     absl::StrJoin(names, ", ")));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelSetup> OpenModels(const CoordinatorOptions& options) {
  ModelSetup setup;
  std::set<std::string> names;
  for (const std::string& flag : options.models) {
    TESSERA_ASSIGN_OR_RETURN(
        const ModelDirectory named,
        FindModel(flag, HubCache([](const char* name) { return getenv(name); })));
    if (!names.insert(named.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "two models are named ", named.name, "; give one another name with --model NAME=DIR"));
    }
    const absl::Status status = OpenModel(options, named, setup);
    if (status.ok()) continue;
    std::string message = absl::StrCat("model ", named.directory.string(), ": ", status.message());
    if (absl::IsNotFound(status) && !named.hub_name.empty()) {
      absl::StrAppend(&message, "; the download may be incomplete: `hf download ", named.hub_name,
                      " --revision ", named.revision, "` goes on with it");
    }
    return absl::Status(status.code(), message);
  }
  TESSERA_RETURN_IF_ERROR(CheckTemplateFlags(options, names));
  return setup;
}

}  // namespace tessera
