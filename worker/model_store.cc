// The checks run from cheap to dear: names, digest, tensor table, memory; only then are bytes read.

#include "worker/model_store.h"

#include <filesystem>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "models/checkpoint.h"
#include "models/kv_pool_plan.h"
#include "models/model_directory.h"
#include "models/weight_spec.h"
#include "worker/probe.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using cluster::v1::Assign;

// Everything the bytes of a shard depend on.
std::string KeyOf(const Assign& assign) {
  return absl::StrCat(assign.manifest_digest(), "/", assign.rank(), "/", assign.tp(), "/",
                      assign.dtype(), "/", assign.quantize());
}

std::string Gibibytes(uint64_t bytes) {
  return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (1 << 30));
}

absl::Status CheckDigest(const Checkpoint& checkpoint, const Assign& assign) {
  if (checkpoint.digest() == assign.manifest_digest()) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "the model in ", checkpoint.directory(), " is not the coordinator's '", assign.model_name(),
      "': its digest is ", checkpoint.digest(), ", the coordinator's is ", assign.manifest_digest(),
      "; copy the same files to both, or point --model-root at them"));
}

absl::Status CheckMemory(const ModelSpec& spec, const Assign& assign, DType dtype, DType kv_dtype) {
  const AssignmentBytes needed = BytesOf(spec, assign, dtype, kv_dtype);
  const uint64_t usable = ProbeMemory().UsableNow();
  if (needed.weights + needed.kv <= usable) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "rank ", assign.rank(), " of ", assign.tp(), " needs ", Gibibytes(needed.weights),
      " for weights and ", Gibibytes(needed.kv), " for the KV cache; ", Gibibytes(usable),
      " are free here; use a larger tp, a smaller KV cache or a machine with more memory"));
}

}  // namespace

AssignmentBytes BytesOf(const ModelSpec& spec, const Assign& assign, DType dtype, DType kv_dtype) {
  const int rank = static_cast<int>(assign.rank());
  const int tp = static_cast<int>(assign.tp());
  AssignmentBytes bytes;
  for (const WeightSpec& weight : WeightTable(spec)) {
    const Shard shard = ShardOf(weight, spec, rank, tp);
    const bool twice = weight.slot == WeightSlot::kEmbedding && spec.tied_head;
    const bool float8 = assign.quantize() == kFloat8Weights && MayBeFloat8(weight, spec);
    const DType resident = float8 ? DType::kFloat8E4M3 : weight.ResidentDType(dtype);
    bytes.weights += shard.rows_padded * shard.column_count * DTypeSize(resident) * (twice ? 2 : 1);
  }
  const MemoryRequest request = {.tp = tp, .dtype = dtype, .kv_dtype = kv_dtype};
  for (size_t group = 0; group < spec.kv_groups.size(); ++group) {
    bytes.kv += uint64_t{assign.num_blocks(static_cast<int>(group))} * assign.block_size() *
                KvBytesPerToken(spec.kv_groups[group], request);
  }
  return bytes;
}

absl::StatusOr<DType> ParseComputeDType(const std::string& field, const std::string& name) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    if (name == DTypeName(dtype)) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("Assign.", field, " is '", name,
                                                 "'; this worker computes in float32 or bfloat16"));
}

absl::StatusOr<std::unique_ptr<Checkpoint>> ModelStore::OpenModel(const Assign& assign) const {
  const std::string& dir_name = assign.model_dir_name();
  if (dir_name.empty() || dir_name == "." || dir_name == ".." || absl::StrContains(dir_name, '/') ||
      absl::StrContains(dir_name, '\0')) {
    return absl::InvalidArgumentError(
        absl::StrCat("Assign.model_dir_name is '", dir_name, "', not the name of a directory"));
  }
  absl::Status first_error = absl::OkStatus();
  for (const std::string& root : model_roots_) {
    for (const fs::path& directory : ModelCandidates(root, dir_name)) {
      absl::StatusOr<std::unique_ptr<Checkpoint>> checkpoint =
          assign.load_format() == kDummyWeights ? Checkpoint::WithoutWeights(directory.string())
                                                : Checkpoint::Open(directory.string());
      const absl::Status status =
          checkpoint.ok() ? CheckDigest(**checkpoint, assign) : checkpoint.status();
      if (status.ok()) return checkpoint;
      first_error.Update(status);
    }
  }
  if (!first_error.ok()) return first_error;
  return absl::NotFoundError(absl::StrCat(
      "no model '", dir_name, "' under --model-root ", absl::StrJoin(model_roots_, ", "),
      ": pass the directory that holds it, the model's own directory, or a Hugging Face cache as "
      "--model-root"));
}

absl::StatusOr<ModelStore::Result> ModelStore::Get(const Assign& assign, const ExecContext& ctx,
                                                   const LoadProgressFn& progress) {
  TESSERA_ASSIGN_OR_RETURN(const DType dtype, ParseComputeDType("dtype", assign.dtype()));
  TESSERA_ASSIGN_OR_RETURN(const DType kv_dtype, ParseComputeDType("kv_dtype", assign.kv_dtype()));
  if (held_ != nullptr && held_key_ == KeyOf(assign)) return Result{held_, true};
  // Two shards may not fit, so the old one goes first.
  held_.reset();
  held_key_.clear();

  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint, OpenModel(assign));
  auto model = std::make_shared<LoadedModel>();
  model->directory = checkpoint->directory();
  TESSERA_ASSIGN_OR_RETURN(model->spec, ParseModelSpec(checkpoint->config_json()));
  const int tp = static_cast<int>(assign.tp());
  TESSERA_RETURN_IF_ERROR(CheckTensorParallel(model->spec, tp));
  if (assign.num_blocks_size() != static_cast<int>(model->spec.kv_groups.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("Assign.num_blocks has ", assign.num_blocks_size(), " entries, the model has ",
                     model->spec.kv_groups.size(), " KvGroups"));
  }
  TESSERA_RETURN_IF_ERROR(CheckMemory(model->spec, assign, dtype, kv_dtype));
  const WeightsOptions options = {.rank = static_cast<int>(assign.rank()),
                                  .tp = tp,
                                  .dtype = dtype,
                                  .float8 = assign.quantize() == kFloat8Weights};
  TESSERA_ASSIGN_OR_RETURN(
      std::unique_ptr<Weights> weights,
      LoadWeights(ops_, ctx, model->spec, *checkpoint, options, clock_, progress));
  model->weights = std::move(weights);
  held_ = std::move(model);
  held_key_ = KeyOf(assign);
  return Result{held_, false};
}

}  // namespace tessera
