// The probe on this machine (plausible, parseable) and on made-up control groups (exact).

#include "worker/probe.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/models/model_files.h"
#include "worker/cgroup.h"

namespace tessera {
namespace {

void Put(const TempDir& root, const std::string& path, const std::string& text) {
  const std::filesystem::path file = root.path() + path;
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

TEST(ProbeTest, ThisMachineIsPlausible) {
  const MachineFacts facts = ProbeMachine();
  EXPECT_GE(facts.cpu.cores_usable, 1);
  EXPECT_LE(facts.cpu.cores_usable, facts.cpu.cores_online);
  EXPECT_GE(DefaultThreads(facts.cpu), 1);
  EXPECT_LE(DefaultThreads(facts.cpu), facts.cpu.cores_usable);
  EXPECT_GT(facts.memory.total, 0u);
  EXPECT_LE(facts.memory.UsableNow(), facts.memory.Usable());
  EXPECT_FALSE(facts.host_id.empty());
  EXPECT_EQ(facts.host_id, ProbeMachine().host_id);
  EXPECT_GT(ProcessResidentBytes(), uint64_t{1} << 20);
  EXPECT_LT(ProcessResidentBytes(), facts.memory.total);
}

TEST(ProbeTest, JsonHoldsWhatDoctorReads) {
  const MachineFacts facts = ProbeMachine();
  const nlohmann::json json = nlohmann::json::parse(MachineFactsJson(facts));
  EXPECT_EQ(json["cpu"]["cores_usable"], facts.cpu.cores_usable);
  EXPECT_EQ(json["cpu"]["isa"], IsaName(facts.cpu));
  EXPECT_EQ(json["memory"]["total_bytes"], facts.memory.total);
  EXPECT_TRUE(json["memory"].contains("cgroup_limit_bytes"));
  EXPECT_TRUE(json["memory"].contains("shm_free_bytes"));
  EXPECT_TRUE(json["gpu"]["device_nodes"].is_array());
}

TEST(CgroupTest, Version2TakesTheTightestLimitOnTheWayUp) {
  const TempDir root;
  Put(root, "/proc/self/cgroup", "0::/pod/box\n");
  Put(root, "/sys/fs/cgroup/pod/box/memory.max", "8000\n");
  Put(root, "/sys/fs/cgroup/pod/box/memory.current", "100\n");
  Put(root, "/sys/fs/cgroup/pod/memory.max", "5000\n");
  Put(root, "/sys/fs/cgroup/pod/memory.current", "3000\n");
  Put(root, "/sys/fs/cgroup/pod/memory.stat", "anon 7\ninactive_file 1000\nactive_file 9\n");
  Put(root, "/sys/fs/cgroup/memory.max", "max\n");
  Put(root, "/sys/fs/cgroup/pod/box/cpu.max", "150000 100000\n");
  Put(root, "/sys/fs/cgroup/pod/cpu.max", "max 100000\n");
  const CgroupMemory memory = ReadCgroupMemory(root.path());
  EXPECT_EQ(memory.limit, 5000u);
  EXPECT_EQ(memory.used, 2000u);
  EXPECT_DOUBLE_EQ(CgroupCpuQuota(root.path()), 1.5);
}

TEST(CgroupTest, Version1AndNoLimit) {
  const TempDir root;
  Put(root, "/proc/self/cgroup", "5:memory:/a\n3:cpu,cpuacct:/a\n0::/\n");
  Put(root, "/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "7000\n");
  Put(root, "/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "6500\n");
  Put(root, "/sys/fs/cgroup/memory/a/memory.stat", "total_inactive_file 500\n");
  Put(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  Put(root, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n");
  Put(root, "/sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n");
  Put(root, "/sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
  const CgroupMemory memory = ReadCgroupMemory(root.path());
  EXPECT_EQ(memory.limit, 7000u);
  EXPECT_EQ(memory.used, 6000u);
  EXPECT_DOUBLE_EQ(CgroupCpuQuota(root.path()), 0);
  const TempDir empty;
  EXPECT_EQ(ReadCgroupMemory(empty.path()).limit, kNoLimit);
}

TEST(CgroupTest, UsableMemoryObeysTheContainer) {
  MemoryFacts memory;
  memory.total = 1000;
  memory.available = 900;
  EXPECT_EQ(memory.Usable(), 1000u);
  EXPECT_EQ(memory.UsableNow(), 900u);
  memory.cgroup_limit = 400;
  memory.cgroup_used = 150;
  EXPECT_EQ(memory.Usable(), 400u);
  EXPECT_EQ(memory.UsableNow(), 250u);
  memory.cgroup_used = 500;
  EXPECT_EQ(memory.UsableNow(), 0u);
}

}  // namespace
}  // namespace tessera
