// CheckTensors of weight_spec.h: a checkpoint against the tensor table of its model.

#include <set>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/checkpoint.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace

absl::Status CheckTensors(const ModelSpec& spec, const Checkpoint& checkpoint) {
  const std::vector<WeightSpec> table = WeightTable(spec);
  std::vector<const WeightSpec*> missing;
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
  if (found == checkpoint.tensors().size()) return absl::OkStatus();
  std::set<std::string_view> known;
  for (const WeightSpec& weight : table) known.insert(weight.name);
  for (const auto& [name, located] : checkpoint.tensors()) {
    if (known.count(name) != 0 || IsIgnorableTensor(spec, name)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        located.file->path(), ": tensor '", name, "' of shape ", ShapeText(located.entry.shape),
        " has no place in a ", spec.architecture, " with this config.json"));
  }
  return absl::OkStatus();
}

}  // namespace tessera
