// Finds this process's groups in /proc/self/cgroup and walks from them to the root of each
// hierarchy. Inside a container the path may name a place that is not mounted; such levels are
// passed over.

#include "worker/cgroup.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace tessera {
namespace {

// Version 1 writes "no limit" as a number near 2^63.
constexpr uint64_t kNoLimitV1 = uint64_t{1} << 60;

bool ReadNumber(const std::string& path, uint64_t* value) {
  std::ifstream in(path);
  std::string word;
  return static_cast<bool>(in >> word) && absl::SimpleAtoi(word, value);
}

// The value behind `key` in a file of "key value" lines; 0 when absent.
uint64_t ReadKey(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  std::string name;
  uint64_t value = 0;
  while (in >> name >> value) {
    if (name == key) return value;
  }
  return 0;
}

// Every folder of `controller` that may limit this process, innermost first.
std::vector<std::pair<std::string, bool>> FoldersOf(const std::string& root,
                                                    const std::string& controller) {
  std::vector<std::pair<std::string, bool>> folders;
  std::ifstream in(absl::StrCat(root, "/proc/self/cgroup"));
  for (std::string line; std::getline(in, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const bool version2 = parts[0] == "0" && parts[1].empty();
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    const bool mine =
        std::find(controllers.begin(), controllers.end(), controller) != controllers.end();
    if (!version2 && !mine) continue;
    std::vector<std::string> mounts = {absl::StrCat(root, "/sys/fs/cgroup/", controller)};
    if (version2) {
      mounts = {absl::StrCat(root, "/sys/fs/cgroup"), absl::StrCat(root, "/sys/fs/cgroup/unified")};
    }
    for (const std::string& mount : mounts) {
      for (std::string path = parts[2] == "/" ? "" : parts[2];;) {
        folders.emplace_back(absl::StrCat(mount, path), version2);
        if (path.empty()) break;
        path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
      }
    }
  }
  return folders;
}

}  // namespace

CgroupMemory ReadCgroupMemory(const std::string& root) {
  CgroupMemory tightest;
  for (const auto& [folder, version2] : FoldersOf(root, "memory")) {
    const std::string limit_file = version2 ? "/memory.max" : "/memory.limit_in_bytes";
    const std::string used_file = version2 ? "/memory.current" : "/memory.usage_in_bytes";
    const std::string cache_key = version2 ? "inactive_file" : "total_inactive_file";
    uint64_t limit = 0;
    uint64_t used = 0;
    if (!ReadNumber(absl::StrCat(folder, limit_file), &limit) || limit >= kNoLimitV1) continue;
    if (!ReadNumber(absl::StrCat(folder, used_file), &used)) continue;
    const uint64_t cache = ReadKey(absl::StrCat(folder, "/memory.stat"), cache_key);
    if (limit < tightest.limit) tightest = {limit, used - std::min(used, cache)};
  }
  return tightest;
}

double CgroupCpuQuota(const std::string& root) {
  double cores = 0;
  for (const auto& [folder, version2] : FoldersOf(root, "cpu")) {
    uint64_t quota = 0;
    uint64_t period = 0;
    if (version2) {
      std::ifstream in(absl::StrCat(folder, "/cpu.max"));
      std::string word;
      if (!(in >> word >> period) || !absl::SimpleAtoi(word, &quota)) continue;
    } else if (!ReadNumber(absl::StrCat(folder, "/cpu.cfs_quota_us"), &quota) ||
               !ReadNumber(absl::StrCat(folder, "/cpu.cfs_period_us"), &period)) {
      continue;
    }
    if (period == 0 || quota == 0) continue;
    const double here = static_cast<double>(quota) / static_cast<double>(period);
    cores = cores == 0 ? here : std::min(cores, here);
  }
  return cores;
}

}  // namespace tessera
