// One branch per backend. Called by main before anything else runs.

#include "worker/device.h"

#include <sched.h>

#include <fstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/thread_pool.h"
#include "worker/probe.h"

namespace tessera {

static_assert(kDeviceThreadsMax <= ThreadPool::kThreadsMax);

namespace {

// Keeps this thread, and those it starts from now on, to the cores beside the GPU, as far as it may
// use them at all. A machine that does not say which they are is left alone.
void KeepBeside(const std::string& bus_id) {
  std::ifstream file(
      absl::StrCat("/sys/bus/pci/devices/", absl::AsciiStrToLower(bus_id), "/local_cpulist"));
  std::string text;
  std::vector<int> cpus;
  if (!std::getline(file, text) || !ParseCpuList(text, cpus)) return;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  cpu_set_t beside;
  CPU_ZERO(&beside);
  for (const int cpu : cpus) {
    if (cpu < CPU_SETSIZE && CPU_ISSET(cpu, &allowed)) CPU_SET(cpu, &beside);
  }
  if (CPU_COUNT(&beside) > 0) sched_setaffinity(0, sizeof(beside), &beside);
}

}  // namespace

bool ParseCpuList(const std::string& text, std::vector<int>& cpus) {
  cpus.clear();
  for (const absl::string_view part : absl::StrSplit(absl::StripAsciiWhitespace(text), ',')) {
    const std::pair<absl::string_view, absl::string_view> range =
        absl::StrSplit(part, absl::MaxSplits('-', 1));
    int first = 0;
    int last = 0;
    if (!absl::SimpleAtoi(range.first, &first)) return false;
    if (range.second.empty()) {
      last = first;
    } else if (!absl::SimpleAtoi(range.second, &last)) {
      return false;
    }
    if (first < 0 || last < first || last >= CPU_SETSIZE) return false;
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
  }
  return true;
}

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
  return OpenGpu(index, threads);
}

absl::StatusOr<std::unique_ptr<Device>> Device::OpenGpu(int index, int threads) {
  TESSERA_ASSIGN_OR_RETURN(const CudaIdentity gpu, DescribeCudaDevice(index));
  KeepBeside(gpu.bus_id);
  TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<Ops> ops, NewCudaOps(index));
  std::unique_ptr<Device> device(new Device("cuda", gpu.numerics, std::move(ops), threads));
  device->gpu_ = Gpu{.name = gpu.name,
                     .bus_id = gpu.bus_id,
                     .memory_bytes = gpu.memory_bytes,
                     .memory_free_bytes = gpu.memory_free_bytes};
  // Without sensors a rank computes as well.
  absl::StatusOr<std::unique_ptr<DeviceSensors>> sensors = DeviceSensors::Open(gpu.bus_id);
  if (sensors.ok()) device->sensors_ = *std::move(sensors);
  return device;
}

}  // namespace tessera
