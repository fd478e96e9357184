// The CUDA runtime as the rest of the backend sees it: its errors as statuses, the checks that a
// GPU must pass before it is used, and the stream of a context. Pure functions where they can be,
// so that what they answer is tested without a GPU.

#ifndef TESSERA_KERNELS_CUDA_RUNTIME_H_
#define TESSERA_KERNELS_CUDA_RUNTIME_H_

#include <cuda_runtime_api.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/ops.h"

namespace tessera::cuda {

// What one GPU is, read once.
struct GpuFacts {
  int device = 0;
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int multiprocessors = 0;
  size_t memory_bytes = 0;
  size_t l2_bytes = 0;
  size_t shared_memory_per_block_max = 0;  // after opting in
  std::string bus_id;                      // as NVML names it
};

// `what` is being done, like "allocate 12 bytes". OK for cudaSuccess.
absl::Status StatusOf(cudaError_t error, absl::string_view what);

// FAILED_PRECONDITION when the driver (cudaDriverGetVersion; 0: none) is older than the runtime
// that this program carries, with both versions and what to do.
absl::Status CheckDriver(int driver_version, int runtime_version);

// FAILED_PRECONDITION when the kernels of this build do not run on such a GPU.
absl::Status CheckArchitecture(absl::string_view gpu_name, int major, int minor);

// INVALID_ARGUMENT when there is no GPU `device` among `count`.
absl::Status CheckDeviceNumber(int device, int count);

// Makes GPU `device` current on this thread and says what it is; every way to fail has its own
// message: no driver, driver too old, no GPU, no such GPU, architecture.
absl::StatusOr<GpuFacts> OpenGpu(int device);

// The stream that a context means: its own, or the calling thread's. Work of one rank is queued by
// one thread, so both order it; the communicator picks the same one by the same rule.
inline cudaStream_t StreamOf(const ExecContext& context) {
  return context.stream != nullptr ? static_cast<cudaStream_t>(context.stream)
                                   : cudaStreamPerThread;
}

// The CUDA backend's part of the numerics class.
std::string NumericsName(const GpuFacts& facts);

}  // namespace tessera::cuda

#endif  // TESSERA_KERNELS_CUDA_RUNTIME_H_
