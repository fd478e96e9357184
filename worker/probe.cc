// Reads /proc, /sys and /dev. Everything that is missing there is reported as absent rather than as
// an error: a probe that fails would hide what it could have said.

#include "worker/probe.h"

#include <sched.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "worker/cgroup.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::string ReadLine(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// "MemAvailable:   123 kB" -> bytes; 0 when absent.
uint64_t MeminfoBytes(const std::string& key) {
  std::ifstream in("/proc/meminfo");
  std::string name;
  uint64_t kilobytes = 0;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    if (words >> name >> kilobytes && name == absl::StrCat(key, ":")) return kilobytes * 1024;
  }
  return 0;
}

CpuFacts ProbeCpu() {
  CpuFacts cpu;
  cpu.cores_online = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t mask;
  CPU_ZERO(&mask);
  cpu.cores_usable =
      sched_getaffinity(0, sizeof(mask), &mask) == 0 ? CPU_COUNT(&mask) : cpu.cores_online;
  cpu.cores_quota = CgroupCpuQuota();
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const std::pair<std::string, std::string> entry =
        absl::StrSplit(line, absl::MaxSplits(absl::ByChar(':'), 1));
    if (absl::StartsWith(entry.first, "model name")) {
      cpu.name = std::string(absl::StripAsciiWhitespace(entry.second));
    }
    if (!absl::StartsWith(entry.first, "flags")) continue;
    const std::vector<std::string> flags = absl::StrSplit(entry.second, ' ');
    const auto has = [&](const char* flag) {
      return std::find(flags.begin(), flags.end(), flag) != flags.end();
    };
    cpu.avx2 = has("avx2") && has("fma");
    cpu.avx512 = has("avx512f") && has("avx512bw") && has("avx512dq") && has("avx512vl");
    cpu.avx512_bf16 = has("avx512_bf16");
    cpu.amx_bf16 = has("amx_tile") && has("amx_bf16");
    break;
  }
  return cpu;
}

std::string FindLibrary(const std::string& name) {
  std::vector<std::string> folders = {"/usr/lib/x86_64-linux-gnu",
                                      "/lib/x86_64-linux-gnu",
                                      "/usr/lib64",
                                      "/usr/lib",
                                      "/usr/local/lib",
                                      "/usr/local/cuda/lib64",
                                      "/usr/local/nvidia/lib64"};
  for (const std::string& folder : folders) {
    std::error_code ignored;
    const fs::path path = fs::path(folder) / name;
    if (fs::exists(path, ignored)) return path.string();
  }
  return "";
}

GpuFacts ProbeGpu() {
  GpuFacts gpu;
  gpu.driver_library = FindLibrary("libnvidia-ml.so.1");
  gpu.nccl_library = FindLibrary("libnccl.so.2");
  std::error_code error;
  for (fs::directory_iterator it("/dev", error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    int number = 0;
    if (absl::StartsWith(name, "nvidia") && absl::SimpleAtoi(name.substr(6), &number)) {
      gpu.device_nodes.push_back(it->path().string());
    }
  }
  std::sort(gpu.device_nodes.begin(), gpu.device_nodes.end());
  return gpu;
}

// Equal for processes that meet in /dev/shm: the running kernel and the very same tmpfs, whatever
// namespaces lie between.
std::string HostId() {
  struct stat shm = {};
  const bool has_shm = stat("/dev/shm", &shm) == 0;
  return absl::StrCat(ReadLine("/proc/sys/kernel/random/boot_id"),
                      "/shm:", has_shm ? absl::StrCat(shm.st_dev) : "none");
}

}  // namespace

uint64_t MemoryFacts::Usable() const { return std::min(total, cgroup_limit); }

uint64_t MemoryFacts::UsableNow() const {
  if (cgroup_limit == kNoLimit) return available;
  return std::min(available, cgroup_limit - std::min(cgroup_limit, cgroup_used));
}

MemoryFacts ProbeMemory() {
  MemoryFacts memory;
  memory.total = MeminfoBytes("MemTotal");
  memory.available = MeminfoBytes("MemAvailable");
  const CgroupMemory cgroup = ReadCgroupMemory();
  memory.cgroup_limit = cgroup.limit;
  memory.cgroup_used = cgroup.used;
  struct statvfs shm = {};
  if (statvfs("/dev/shm", &shm) == 0) {
    memory.shm_total = static_cast<uint64_t>(shm.f_blocks) * shm.f_frsize;
    memory.shm_free = static_cast<uint64_t>(shm.f_bavail) * shm.f_frsize;
  }
  return memory;
}

MachineFacts ProbeMachine() {
  MachineFacts facts;
  struct utsname name = {};
  if (uname(&name) == 0) {
    facts.host_name = name.nodename;
    facts.kernel = absl::StrCat(name.sysname, " ", name.release, " ", name.machine);
  }
  facts.host_id = HostId();
  facts.cpu = ProbeCpu();
  facts.memory = ProbeMemory();
  facts.gpu = ProbeGpu();
  return facts;
}

int DefaultThreads(const CpuFacts& cpu) {
  int threads = std::max(cpu.cores_usable, 1);
  if (cpu.cores_quota > 0) {
    threads = std::min(threads, std::max(1, static_cast<int>(std::ceil(cpu.cores_quota))));
  }
  return threads;
}

std::string IsaName(const CpuFacts& cpu) {
  if (cpu.amx_bf16) return "amx";
  if (cpu.avx512) return "avx512";
  return cpu.avx2 ? "avx2" : "none";
}

std::string MachineFactsJson(const MachineFacts& facts) {
  const CpuFacts& cpu = facts.cpu;
  const MemoryFacts& memory = facts.memory;
  nlohmann::ordered_json json;
  json["host_name"] = facts.host_name;
  json["host_id"] = facts.host_id;
  json["kernel"] = facts.kernel;
  json["cpu"] = {{"name", cpu.name},
                 {"cores_online", cpu.cores_online},
                 {"cores_usable", cpu.cores_usable},
                 {"cores_quota", cpu.cores_quota},
                 {"isa", IsaName(cpu)},
                 {"avx2", cpu.avx2},
                 {"avx512", cpu.avx512},
                 {"avx512_bf16", cpu.avx512_bf16},
                 {"amx_bf16", cpu.amx_bf16}};
  json["memory"] = {
      {"total_bytes", memory.total},         {"available_bytes", memory.available},
      {"cgroup_limit_bytes", nullptr},       {"cgroup_used_bytes", memory.cgroup_used},
      {"usable_bytes", memory.Usable()},     {"usable_now_bytes", memory.UsableNow()},
      {"shm_total_bytes", memory.shm_total}, {"shm_free_bytes", memory.shm_free}};
  if (memory.cgroup_limit != kNoLimit) json["memory"]["cgroup_limit_bytes"] = memory.cgroup_limit;
  json["gpu"] = {{"device_nodes", facts.gpu.device_nodes},
                 {"driver_library", facts.gpu.driver_library},
                 {"nccl_library", facts.gpu.nccl_library}};
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

uint64_t ProcessResidentBytes() {
  std::ifstream in("/proc/self/statm");
  uint64_t size_pages = 0;
  uint64_t resident_pages = 0;
  in >> size_pages >> resident_pages;
  return resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace tessera
