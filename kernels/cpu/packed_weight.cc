// See packed_weight.h.

#include "kernels/cpu/packed_weight.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/float8.h"
#include "kernels/cpu/memory.h"

namespace tessera::cpu {
namespace {

constexpr int64_t kDimensionMax = int64_t{1} << 31;

float Read(float x) { return x; }
float Read(BFloat16 x) { return ToFloat(x); }
float Read(uint16_t float16) { return Float16ToFloat(float16); }

template <typename To, typename From>
To Convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (std::is_same_v<To, float>) {
    return Read(x);
  } else {
    return ToBFloat16(Read(x));
  }
}

// Rows source[0 .. n) become columns column .. column + n of one panel, which is at its
// slice's start.
template <typename To, typename From>
void PackPanelRows(To* panel, int64_t column, int64_t count, const From* source, int64_t n,
                   int64_t stride) {
  if constexpr (std::is_same_v<To, float>) {
    for (int64_t k = 0; k < count; ++k) {
      float* line = panel + k * 16 + column;
      for (int64_t r = 0; r < n; ++r) line[r] = Convert<float>(source[r * stride + k]);
    }
  } else {
    for (int64_t k = 0; k + 2 <= count; k += 2) {
      To* line = panel + k * 16 + column * 2;
      for (int64_t r = 0; r < n; ++r) {
        line[r * 2] = Convert<To>(source[r * stride + k]);
        line[r * 2 + 1] = Convert<To>(source[r * stride + k + 1]);
      }
    }
    if (count % 2 == 1) {
      To* line = panel + (count - 1) * 16 + column * 2;
      for (int64_t r = 0; r < n; ++r) line[r * 2] = Convert<To>(source[r * stride + count - 1]);
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<PackedWeight>> PackedWeight::Create(const WeightShape& shape) {
  const auto refuse = [&shape](const char* why) {
    return absl::InvalidArgumentError(
        absl::StrCat("weight [", shape.rows, ", ", shape.columns, "] ", DTypeName(shape.dtype),
                     ", columns from ", shape.column_begin, " of ", shape.column_total, ": ", why));
  };
  if (shape.rows < 1 || shape.rows > kDimensionMax || shape.columns < 1 ||
      shape.columns > kDimensionMax) {
    return refuse("rows and columns must lie in 1 .. 2^31");
  }
  if (shape.dtype != DType::kFloat32 && shape.dtype != DType::kBFloat16 &&
      shape.dtype != DType::kFloat8E4M3) {
    return refuse("CPU weights are float32, bfloat16 or float8");
  }
  std::vector<Slice> slices;
  int64_t packed = 0;
  const auto add = [&](int64_t begin, int64_t count) {
    slices.push_back({begin, count, packed});
    packed += (count + 1) / 2 * 2;
  };
  if (shape.column_total == 0) {
    add(0, shape.columns);
  } else {
    const int64_t end = shape.column_begin + shape.columns;
    if (shape.column_total < kReduceSlices) return refuse("fewer columns than slices");
    int first = -1;
    for (int s = 0; s < kReduceSlices; ++s) {
      const int64_t begin = SliceBegin(shape.column_total, s);
      const int64_t next = SliceBegin(shape.column_total, s + 1);
      if (begin >= shape.column_begin && next <= end) {
        if (first < 0) first = s;
        add(begin - shape.column_begin, next - begin);
      }
    }
    const int n = static_cast<int>(slices.size());
    const bool subtree = (n == 1 || n == 2 || n == 4 || n == 8) && first % n == 0 &&
                         slices.front().begin == 0 &&
                         slices.back().begin + slices.back().count == shape.columns;
    if (!subtree) return refuse("the columns are not 1, 2, 4 or 8 whole slices of eight");
  }
  auto weight = std::unique_ptr<PackedWeight>(new PackedWeight(shape, std::move(slices), packed));
  absl::StatusOr<Buffer> storage = AllocateZeroed(static_cast<size_t>(
      weight->panels() * weight->panel_elements() * static_cast<int64_t>(DTypeSize(shape.dtype))));
  if (!storage.ok()) return storage.status();
  weight->storage_ = *std::move(storage);
  if (shape.dtype == DType::kFloat8E4M3) {
    const int64_t scales = static_cast<int64_t>(weight->slices_.size()) * weight->panels() * 16;
    absl::StatusOr<Buffer> buffer = AllocateZeroed(static_cast<size_t>(scales) * sizeof(float));
    if (!buffer.ok()) return buffer.status();
    weight->scales_ = *std::move(buffer);
  }
  return weight;
}

const void* PackedWeight::At(int64_t panel, int64_t packed_k) const {
  const int64_t element = panel * panel_elements() + packed_k * 16;
  return static_cast<const char*>(storage_.data()) +
         element * static_cast<int64_t>(DTypeSize(shape_.dtype));
}

template <typename From>
void PackedWeight::PackFloat8Row(int64_t row, const From* from) {
  uint8_t* panel = static_cast<uint8_t*>(storage_.data()) + row / 16 * panel_elements() + row % 16;
  float* scales = static_cast<float*>(scales_.data()) + row;
  for (const Slice& slice : slices_) {
    float largest = 0.0f;
    for (int64_t k = 0; k < slice.count; ++k) {
      largest = std::max(largest, std::fabs(Read(from[slice.begin + k])));
    }
    const Float8Scale scale = Float8ScaleOf(largest);
    *scales = scale.scale;
    scales += panels() * 16;
    for (int64_t k = 0; k < slice.count; ++k) {
      panel[(slice.packed_begin + k) * 16] =
          ToFloat8E4M3(Read(from[slice.begin + k]) * scale.inverse);
    }
  }
}

void PackedWeight::Pack(int64_t row_begin, TensorView source) {
  TESSERA_CHECK(source.rank == 2 && source.dims[1] == shape_.columns && row_begin >= 0 &&
                row_begin + source.dims[0] <= shape_.rows)
      << "rows " << row_begin << "+" << source.dims[0] << " of " << shape_.rows << ", "
      << source.dims[1] << " columns of " << shape_.columns;
  const auto pack = [&](auto* to, const auto* from) {
    for (int64_t row = 0; row < source.dims[0];) {
      const int64_t column = (row_begin + row) % 16;
      const int64_t n = std::min(16 - column, source.dims[0] - row);
      for (const Slice& slice : slices_) {
        PackPanelRows(to + (row_begin + row) / 16 * panel_elements() + slice.packed_begin * 16,
                      column, slice.count, from + row * source.stride + slice.begin, n,
                      source.stride);
      }
      row += n;
    }
  };
  if (shape_.dtype == DType::kFloat8E4M3) {
    const auto quantize = [&](const auto* from) {
      for (int64_t row = 0; row < source.dims[0]; ++row) {
        PackFloat8Row(row_begin + row, from + row * source.stride);
      }
    };
    if (source.dtype == DType::kFloat32) return quantize(source.as<const float>());
    if (source.dtype == DType::kBFloat16) return quantize(source.as<const BFloat16>());
    TESSERA_CHECK(source.dtype == DType::kFloat16) << DTypeName(source.dtype) << " weights";
    return quantize(source.as<const uint16_t>());
  }
  const auto pack_from = [&](auto* to) {
    if (source.dtype == DType::kFloat32) return pack(to, source.as<const float>());
    if (source.dtype == DType::kBFloat16) return pack(to, source.as<const BFloat16>());
    TESSERA_CHECK(source.dtype == DType::kFloat16) << DTypeName(source.dtype) << " weights";
    pack(to, source.as<const uint16_t>());
  };
  if (shape_.dtype == DType::kFloat32) return pack_from(static_cast<float*>(storage_.data()));
  pack_from(static_cast<BFloat16*>(storage_.data()));
}

}  // namespace tessera::cpu
