// The matrices that a forward pass writes into: made once, for the largest step, by the decoder and
// its blocks. They live as long as this object.

#ifndef TESSERA_WORKER_ACTIVATIONS_H_
#define TESSERA_WORKER_ACTIVATIONS_H_

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/status.h"
#include "kernels/ops.h"

namespace tessera {

class Activations {
 public:
  explicit Activations(Ops& ops) : ops_(ops) {}

  // RESOURCE_EXHAUSTED without memory.
  absl::Status Make(TensorView& view, int64_t rows, int64_t columns, DType dtype) {
    // A shard of the vocabulary may be empty; its view still has an address.
    const size_t bytes = std::max<int64_t>(rows * columns, 1) * DTypeSize(dtype);
    TESSERA_ASSIGN_OR_RETURN(Buffer buffer, ops_.Allocate(bytes));
    view = buffer.View(dtype, {rows, columns});
    bytes_ += buffer.bytes();
    buffers_.push_back(std::move(buffer));
    return absl::OkStatus();
  }

  uint64_t bytes() const { return bytes_; }

 private:
  Ops& ops_;
  std::vector<Buffer> buffers_;
  uint64_t bytes_ = 0;
};

}  // namespace tessera

#endif  // TESSERA_WORKER_ACTIVATIONS_H_
