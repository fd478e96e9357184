// What a GPU is, and what its own sensors say: power, energy, clocks, memory errors. The sensors
// are read through NVML, which is opened with them; cheap enough for a heartbeat. Any thread.

#ifndef TESSERA_KERNELS_DEVICE_READINGS_H_
#define TESSERA_KERNELS_DEVICE_READINGS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace tessera {

struct CudaIdentity {
  std::string name;
  std::string bus_id;    // "0000:1b:00.0"
  std::string numerics;  // the CUDA backend's part of the numerics class
  uint64_t memory_bytes = 0;
  uint64_t memory_free_bytes = 0;  // when it was asked, before anything of ours lies there
};

// Of GPU `device`, or why it cannot be used: no driver, driver too old, no such GPU, architecture.
// UNIMPLEMENTED in a build without CUDA.
absl::StatusOr<CudaIdentity> DescribeCudaDevice(int device);

struct DeviceReadings {
  double power_watts = 0;
  double energy_joules = 0;  // since the driver was loaded
  int temperature_celsius = 0;
  int sm_clock_mhz = 0;
  int memory_clock_mhz = 0;
  uint64_t memory_used_bytes = 0;
  uint64_t memory_total_bytes = 0;
  uint64_t ecc_uncorrected = 0;  // since the driver was loaded; 0 where the GPU does not count
  // Why clocks are lower than asked for: NVML's bit mask, 0: they are not.
  uint64_t throttle_reasons = 0;
  // The last error number that the driver reported of this GPU (XID), 0: none since it was opened.
  uint64_t last_xid = 0;
};

// One GPU's sensors. Created for a rank, read on its heartbeat thread.
class DeviceSensors {
 public:
  // `bus_id` as CUDA names it. NOT_FOUND without NVML, FAILED_PRECONDITION when it does not start,
  // UNIMPLEMENTED in a build without CUDA.
  static absl::StatusOr<std::unique_ptr<DeviceSensors>> Open(const std::string& bus_id);
  ~DeviceSensors();

  absl::StatusOr<DeviceReadings> Read();

 private:
  struct Library;
  explicit DeviceSensors(std::unique_ptr<Library> library);

  const std::unique_ptr<Library> library_;
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_DEVICE_READINGS_H_
