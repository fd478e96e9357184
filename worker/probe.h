// What this machine has: cores, instruction sets, memory and its limits, shared memory, GPUs. Read
// from the kernel's files; nothing is loaded or started. Used for Hello.hardware, for the memory
// check before a load, and printed as JSON by `tessera-worker --probe`. Safe to call from any
// thread.

#ifndef TESSERA_WORKER_PROBE_H_
#define TESSERA_WORKER_PROBE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace tessera {

inline constexpr uint64_t kNoLimit = UINT64_MAX;

struct CpuFacts {
  std::string name;
  int cores_online = 0;
  int cores_usable = 0;    // of this process's affinity mask
  double cores_quota = 0;  // cgroup CPU quota in cores, 0: none
  bool avx2 = false;
  bool avx512 = false;  // F, BW, DQ, VL
  bool avx512_bf16 = false;
  bool amx_bf16 = false;  // tiles with bfloat16
};

// Bytes.
struct MemoryFacts {
  uint64_t total = 0;                // of the machine
  uint64_t available = 0;            // what the kernel thinks can be had without swapping
  uint64_t cgroup_limit = kNoLimit;  // tightest of this cgroup and its parents
  uint64_t cgroup_used =
      0;  // charged to the cgroup of the tightest limit, reclaimable cache excluded
  uint64_t shm_total = 0;  // /dev/shm
  uint64_t shm_free = 0;

  // What one process may plan with: machine and container both allow it.
  uint64_t Usable() const;
  uint64_t UsableNow() const;
};

struct GpuFacts {
  std::vector<std::string> device_nodes;  // /dev/nvidia0, ...
  std::string driver_library;             // path of libnvidia-ml.so.1, "" if absent
  std::string nccl_library;               // path of libnccl.so.2, "" if absent
};

struct MachineFacts {
  std::string host_name;
  // Equal for processes that can share memory: the boot and the identity of the mounted /dev/shm.
  std::string host_id;
  std::string kernel;
  CpuFacts cpu;
  MemoryFacts memory;
  GpuFacts gpu;
};

MachineFacts ProbeMachine();
MemoryFacts ProbeMemory();
std::string MachineFactsJson(const MachineFacts& facts);

// The widest instruction set of this CPU that the kernels know: "amx", "avx512", "avx2" or "none".
std::string IsaName(const CpuFacts& cpu);

// Cores this process may use at once: its affinity mask, under the container's quota.
int DefaultThreads(const CpuFacts& cpu);

// Pages of this process in memory, bytes.
uint64_t ProcessResidentBytes();

}  // namespace tessera

#endif  // TESSERA_WORKER_PROBE_H_
