// See the header. A directory with config.json alone is enough for the plan; weights are checked if
// there.

#include "cli/inspect.h"

#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/checkpoint.h"
#include "models/describe.h"
#include "models/generation_defaults.h"
#include "models/memory_plan.h"
#include "models/model_directory.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

struct Gpu {
  const char* name;
  uint64_t memory_bytes;  // as the vendor's data sheet has it, decimal gigabytes
};

constexpr Gpu kGpus[] = {
    {"h200", 141'000'000'000},   {"h100", 80'000'000'000},    {"b200", 180'000'000'000},
    {"a100-80", 80'000'000'000}, {"a100-40", 40'000'000'000}, {"l40s", 48'000'000'000},
    {"l4", 24'000'000'000},      {"rtx4090", 24'000'000'000},
};

std::vector<std::string> GpuNames() {
  std::vector<std::string> names;
  for (const Gpu& gpu : kGpus) names.emplace_back(gpu.name);
  return names;
}

uint64_t GpuMemory(const std::string& name) {
  const Gpu* found = std::find_if(std::begin(kGpus), std::end(kGpus),
                                  [&name](const Gpu& gpu) { return gpu.name == name; });
  return found != std::end(kGpus) ? found->memory_bytes : kGpus[0].memory_bytes;
}

absl::StatusOr<std::string> ReadConfig(const std::string& directory) {
  const std::filesystem::path path = std::filesystem::path(directory) / "config.json";
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  if (error) {
    // Says what there is in its place.
    const absl::Status status = Checkpoint::Open(directory).status();
    return status.ok() ? absl::NotFoundError(path.string()) : status;
  }
  if (bytes > kConfigBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        path.string(), " has ", bytes, " bytes, at most ", kConfigBytesMax, " are read"));
  }
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

// Says what weights there are; an error when there are some and they do not fit the config.
absl::Status PrintWeights(const std::string& directory, const std::string& config,
                          const ModelSpec& spec) {
  const absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint = Checkpoint::Open(directory);
  if (absl::IsNotFound(checkpoint.status())) {
    std::cout << "weights        none here; the plan below is from config.json alone\n";
    return absl::OkStatus();
  }
  TESSERA_RETURN_IF_ERROR(checkpoint.status());
  TESSERA_RETURN_IF_ERROR(CheckTensors(spec, **checkpoint));
  std::cout << "weights        " << (*checkpoint)->tensors().size() << " tensors, "
            << FormatBytes((*checkpoint)->tensor_bytes())
            << ", all as the architecture needs them\n"
            << "digest         sha256:" << (*checkpoint)->digest() << "\n";
  TESSERA_ASSIGN_OR_RETURN(
      const GenerationDefaults defaults,
      ParseGenerationDefaults(config, (*checkpoint)->generation_config_json()));
  for (const std::string& warning : defaults.warnings)
    std::cout << "note           " << warning << "\n";
  return absl::OkStatus();
}

// False when it does not fit.
bool PrintPlan(const ModelSpec& spec, const InspectOptions& options, int tp, uint64_t budget) {
  MemoryRequest request;
  request.tp = tp;
  const bool full = options.dtype == "float32" ||
                    (options.dtype == "auto" && spec.checkpoint_dtype == DType::kFloat32);
  request.dtype = full ? DType::kFloat32 : DType::kBFloat16;
  request.kv_dtype = request.dtype;
  request.budget_bytes = budget;
  request.context_max = options.context_max;
  request.tokens_max = options.tokens_max;
  request.rows_max = options.rows_max;
  std::cout << "\ntp " << tp << ", " << FormatBytes(budget) << " per rank\n";
  absl::Status status = CheckTensorParallel(spec, tp);
  if (status.ok()) {
    const absl::StatusOr<MemoryPlan> plan = PlanMemory(spec, request);
    if (plan.ok()) {
      std::cout << DescribeMemoryPlan(spec, request, *plan);
      return true;
    }
    status = plan.status();
  }
  std::cout << "  does not fit: " << status.message() << "\n";
  return false;
}

absl::Status Inspect(const InspectOptions& options) {
  TESSERA_ASSIGN_OR_RETURN(
      const ModelDirectory found,
      FindModel(options.model, HubCache([](const char* name) { return getenv(name); })));
  const std::string directory = found.directory.string();
  TESSERA_ASSIGN_OR_RETURN(const std::string config, ReadConfig(directory));
  TESSERA_ASSIGN_OR_RETURN(const ModelSpec spec, ParseModelSpec(config));
  std::cout << "directory      " << directory << "\n" << DescribeModel(spec, LicenseOf(directory));
  TESSERA_RETURN_IF_ERROR(PrintWeights(directory, config, spec));

  uint64_t budget = options.memory_bytes;
  if (budget == 0) budget = GpuMemory(options.gpu);
  if (options.tp != 0) {
    if (PrintPlan(spec, options, options.tp, budget)) return absl::OkStatus();
    return absl::ResourceExhaustedError("the plan that was asked for does not fit");
  }
  for (int tp : {1, 2, 4, 8}) {
    if (CheckTensorParallel(spec, tp).ok()) PrintPlan(spec, options, tp, budget);
  }
  return absl::OkStatus();
}

}  // namespace

CLI::App* AddInspectCommand(CLI::App& app, InspectOptions& options) {
  CLI::App* command =
      app.add_subcommand("inspect", "Show a model's architecture, licence and memory plan");
  command
      ->add_option("model", options.model,
                   "Model directory (Hugging Face layout), or ORG/NAME[@REVISION] of one in the "
                   "Hugging Face cache")
      ->required();
  command->add_option("--tp", options.tp, "Ranks: 1, 2, 4 or 8 [all that divide]")
      ->check(CLI::IsMember({1, 2, 4, 8}));
  CLI::Option* gpu = command->add_option("--gpu", options.gpu, "Plan for this GPU's memory [h200]")
                         ->check(CLI::IsMember(GpuNames(), CLI::ignore_case));
  command->add_option("--memory", options.memory_bytes, "Memory of one rank, e.g. 16GiB")
      ->transform(CLI::AsSizeValue(false))
      ->excludes(gpu);
  command->add_option("--dtype", options.dtype, "auto, bfloat16 or float32 [auto: as stored]")
      ->check(CLI::IsMember({"auto", "bfloat16", "float32"}));
  command->add_option("--context-max", options.context_max, "Tokens of one sequence [the model's]")
      ->check(CLI::PositiveNumber);
  command->add_option("--tokens-max", options.tokens_max, "Tokens of one step [2048]")
      ->check(CLI::Range(16, 65536));
  command->add_option("--rows-max", options.rows_max, "Sequences of one step [256]")
      ->check(CLI::Range(1, 4096));
  return command;
}

int RunInspect(const InspectOptions& options) {
  const absl::Status status = Inspect(options);
  if (!status.ok()) std::cerr << "error: " << status.message() << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace tessera
