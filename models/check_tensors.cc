// CheckTensors of weight_spec.h: a checkpoint against the tensor table of its model.

#include <set>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "models/checkpoint.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// OK if float8 weights have their scales.
absl::Status CheckScales(const ModelSpec& spec, const Checkpoint& checkpoint,
                         const WeightSpec& weight, const std::string& path) {
  const std::vector<int64_t> stored = weight.StoredShape();
  if (spec.float8.rows == 0 || stored.size() != 2) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": tensor '", weight.name, "' is float8_e4m3; ",
        spec.float8.rows == 0 ? "config.json says of no block scales" : "only matrices may be"));
  }
  const std::vector<int64_t> wanted = {(stored[0] + spec.float8.rows - 1) / spec.float8.rows,
                                       (stored[1] + spec.float8.columns - 1) / spec.float8.columns};
  const auto scale = checkpoint.tensors().find(weight.ScaleName());
  if (scale == checkpoint.tensors().end()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " lacks tensor '", weight.ScaleName(),
                                                   "' of shape ", ShapeText(wanted),
                                                   ", the scales of '", weight.name, "'"));
  }
  if (scale->second.entry.shape != wanted || scale->second.entry.dtype != DType::kFloat32) {
    return absl::InvalidArgumentError(
        absl::StrCat(scale->second.file->path(), ": tensor '", weight.ScaleName(), "' is ",
                     DTypeName(scale->second.entry.dtype), " of the shape ",
                     ShapeText(scale->second.entry.shape), "; '", weight.name,
                     "' asks for float32 of the shape ", ShapeText(wanted)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckTensors(const ModelSpec& spec, const Checkpoint& checkpoint) {
  const std::vector<WeightSpec> table = WeightTable(spec);
  std::vector<const WeightSpec*> missing;
  std::set<std::string> scaled;  // names of scales that have their place
  size_t found = 0;
  for (const WeightSpec& weight : table) {
    if (weight.stored_begin > 0) continue;  // its tensor was looked at already
    const auto it = checkpoint.tensors().find(weight.name);
    if (it == checkpoint.tensors().end()) {
      missing.push_back(&weight);
      continue;
    }
    ++found;
    const TensorEntry& entry = it->second.entry;
    if (entry.shape != weight.StoredShape()) {
      return absl::InvalidArgumentError(absl::StrCat(
          it->second.file->path(), ": tensor '", weight.name, "' has the shape ",
          ShapeText(entry.shape), "; config.json asks for ", ShapeText(weight.StoredShape())));
    }
    if (entry.dtype == DType::kFloat8E4M3) {
      TESSERA_RETURN_IF_ERROR(CheckScales(spec, checkpoint, weight, it->second.file->path()));
      scaled.insert(weight.ScaleName());
      continue;
    }
    if (entry.dtype != DType::kFloat32 && entry.dtype != DType::kBFloat16 &&
        entry.dtype != DType::kFloat16) {
      return absl::InvalidArgumentError(
          absl::StrCat(it->second.file->path(), ": tensor '", weight.name, "' is ",
                       DTypeName(entry.dtype), "; weights must be bfloat16, float16 or float32"));
    }
  }
  if (!missing.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(checkpoint.directory(), " lacks tensor '", missing.front()->name,
                     "' of shape ", ShapeText(missing.front()->StoredShape()),
                     missing.size() > 1 ? absl::StrCat(" and ", missing.size() - 1, " more") : "",
                     ", which config.json asks for"));
  }
  if (found + scaled.size() == checkpoint.tensors().size()) return absl::OkStatus();
  std::set<std::string_view> known;
  for (const WeightSpec& weight : table) known.insert(weight.name);
  for (const auto& [name, located] : checkpoint.tensors()) {
    if (known.count(name) != 0 || scaled.count(name) != 0 || IsIgnorableTensor(spec, name))
      continue;
    return absl::InvalidArgumentError(absl::StrCat(
        located.file->path(), ": tensor '", name, "' of shape ", ShapeText(located.entry.shape),
        " has no place in a ", spec.architecture, " with this config.json"));
  }
  return absl::OkStatus();
}

}  // namespace tessera
