// Pinned host memory through which small things travel to and from a GPU. Two halves: while one is
// read by the copy engine the other is filled, so that loading weights overlaps with reading them,
// and what was handed in can be forgotten at once. Owned by a CudaOps, used on its thread.

#ifndef TESSERA_KERNELS_CUDA_STAGING_H_
#define TESSERA_KERNELS_CUDA_STAGING_H_

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera::cuda {

class Staging {
 public:
  static constexpr size_t kHalfBytes = size_t{4} << 20;

  static absl::StatusOr<std::unique_ptr<Staging>> Create();
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Queues `bytes` <= kHalfBytes to `device`; `fill` writes them and is called before this returns.
  cudaError_t Upload(void* device, size_t bytes, cudaStream_t stream,
                     const std::function<void(void*)>& fill);
  // The bytes of `host`, in pieces if need be.
  cudaError_t Upload(void* device, const void* host, size_t bytes, cudaStream_t stream);
  // Waits for the stream; `host` holds the bytes afterwards.
  cudaError_t Download(void* host, const void* device, size_t bytes, cudaStream_t stream);

 private:
  Staging() = default;
  cudaError_t Reserve(size_t bytes, cudaStream_t stream, char*& place);

  char* memory_ = nullptr;             // 2 * kHalfBytes
  char* down_ = nullptr;               // kHalfBytes
  std::array<cudaEvent_t, 2> read_{};  // the half's copies are over
  int half_ = 0;
  size_t used_ = 0;  // of the half
};

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_STAGING_H_
