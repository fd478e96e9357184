// What a rank computes on, picked by name: the backend's ops, its CPU helpers, and what it calls
// its arithmetic. The only file of the worker that knows one backend from another. Opened by main
// before any other thread (a GPU's rank keeps to the cores beside it, and threads inherit that),
// borrowed by everyone else, closed last.

#ifndef TESSERA_WORKER_DEVICE_H_
#define TESSERA_WORKER_DEVICE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/device_readings.h"
#include "kernels/ops.h"

namespace tessera {

inline constexpr int kDeviceThreadsMax = 1024;

class Device {
 public:
  // `name` is "auto", "cpu", "cuda" or "cuda:N"; `threads` counts the caller's. "auto" is the first
  // GPU where build and machine have one, else cpu; a GPU that is there but cannot be used is an
  // error. INVALID_ARGUMENT for another name, UNIMPLEMENTED naming the preset that has the backend.
  static absl::StatusOr<std::unique_ptr<Device>> Open(const std::string& name, int threads);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& kind() const { return kind_; }          // "cpu" or "cuda"
  const std::string& numerics() const { return numerics_; }  // its part of the numerics class
  int num_threads() const { return num_threads_; }
  // Of a GPU; nothing where the host's own memory is the device's.
  struct Gpu {
    std::string name;
    std::string bus_id;
    uint64_t memory_bytes = 0;
    uint64_t memory_free_bytes = 0;  // when it was opened: what lies there since then is ours
  };
  const std::optional<Gpu>& gpu() const { return gpu_; }
  Ops& ops() { return *ops_; }
  ThreadPool* threads() { return threads_.get(); }     // null with one thread
  DeviceSensors* sensors() { return sensors_.get(); }  // null without a GPU or without NVML

 private:
  Device(std::string kind, std::string numerics, std::unique_ptr<Ops> ops, int threads);
  static absl::StatusOr<std::unique_ptr<Device>> OpenGpu(int index, int threads);

  std::optional<Gpu> gpu_;
  const std::string kind_;
  const std::string numerics_;
  const int num_threads_;
  const std::unique_ptr<Ops> ops_;
  const std::unique_ptr<ThreadPool> threads_;
  std::unique_ptr<DeviceSensors> sensors_;
};

// The cores of a list as the kernel writes it ("0-3,8"); false when it is none.
bool ParseCpuList(const std::string& text, std::vector<int>& cpus);

}  // namespace tessera

#endif  // TESSERA_WORKER_DEVICE_H_
