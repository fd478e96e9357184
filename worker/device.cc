// One branch per backend. Called by main before anything else runs.

#include "worker/device.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/thread_pool.h"
#include "worker/probe.h"

namespace tessera {

static_assert(kDeviceThreadsMax <= ThreadPool::kThreadsMax);

Device::Device(std::string kind, std::string numerics, std::unique_ptr<Ops> ops, int threads)
    : kind_(std::move(kind)),
      numerics_(std::move(numerics)),
      num_threads_(threads),
      ops_(std::move(ops)),
      threads_(threads > 1 ? std::make_unique<ThreadPool>(threads) : nullptr) {}

Device::~Device() = default;

absl::StatusOr<std::unique_ptr<Device>> Device::Open(const std::string& name, int threads) {
  if (threads < 1 || threads > kDeviceThreadsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("--threads ", threads, " must be 1 to ", kDeviceThreadsMax));
  }
  if (name == "auto") {
    if (ProbeMachine().gpu.device_nodes.empty()) return Open("cpu", threads);
    absl::StatusOr<std::unique_ptr<Device>> gpu = Open("cuda:0", threads);
    // A machine with a GPU may still run a build without CUDA.
    return absl::IsUnimplemented(gpu.status()) ? Open("cpu", threads) : std::move(gpu);
  }
  if (name == "cuda") return Open("cuda:0", threads);
  if (name == "cpu") {
    TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Ops> ops, NewCpuOps());
    return std::unique_ptr<Device>(new Device("cpu", CpuNumericsName(), std::move(ops), threads));
  }
  absl::string_view number = name;
  int index = 0;
  if (!absl::ConsumePrefix(&number, "cuda:") || !absl::SimpleAtoi(number, &index) || index < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--device ", name, " is not known; use auto, cpu, or cuda:N for GPU N"));
  }
  TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Ops> ops, NewCudaOps(index));
  return std::unique_ptr<Device>(new Device("cuda", "cuda", std::move(ops), threads));
}

}  // namespace tessera
