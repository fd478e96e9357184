// See the header.

#include "coordinator/model_setup.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "coordinator/text/chat_template.h"
#include "coordinator/text/tokenizer.h"
#include "models/checkpoint.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

constexpr int64_t kBlockSize = 16;  // tokens
constexpr uint64_t kKvBytesDefault = uint64_t{1} << 30;

struct NamedDirectory {
  std::string name;
  std::filesystem::path directory;
};

NamedDirectory ParseModelFlag(const std::string& flag) {
  const size_t equals = flag.find('=');
  NamedDirectory named;
  named.directory =
      std::filesystem::absolute(equals == std::string::npos ? flag : flag.substr(equals + 1))
          .lexically_normal();
  if (!named.directory.has_filename()) named.directory = named.directory.parent_path();
  named.name =
      equals == std::string::npos ? named.directory.filename().string() : flag.substr(0, equals);
  return named;
}

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

absl::Status OpenModel(const CoordinatorOptions& options, const NamedDirectory& named,
                       ModelSetup& setup) {
  const std::string directory = named.directory.string();
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                           Checkpoint::Open(directory));
  ServedModel served;
  served.index = static_cast<uint32_t>(setup.served.size());
  served.name = named.name;
  served.directory = directory;
  TESSERA_ASSIGN_OR_RETURN(served.spec, ParseModelSpec(checkpoint->config_json()));
  TESSERA_ASSIGN_OR_RETURN(
      served.defaults,
      ParseGenerationDefaults(checkpoint->config_json(), checkpoint->generation_config_json()));
  TESSERA_ASSIGN_OR_RETURN(served.sampling,
                           ParseSamplingDefaults(checkpoint->generation_config_json()));
  TESSERA_RETURN_IF_ERROR(CheckTensorParallel(served.spec, options.tp));
  TESSERA_RETURN_IF_ERROR(CheckTensors(served.spec, *checkpoint));

  TESSERA_ASSIGN_OR_RETURN(served.tokenizer, text::Tokenizer::Load(named.directory));
  if (served.tokenizer->id_end() > served.spec.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer.json has token id ", served.tokenizer->id_end() - 1,
                     ", beyond config.json's vocab_size ", served.spec.vocab_size));
  }
  absl::StatusOr<std::shared_ptr<const text::ChatTemplate>> chat_template =
      text::ChatTemplate::Load(named.directory, served.tokenizer);
  if (chat_template.ok()) {
    served.chat_template = *std::move(chat_template);
  } else if (!absl::IsNotFound(chat_template.status())) {
    return chat_template.status();  // a model without a template is fine, a damaged one is not
  }

  ModelTarget target;
  target.name = named.name;
  target.dir_name = named.directory.filename().string();
  target.manifest_digest = checkpoint->digest();
  target.spec = served.spec;
  target.memory_max = options.memory_bytes;
  MemoryRequest& memory = target.memory;
  memory.tp = options.tp;
  memory.dtype = ChooseDType(options.dtype, served.spec.checkpoint_dtype);
  memory.kv_dtype = memory.dtype;
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

  // Cached keys and values are those of these weights, computed and kept in these types.
  setup.scheduled.push_back(
      {.context_max = served.context_max,
       .kv_groups = served.spec.kv_groups,
       .cache_salt = absl::StrCat(target.manifest_digest, "\n", DTypeName(memory.dtype), "\n",
                                  DTypeName(memory.kv_dtype))});
  setup.targets.push_back(std::move(target));
  setup.served.push_back(std::move(served));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelSetup> OpenModels(const CoordinatorOptions& options) {
  ModelSetup setup;
  std::set<std::string> names;
  for (const std::string& flag : options.models) {
    const NamedDirectory named = ParseModelFlag(flag);
    if (!names.insert(named.name).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "two models are named ", named.name, "; give one another name with --model NAME=DIR"));
    }
    const absl::Status status = OpenModel(options, named, setup);
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat("model ", named.directory.string(), ": ", status.message()));
    }
  }
  return setup;
}

}  // namespace tessera
