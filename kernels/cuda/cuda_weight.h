// A weight matrix [N, K] on the GPU: rows as they are stored, sixteen rows and a bit more than
// there are; inside a row every slice of K begins at a multiple of kProductStep elements and is
// filled up with zeros. With K a multiple of 512 (every real model) nothing is padded, and the
// matrix is the plain row-major one that cuBLASLt reads too. Made and filled while loading,
// read-only afterwards.

#ifndef TESSERA_KERNELS_CUDA_CUDA_WEIGHT_H_
#define TESSERA_KERNELS_CUDA_CUDA_WEIGHT_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/cuda/gemm_kernels.h"
#include "kernels/ops.h"

namespace tessera::cuda {

// How the columns of a weight are cut and laid out; without memory. INVALID_ARGUMENT for a shape or
// dtype that has no layout.
struct WeightLayout {
  std::vector<ProductSlice> slices;  // 1, 2, 4 or 8
  int64_t packed_columns = 0;        // elements from row to row
  int64_t packed_rows = 0;

  static absl::StatusOr<WeightLayout> Of(const WeightShape& shape);
};

class CudaWeight final : public Weight {
 public:
  CudaWeight(const WeightShape& shape, WeightLayout layout, Buffer storage)
      : shape_(shape), layout_(std::move(layout)), storage_(std::move(storage)) {}

  int64_t rows() const override { return shape_.rows; }
  int64_t columns() const override { return shape_.columns; }
  DType dtype() const override { return shape_.dtype; }
  size_t bytes() const override { return storage_.bytes(); }

  bool row_parallel() const { return shape_.column_total > 0; }
  const WeightLayout& layout() const { return layout_; }
  void* data() const { return storage_.data(); }
  WeightForm form() const;
  // Of a float8 weight: [segments][packed_rows] float32 behind the rows; see WeightShape.
  int64_t scale_segments() const {
    if (shape_.dtype != DType::kFloat8E4M3) return 0;
    return row_parallel() ? static_cast<int64_t>(layout_.slices.size()) : 1;
  }
  int64_t scale_offset() const { return ScaleOffset(layout_); }  // bytes
  static int64_t ScaleOffset(const WeightLayout& layout) {
    return (layout.packed_rows * layout.packed_columns + 255) / 256 * 256;
  }
  // All of the memory of such a weight.
  static size_t BytesOf(const WeightShape& shape, const WeightLayout& layout);

  size_t row_bytes() const {
    return static_cast<size_t>(layout_.packed_columns) * DTypeSize(shape_.dtype);
  }

  // Sets what a product is told of its weight: memory, strides and slices.
  void Describe(ProductArguments& arguments) const;

  // Rows [0, source rows) of `source` (host) as they lie in this weight, `to` holding row_bytes()
  // for each.
  void PackTo(void* to, TensorView source) const;
  // Of a float8 weight, the same: `to` holds the packed rows, `scales` [segments][source rows].
  void QuantizeTo(uint8_t* to, float* scales, TensorView source) const;

 private:
  const WeightShape shape_;
  const WeightLayout layout_;
  const Buffer storage_;
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_CUDA_WEIGHT_H_
