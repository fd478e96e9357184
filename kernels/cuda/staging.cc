// See the header.

#include "kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/status.h"
#include "kernels/cuda/runtime.h"

namespace tessera::cuda {
namespace {

constexpr size_t kAlignment = 256;

}  // namespace

absl::StatusOr<std::unique_ptr<Staging>> Staging::Create() {
  std::unique_ptr<Staging> staging(new Staging());
  void* memory = nullptr;
  TESSERA_RETURN_IF_ERROR(
      StatusOf(cudaMallocHost(&memory, 3 * kHalfBytes), "pin 12 MiB of host memory"));
  staging->memory_ = static_cast<char*>(memory);
  staging->down_ = staging->memory_ + 2 * kHalfBytes;
  for (cudaEvent_t& event : staging->read_) {
    TESSERA_RETURN_IF_ERROR(
        StatusOf(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "create an event"));
  }
  return staging;
}

Staging::~Staging() {
  for (cudaEvent_t event : read_) {
    if (event == nullptr) continue;
    cudaEventSynchronize(event);
    cudaEventDestroy(event);
  }
  if (memory_ != nullptr) cudaFreeHost(memory_);
}

cudaError_t Staging::Reserve(size_t bytes, cudaStream_t stream, char*& place) {
  TESSERA_CHECK(bytes <= kHalfBytes) << bytes;
  if (used_ + bytes > kHalfBytes) {
    const cudaError_t left = cudaEventRecord(read_[half_], stream);
    if (left != cudaSuccess) return left;
    half_ = 1 - half_;
    used_ = 0;
    const cudaError_t free = cudaEventSynchronize(read_[half_]);
    if (free != cudaSuccess) return free;
  }
  place = memory_ + half_ * kHalfBytes + used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return cudaSuccess;
}

cudaError_t Staging::Upload(void* device, size_t bytes, cudaStream_t stream,
                            const std::function<void(void*)>& fill) {
  char* place = nullptr;
  const cudaError_t reserved = Reserve(bytes, stream, place);
  if (reserved != cudaSuccess) return reserved;
  fill(place);
  return cudaMemcpyAsync(device, place, bytes, cudaMemcpyHostToDevice, stream);
}

cudaError_t Staging::Upload(void* device, const void* host, size_t bytes, cudaStream_t stream) {
  for (size_t begin = 0; begin < bytes; begin += kHalfBytes) {
    const size_t n = std::min(kHalfBytes, bytes - begin);
    const cudaError_t error =
        Upload(static_cast<char*>(device) + begin, n, stream,
               [&](void* place) { std::memcpy(place, static_cast<const char*>(host) + begin, n); });
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t Staging::Download(void* host, const void* device, size_t bytes, cudaStream_t stream) {
  for (size_t begin = 0; begin < bytes; begin += kHalfBytes) {
    const size_t n = std::min(kHalfBytes, bytes - begin);
    cudaError_t error = cudaMemcpyAsync(down_, static_cast<const char*>(device) + begin, n,
                                        cudaMemcpyDeviceToHost, stream);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
    if (error != cudaSuccess) return error;
    std::memcpy(static_cast<char*>(host) + begin, down_, n);
  }
  return cudaSuccess;
}

}  // namespace tessera::cuda
