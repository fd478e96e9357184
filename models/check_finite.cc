// CheckFinite of weight_spec.h: the numbers of a few small tensors, read where they lie in the
// file.

#include <cstring>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "models/checkpoint.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

// What every element of a token, or the choice of its experts, goes through.
bool IsDecisive(WeightSlot slot) {
  switch (slot) {
    case WeightSlot::kFinalNorm:
    case WeightSlot::kFinalNormBias:
    case WeightSlot::kInputNorm:
    case WeightSlot::kInputNormBias:
    case WeightSlot::kPostNorm:
    case WeightSlot::kPostNormBias:
    case WeightSlot::kQueryNorm:
    case WeightSlot::kKeyNorm:
    case WeightSlot::kAttentionOutNorm:
    case WeightSlot::kMlpOutNorm:
    case WeightSlot::kQueryDownNorm:
    case WeightSlot::kLatentNorm:
    case WeightSlot::kRouter:
    case WeightSlot::kRouterCorrection:
    case WeightSlot::kSharedSwitch:
      return true;
    default:
      return false;
  }
}

// The first element whose exponent is all ones, of numbers as wide as T.
template <typename T>
std::optional<uint64_t> FirstNotFinite(const uint8_t* data, uint64_t bytes, T exponent) {
  for (uint64_t at = 0; at + sizeof(T) <= bytes; at += sizeof(T)) {
    T bits = 0;
    std::memcpy(&bits, data + at, sizeof(T));  // a tensor may begin at any byte
    if ((bits & exponent) == exponent) return at / sizeof(T);
  }
  return std::nullopt;
}

absl::Status CheckTensorFinite(const Checkpoint::Located& located) {
  const TensorEntry& entry = located.entry;
  const uint8_t* data = located.file->data() + entry.begin;
  const uint64_t bytes = entry.end - entry.begin;
  std::optional<uint64_t> at;
  if (entry.dtype == DType::kFloat32) at = FirstNotFinite<uint32_t>(data, bytes, 0x7f800000u);
  if (entry.dtype == DType::kBFloat16) at = FirstNotFinite<uint16_t>(data, bytes, 0x7f80u);
  if (entry.dtype == DType::kFloat16) at = FirstNotFinite<uint16_t>(data, bytes, 0x7c00u);
  located.file->Release(entry.begin, entry.end);
  if (!at.has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(located.file->path(), ": tensor '", entry.name, "' holds no finite number at ",
                   *at, "; the file is damaged or its model never worked, fetch it again"));
}

}  // namespace

absl::Status CheckFinite(const ModelSpec& spec, const Checkpoint& checkpoint) {
  if (checkpoint.has_no_weights()) return absl::OkStatus();
  for (const WeightSpec& weight : WeightTable(spec)) {
    if (weight.stored_begin > 0) continue;  // its tensor was looked at already
    if (IsDecisive(weight.slot)) {
      TESSERA_RETURN_IF_ERROR(CheckTensorFinite(checkpoint.tensors().at(weight.name)));
    }
    const auto scale = checkpoint.tensors().find(weight.ScaleName());
    if (scale == checkpoint.tensors().end()) continue;
    TESSERA_RETURN_IF_ERROR(CheckTensorFinite(scale->second));
  }
  return absl::OkStatus();
}

}  // namespace tessera
