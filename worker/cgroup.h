// The limits that a container sets on this process: memory and CPU of its control group and the
// groups above it, version 1 and 2. Part of the probe.

#ifndef TESSERA_WORKER_CGROUP_H_
#define TESSERA_WORKER_CGROUP_H_

#include <cstdint>
#include <string>

namespace tessera {

struct CgroupMemory {
  uint64_t limit = UINT64_MAX;  // bytes, the tightest on the way up; UINT64_MAX: none
  uint64_t used = 0;            // bytes charged there, without page cache that is easily given back
};

// `root` stands before /proc and /sys; "" outside of tests.
CgroupMemory ReadCgroupMemory(const std::string& root = "");

// CPU time per time, in cores; 0: no quota.
double CgroupCpuQuota(const std::string& root = "");

}  // namespace tessera

#endif  // TESSERA_WORKER_CGROUP_H_
