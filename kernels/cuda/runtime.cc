// See the header.

#include "kernels/cuda/runtime.h"

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/device_readings.h"

namespace tessera::cuda {
namespace {

// 13020 -> "13.2"
std::string VersionName(int version) {
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

}  // namespace

absl::Status StatusOf(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message = absl::StrCat("CUDA cannot ", what, ": ", cudaGetErrorString(error),
                                           " (", cudaGetErrorName(error), ")");
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::ResourceExhaustedError(
          absl::StrCat(message, "; use a smaller model, a larger tp, or a smaller KV cache"));
    case cudaErrorNoDevice:
      return absl::FailedPreconditionError(absl::StrCat(
          message,
          "; this machine shows no NVIDIA GPU: run with --device cpu, or give the container "
          "one"));
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
      return absl::FailedPreconditionError(
          absl::StrCat(message, "; install a newer NVIDIA driver, or run with --device cpu"));
    case cudaErrorInvalidDevice:
      return absl::InvalidArgumentError(message);
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
      return absl::FailedPreconditionError(
          absl::StrCat(message, "; this build has no kernels for that GPU"));
    case cudaErrorDevicesUnavailable:
      return absl::UnavailableError(
          absl::StrCat(message, "; another process holds the GPU exclusively"));
    default:
      return absl::InternalError(message);
  }
}

absl::Status CheckDriver(int driver_version, int runtime_version) {
  if (driver_version == 0) {
    return absl::FailedPreconditionError(
        "no NVIDIA driver is loaded (libcuda.so.1 is not there or does not answer); install the "
        "driver, start the container with its GPUs, or run with --device cpu");
  }
  // Within one major version an older driver runs a newer runtime.
  if (driver_version / 1000 >= runtime_version / 1000) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the NVIDIA driver speaks CUDA ", VersionName(driver_version),
                   ", this build needs CUDA ", runtime_version / 1000,
                   ".0 or later (driver 580 or newer); update the driver, or run with "
                   "--device cpu"));
}

absl::Status CheckArchitecture(absl::string_view gpu_name, int major, int minor) {
  // Machine code for 9.0, and PTX from which later ones are compiled at start.
  if (major >= 9) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      gpu_name, " has compute capability ", major, ".", minor,
      "; the kernels of this build need 9.0 (Hopper) or later; run with --device cpu"));
}

absl::Status CheckDeviceNumber(int device, int count) {
  if (device >= 0 && device < count) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("there is no GPU ", device, "; this process sees ", count,
                   count == 1 ? " GPU, number 0" : absl::StrCat(" GPUs, numbers 0 to ", count - 1),
                   " (CUDA_VISIBLE_DEVICES narrows them)"));
}

absl::StatusOr<GpuFacts> OpenGpu(int device) {
  int driver = 0;
  TESSERA_RETURN_IF_ERROR(StatusOf(cudaDriverGetVersion(&driver), "ask for the driver's version"));
  TESSERA_RETURN_IF_ERROR(CheckDriver(driver, CUDART_VERSION));
  int count = 0;
  TESSERA_RETURN_IF_ERROR(StatusOf(cudaGetDeviceCount(&count), "count the GPUs"));
  TESSERA_RETURN_IF_ERROR(CheckDeviceNumber(device, count));
  cudaDeviceProp properties = {};
  TESSERA_RETURN_IF_ERROR(StatusOf(cudaGetDeviceProperties(&properties, device),
                                   absl::StrCat("read the properties of GPU ", device)));
  TESSERA_RETURN_IF_ERROR(CheckArchitecture(properties.name, properties.major, properties.minor));
  TESSERA_RETURN_IF_ERROR(StatusOf(cudaSetDevice(device),
                                   absl::StrCat("use GPU ", device, " (", properties.name, ")")));
  GpuFacts facts = {.device = device,
                    .name = properties.name,
                    .compute_major = properties.major,
                    .compute_minor = properties.minor,
                    .multiprocessors = properties.multiProcessorCount,
                    .memory_bytes = properties.totalGlobalMem,
                    .l2_bytes = static_cast<size_t>(properties.l2CacheSize),
                    .shared_memory_per_block_max = properties.sharedMemPerBlockOptin,
                    .bus_id = ""};
  char bus_id[32] = {};
  TESSERA_RETURN_IF_ERROR(
      StatusOf(cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), device), "read a PCI address"));
  facts.bus_id = bus_id;
  return facts;
}

std::string NumericsName(const GpuFacts& facts) {
  return absl::StrCat("cuda-mma-v1-sm", facts.compute_major, facts.compute_minor, "-rt",
                      CUDART_VERSION);
}

}  // namespace tessera::cuda

namespace tessera {

absl::StatusOr<CudaIdentity> DescribeCudaDevice(int device) {
  TESSERA_ASSIGN_OR_RETURN(const cuda::GpuFacts facts, cuda::OpenGpu(device));
  size_t free = 0;
  size_t total = 0;
  TESSERA_RETURN_IF_ERROR(
      cuda::StatusOf(cudaMemGetInfo(&free, &total), "read how much GPU memory is free"));
  return CudaIdentity{.name = facts.name,
                      .bus_id = facts.bus_id,
                      .numerics = cuda::NumericsName(facts),
                      .memory_bytes = total,
                      .memory_free_bytes = free};
}

}  // namespace tessera
