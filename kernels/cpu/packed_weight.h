// A weight matrix [N, K] as the product wants it: panels of sixteen output columns, interleaved
// over k. Made and filled while loading, read-only afterwards; read by any thread of a pool.
//
// Layout: panel p holds outputs 16 p .. 16 p + 15, the last padded with zeros. float32: [K][16].
// float8: [K][16], and a scale for every row of every slice.
// bfloat16: [K / 2][16][2], two consecutive k side by side, so that one shift or mask widens them.
// A row-parallel weight is cut in the fixed slices of K; each begins on an even packed k, so it may
// hold a zero row.

#ifndef TESSERA_KERNELS_CPU_PACKED_WEIGHT_H_
#define TESSERA_KERNELS_CPU_PACKED_WEIGHT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ops.h"

namespace tessera::cpu {

class PackedWeight final : public Weight {
 public:
  // A run of k that is accumulated on its own.
  struct Slice {
    int64_t begin = 0;         // first column of this rank
    int64_t count = 0;         // columns
    int64_t packed_begin = 0;  // first packed k
  };

  // INVALID_ARGUMENT for a shape or dtype that cannot be packed, RESOURCE_EXHAUSTED without memory.
  static absl::StatusOr<std::unique_ptr<PackedWeight>> Create(const WeightShape& shape);

  int64_t rows() const override { return shape_.rows; }
  int64_t columns() const override { return shape_.columns; }
  DType dtype() const override { return shape_.dtype; }
  size_t bytes() const override { return storage_.bytes() + scales_.bytes(); }

  bool row_parallel() const { return shape_.column_total > 0; }
  // One slice if not row-parallel, else this rank's 1, 2, 4 or 8 (none of them left out when
  // empty).
  const std::vector<Slice>& slices() const { return slices_; }
  int64_t panels() const { return (shape_.rows + 15) / 16; }
  int64_t panel_elements() const { return packed_columns_ * 16; }
  // Panel `panel` from packed k `packed_k` on.
  const void* At(int64_t panel, int64_t packed_k) const;

  // Of a float8 weight: [panels * 16], what sums over this slice count.
  const float* Scales(const Slice& slice) const {
    return static_cast<const float*>(scales_.data()) + (&slice - slices_.data()) * panels() * 16;
  }

  // See Ops::PackRows.
  void Pack(int64_t row_begin, TensorView source);

 private:
  PackedWeight(const WeightShape& shape, std::vector<Slice> slices, int64_t packed_columns)
      : shape_(shape), slices_(std::move(slices)), packed_columns_(packed_columns) {}

  const WeightShape shape_;
  const std::vector<Slice> slices_;
  const int64_t packed_columns_;
  template <typename From>
  void PackFloat8Row(int64_t row, const From* from);

  Buffer storage_;
  Buffer scales_;  // [slices][panels * 16] float32, of a float8 weight
};

}  // namespace tessera::cpu

#endif  // TESSERA_KERNELS_CPU_PACKED_WEIGHT_H_
