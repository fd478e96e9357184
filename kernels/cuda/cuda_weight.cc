// See the header.

#include "kernels/cuda/cuda_weight.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/float8.h"

namespace tessera::cuda {
namespace {

constexpr int64_t kDimensionMax = int64_t{1} << 31;

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

float Read(float x) { return x; }
float Read(BFloat16 x) { return ToFloat(x); }
float Read(uint16_t float16) { return Float16ToFloat(float16); }

template <typename To, typename From>
void ConvertRun(To* to, const From* from, int64_t n) {
  if constexpr (std::is_same_v<To, From>) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(To));
  } else {
    for (int64_t i = 0; i < n; ++i) {
      if constexpr (std::is_same_v<To, float>) {
        to[i] = Read(from[i]);
      } else {
        to[i] = ToBFloat16(Read(from[i]));
      }
    }
  }
}

template <typename To, typename From>
void PackRowsOf(const WeightLayout& layout, To* to, const TensorView& source) {
  for (int64_t row = 0; row < source.dims[0]; ++row, to += layout.packed_columns) {
    const From* from = source.as<const From>() + row * source.stride;
    for (size_t s = 0; s < layout.slices.size(); ++s) {
      const ProductSlice& slice = layout.slices[s];
      ConvertRun(to + slice.packed_begin, from + slice.x_begin, slice.count);
      const int64_t next =
          s + 1 < layout.slices.size() ? layout.slices[s + 1].packed_begin : layout.packed_columns;
      const int64_t end = slice.packed_begin + slice.count;
      std::memset(to + end, 0, static_cast<size_t>(next - end) * sizeof(To));
    }
  }
}

}  // namespace

absl::StatusOr<WeightLayout> WeightLayout::Of(const WeightShape& shape) {
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
    return refuse("CUDA weights are float32, bfloat16 or float8");
  }
  WeightLayout layout;
  // One tile more: a product over the rows of one head may begin anywhere.
  layout.packed_rows = RoundUp(shape.rows, 16) + 16;
  const auto add = [&layout](int64_t begin, int64_t count) {
    layout.slices.push_back(
        {.packed_begin = layout.packed_columns, .x_begin = begin, .count = count});
    layout.packed_columns += RoundUp(count, kProductStep);
  };
  if (shape.column_total == 0) {
    // Nothing forces slices here; they give a product of few tokens eight warps to a tile.
    if (shape.columns % (kReduceSlices * kProductStep) != 0) {
      add(0, shape.columns);
    } else {
      const int64_t each = shape.columns / kReduceSlices;
      for (int s = 0; s < kReduceSlices; ++s) add(s * each, each);
    }
    return layout;
  }
  const int64_t end = shape.column_begin + shape.columns;
  if (shape.column_total < kReduceSlices) return refuse("fewer columns than slices");
  int first = -1;
  for (int s = 0; s < kReduceSlices; ++s) {
    const int64_t begin = SliceBegin(shape.column_total, s);
    const int64_t next = SliceBegin(shape.column_total, s + 1);
    if (begin < shape.column_begin || next > end) continue;
    if (first < 0) first = s;
    add(begin - shape.column_begin, next - begin);
  }
  const int n = static_cast<int>(layout.slices.size());
  const bool subtree = (n == 1 || n == 2 || n == 4 || n == 8) && first % n == 0 &&
                       layout.slices.front().x_begin == 0 &&
                       layout.slices.back().x_begin + layout.slices.back().count == shape.columns;
  if (!subtree) return refuse("the columns are not 1, 2, 4 or 8 whole slices of eight");
  return layout;
}

WeightForm CudaWeight::form() const {
  if (shape_.dtype == DType::kFloat32) return WeightForm::kFloat32;
  return shape_.dtype == DType::kBFloat16 ? WeightForm::kBFloat16 : WeightForm::kFloat8;
}

size_t CudaWeight::BytesOf(const WeightShape& shape, const WeightLayout& layout) {
  const size_t elements = static_cast<size_t>(layout.packed_rows * layout.packed_columns);
  if (shape.dtype != DType::kFloat8E4M3) return elements * DTypeSize(shape.dtype);
  const size_t segments = shape.column_total > 0 ? layout.slices.size() : 1;
  return static_cast<size_t>(ScaleOffset(layout)) +
         segments * static_cast<size_t>(layout.packed_rows) * sizeof(float);
}

void CudaWeight::Describe(ProductArguments& arguments) const {
  if (scale_segments() > 0) {
    arguments.scale_offset = scale_offset();
    arguments.scale_stride = layout_.packed_rows;
    arguments.slice_scales = row_parallel();
  }
  arguments.w = storage_.data();
  arguments.w_stride = layout_.packed_columns;
  arguments.slices = static_cast<int>(layout_.slices.size());
  for (int s = 0; s < arguments.slices; ++s) arguments.slice[s] = layout_.slices[s];
}

void CudaWeight::QuantizeTo(uint8_t* to, float* scales, TensorView source) const {
  const int64_t rows = source.dims[0];
  const auto quantize = [&](const auto* from) {
    for (int64_t row = 0; row < rows; ++row, from += source.stride) {
      uint8_t* packed = to + row * layout_.packed_columns;
      std::memset(packed, 0, static_cast<size_t>(layout_.packed_columns));
      Float8Scale scale;
      for (size_t s = 0; s < layout_.slices.size(); ++s) {
        const ProductSlice& slice = layout_.slices[s];
        if (row_parallel() || s == 0) {
          const int64_t count = row_parallel() ? slice.count : shape_.columns;
          float largest = 0.0f;
          for (int64_t k = 0; k < count; ++k) {
            largest = std::max(largest, std::fabs(Read(from[slice.x_begin + k])));
          }
          scale = Float8ScaleOf(largest);
          scales[static_cast<int64_t>(s) * rows + row] = scale.scale;
        }
        for (int64_t k = 0; k < slice.count; ++k) {
          packed[slice.packed_begin + k] =
              ToFloat8E4M3(Read(from[slice.x_begin + k]) * scale.inverse);
        }
      }
    }
  };
  if (source.dtype == DType::kFloat32) return quantize(source.as<const float>());
  if (source.dtype == DType::kBFloat16) return quantize(source.as<const BFloat16>());
  TESSERA_CHECK(source.dtype == DType::kFloat16) << DTypeName(source.dtype) << " weights";
  quantize(source.as<const uint16_t>());
}

void CudaWeight::PackTo(void* to, TensorView source) const {
  const auto pack = [&](auto* typed) {
    using To = std::remove_pointer_t<decltype(typed)>;
    if (source.dtype == DType::kFloat32) return PackRowsOf<To, float>(layout_, typed, source);
    if (source.dtype == DType::kBFloat16) return PackRowsOf<To, BFloat16>(layout_, typed, source);
    TESSERA_CHECK(source.dtype == DType::kFloat16) << DTypeName(source.dtype) << " weights";
    PackRowsOf<To, uint16_t>(layout_, typed, source);
  };
  if (shape_.dtype == DType::kFloat32) return pack(static_cast<float*>(to));
  pack(static_cast<BFloat16*>(to));
}

}  // namespace tessera::cuda
