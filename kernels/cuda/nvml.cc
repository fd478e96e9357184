// NVML through its C functions, declared here as far as they are used: the interface is stable, and
// its header comes with the toolkit only.

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "kernels/device_readings.h"
#include "kernels/shared_library.h"

namespace tessera {
namespace {

using NvmlReturn = int;  // 0: success
using NvmlDevice = struct NvmlDeviceState*;
using NvmlEventSet = struct NvmlEventSetState*;
constexpr int kTemperatureOfGpu = 0;
constexpr int kClockOfSm = 1;
constexpr int kClockOfMemory = 2;
constexpr int kUncorrected = 1;
constexpr int kSinceDriverLoad = 0;
constexpr unsigned long long kEventXid = 8;

struct NvmlMemory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};
struct NvmlEvent {
  NvmlDevice device;
  unsigned long long type;
  unsigned long long data;
  unsigned int gpu_instance;
  unsigned int compute_instance;
};

}  // namespace

struct DeviceSensors::Library {
  explicit Library(SharedLibrary from) : library(std::move(from)) {}
  ~Library() {
    if (events != nullptr) events_free(events);
    if (started) shutdown();
  }

  absl::Status Check(NvmlReturn code, absl::string_view what) const {
    if (code == 0) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("NVML cannot ", what, ": ", error_text(code)));
  }
  absl::Status FindAll();
  absl::Status Start(const std::string& bus_id);

  const SharedLibrary library;
  NvmlReturn (*init)() = nullptr;
  NvmlReturn (*shutdown)() = nullptr;
  const char* (*error_text)(NvmlReturn) = nullptr;
  NvmlReturn (*by_bus_id)(const char*, NvmlDevice*) = nullptr;
  NvmlReturn (*power)(NvmlDevice, unsigned int*) = nullptr;         // mW
  NvmlReturn (*energy)(NvmlDevice, unsigned long long*) = nullptr;  // mJ
  NvmlReturn (*temperature)(NvmlDevice, int, unsigned int*) = nullptr;
  NvmlReturn (*clock)(NvmlDevice, int, unsigned int*) = nullptr;
  NvmlReturn (*memory)(NvmlDevice, NvmlMemory*) = nullptr;
  NvmlReturn (*ecc)(NvmlDevice, int, int, unsigned long long*) = nullptr;
  NvmlReturn (*throttle)(NvmlDevice, unsigned long long*) = nullptr;
  NvmlReturn (*events_create)(NvmlEventSet*) = nullptr;
  NvmlReturn (*events_register)(NvmlDevice, unsigned long long, NvmlEventSet) = nullptr;
  NvmlReturn (*events_wait)(NvmlEventSet, NvmlEvent*, unsigned int) = nullptr;
  NvmlReturn (*events_free)(NvmlEventSet) = nullptr;

  bool started = false;
  NvmlDevice device = nullptr;
  NvmlEventSet events = nullptr;  // null where the driver offers none (in some containers)
  uint64_t last_xid = 0;
};

absl::Status DeviceSensors::Library::FindAll() {
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlInit_v2", init));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlShutdown", shutdown));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlErrorString", error_text));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlDeviceGetHandleByPciBusId_v2", by_bus_id));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlDeviceGetPowerUsage", power));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlDeviceGetTotalEnergyConsumption", energy));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlDeviceGetTemperature", temperature));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlDeviceGetClockInfo", clock));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlDeviceGetMemoryInfo", memory));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlDeviceGetTotalEccErrors", ecc));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlDeviceGetCurrentClocksThrottleReasons", throttle));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlEventSetCreate", events_create));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlDeviceRegisterEvents", events_register));
  TESSERA_RETURN_IF_ERROR(library.Find("nvmlEventSetWait_v2", events_wait));
  return library.Find("nvmlEventSetFree", events_free);
}

absl::Status DeviceSensors::Library::Start(const std::string& bus_id) {
  TESSERA_RETURN_IF_ERROR(Check(init(), "start"));
  started = true;
  TESSERA_RETURN_IF_ERROR(
      Check(by_bus_id(bus_id.c_str(), &device), absl::StrCat("find GPU ", bus_id)));
  if (events_create(&events) != 0) {
    events = nullptr;
  } else if (events_register(device, kEventXid, events) != 0) {
    events_free(std::exchange(events, nullptr));
  }
  return absl::OkStatus();
}

DeviceSensors::DeviceSensors(std::unique_ptr<Library> library) : library_(std::move(library)) {}
DeviceSensors::~DeviceSensors() = default;

absl::StatusOr<std::unique_ptr<DeviceSensors>> DeviceSensors::Open(const std::string& bus_id) {
  TESSERA_ASSIGN_OR_RETURN(SharedLibrary file, SharedLibrary::Open({"libnvidia-ml.so.1"}));
  auto library = std::make_unique<Library>(std::move(file));
  TESSERA_RETURN_IF_ERROR(library->FindAll());
  TESSERA_RETURN_IF_ERROR(library->Start(bus_id));
  return std::unique_ptr<DeviceSensors>(new DeviceSensors(std::move(library)));
}

absl::StatusOr<DeviceReadings> DeviceSensors::Read() {
  Library& nvml = *library_;
  DeviceReadings readings;
  unsigned int value = 0;
  unsigned long long large = 0;
  TESSERA_RETURN_IF_ERROR(nvml.Check(nvml.power(nvml.device, &value), "read the power"));
  readings.power_watts = value * 1e-3;
  TESSERA_RETURN_IF_ERROR(nvml.Check(nvml.energy(nvml.device, &large), "read the energy"));
  readings.energy_joules = static_cast<double>(large) * 1e-3;
  TESSERA_RETURN_IF_ERROR(
      nvml.Check(nvml.temperature(nvml.device, kTemperatureOfGpu, &value), "read the temperature"));
  readings.temperature_celsius = static_cast<int>(value);
  TESSERA_RETURN_IF_ERROR(
      nvml.Check(nvml.clock(nvml.device, kClockOfSm, &value), "read the SM clock"));
  readings.sm_clock_mhz = static_cast<int>(value);
  TESSERA_RETURN_IF_ERROR(
      nvml.Check(nvml.clock(nvml.device, kClockOfMemory, &value), "read the memory clock"));
  readings.memory_clock_mhz = static_cast<int>(value);
  NvmlMemory memory = {};
  TESSERA_RETURN_IF_ERROR(nvml.Check(nvml.memory(nvml.device, &memory), "read the memory"));
  readings.memory_used_bytes = memory.used;
  readings.memory_total_bytes = memory.total;
  if (nvml.ecc(nvml.device, kUncorrected, kSinceDriverLoad, &large) == 0) {
    readings.ecc_uncorrected = large;
  }
  if (nvml.throttle(nvml.device, &large) == 0) readings.throttle_reasons = large;
  NvmlEvent event = {};
  while (nvml.events != nullptr && nvml.events_wait(nvml.events, &event, 0) == 0) {
    nvml.last_xid = event.data;
  }
  readings.last_xid = nvml.last_xid;
  return readings;
}

}  // namespace tessera
