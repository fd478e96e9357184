// Usage entries that are easy to add up, and a directory for their log.

#ifndef TESSERA_TESTS_COORDINATOR_LEDGER_USAGE_FIXTURE_H_
#define TESSERA_TESTS_COORDINATOR_LEDGER_USAGE_FIXTURE_H_

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "coordinator/ledger/usage_entry.h"

namespace tessera {

inline constexpr absl::Time kNoon = absl::FromUnixSeconds(1'790'000'000 / 86400 * 86400 + 43200);

// Every figure is another one, and all follow from `number`.
inline UsageEntry EntryOf(int number, const std::string& tenant = "acme",
                          const std::string& model = "demo") {
  UsageEntry entry;
  entry.request_id = absl::StrCat("cmpl-", number);
  entry.tenant = tenant;
  entry.model = model;
  entry.device = "cpu X";
  entry.arrival = kNoon + absl::Seconds(number);
  entry.finished = kNoon + absl::Seconds(number + 1);
  entry.reason = FinishReason::kStop;
  entry.prompt_tokens = 10 + static_cast<uint64_t>(number);
  entry.cached_tokens = 4;
  entry.output_tokens = 2;
  entry.work[WorkKind::kPrefill] = 0.5 * number;
  entry.work[WorkKind::kDecode] = 0.25;
  entry.work[WorkKind::kRecompute] = 0.125;
  entry.work[WorkKind::kOverrun] = 0.0625;
  entry.energy_joules = 100 * number;
  entry.cost = {.priced = true,
                .currency = "USD",
                .input = 0.001 * number,
                .output = 0.002,
                .energy = 0.0005,
                .saved = 0.0001,
                .waste = 0.0002};
  return entry;
}

class UsageDirTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = testing::TempDir() + "usage-XXXXXX";
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    dir_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  static std::string Read(const std::filesystem::path& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }
  // The usage files, oldest first.
  std::vector<std::filesystem::path> Files() const {
    std::vector<std::filesystem::path> files;
    for (const auto& entry : std::filesystem::directory_iterator(dir_)) {
      if (entry.path().extension() == ".jsonl") files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    return files;
  }
  // Every line of every file.
  std::vector<std::string> Lines() const {
    std::vector<std::string> lines;
    for (const auto& file : Files()) {
      for (const absl::string_view line : absl::StrSplit(Read(file), '\n', absl::SkipEmpty())) {
        lines.emplace_back(line);
      }
    }
    return lines;
  }
  std::vector<UsageEntry> Entries() const {
    std::vector<UsageEntry> entries;
    for (const std::string& line : Lines()) {
      absl::StatusOr<UsageEntry> entry = ParseUsageLine(line);
      EXPECT_TRUE(entry.ok()) << line << ": " << entry.status();
      if (entry.ok()) entries.push_back(*std::move(entry));
    }
    return entries;
  }

  std::string dir_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_COORDINATOR_LEDGER_USAGE_FIXTURE_H_
