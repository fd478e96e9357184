// The usage log: a line per request, over restarts, crashes, full and slow disks, days and sizes.

#include "coordinator/ledger/usage_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <set>

#include "absl/time/clock.h"
#include "coordinator/ledger/usage_totals.h"
#include "tests/coordinator/ledger/usage_fixture.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kWaitMax = absl::Seconds(20);

class UsageLogTest : public UsageDirTest {
 protected:
  UsageLogOptions Options() {
    UsageLogOptions options;
    options.dir = dir_;
    options.run = absl::StrCat("run", ++runs_);
    options.sync_interval = absl::Milliseconds(1);
    options.retry_interval = absl::Milliseconds(1);
    return options;
  }
  std::unique_ptr<UsageLog> Open(UsageLogOptions options) {
    absl::StatusOr<std::unique_ptr<UsageLog>> log = UsageLog::Open(std::move(options), clock_);
    EXPECT_TRUE(log.ok()) << log.status();
    return log.ok() ? *std::move(log) : nullptr;
  }
  std::unique_ptr<UsageLog> Open() { return Open(Options()); }

  ManualClock clock_{kNoon};
  int runs_ = 0;
};

// A disk that fails when it is told to.
struct Disk {
  std::atomic<int> write_error{0};
  std::atomic<int> sync_error{0};
  std::atomic<size_t> bytes_left{SIZE_MAX};  // then it is full

  UsageFileCalls Calls() {
    return {.write = [this](int fd, const void* bytes, size_t count, off_t offset) -> ssize_t {
              if (write_error != 0) return errno = write_error, -1;
              const size_t room = std::min<size_t>(bytes_left, count);
              if (room == 0) return errno = ENOSPC, -1;
              const ssize_t done = ::pwrite(fd, bytes, room, offset);
              if (bytes_left != SIZE_MAX) bytes_left -= static_cast<size_t>(done);
              return done;
            },
            .sync =
                [this](int fd) {
                  if (sync_error != 0) return errno = sync_error, -1;
                  return ::fdatasync(fd);
                }};
  }
};

void WaitForError(const UsageLog& log) {
  const absl::Time end = absl::Now() + kWaitMax;
  while (log.Stats().error.empty() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
  ASSERT_FALSE(log.Stats().error.empty());
}

TEST_F(UsageLogTest, EveryFieldOfAnEntryComesBack) {
  {
    const auto log = Open();
    UsageEntry entry = EntryOf(7);
    entry.adapter = "an adapter, \"quoted\"\n";
    entry.reason = FinishReason::kDeadline;
    log->Append(entry);
    UsageEntry unpriced = EntryOf(8);
    unpriced.cost = Cost();
    log->Append(unpriced);
    EXPECT_TRUE(log->Flush(kWaitMax));
  }
  const std::vector<UsageEntry> entries = Entries();
  ASSERT_EQ(entries.size(), 2u);
  const UsageEntry wanted = EntryOf(7);
  const UsageEntry& got = entries[0];
  EXPECT_EQ(got.id, "run1-1");
  EXPECT_EQ(got.requests, 1u);
  EXPECT_EQ(got.request_id, wanted.request_id);
  EXPECT_EQ(got.tenant, wanted.tenant);
  EXPECT_EQ(got.model, wanted.model);
  EXPECT_EQ(got.adapter, "an adapter, \"quoted\"\n");
  EXPECT_EQ(got.device, wanted.device);
  EXPECT_EQ(got.arrival, wanted.arrival);
  EXPECT_EQ(got.finished, wanted.finished);
  EXPECT_EQ(got.reason, FinishReason::kDeadline);
  EXPECT_EQ(got.prompt_tokens, wanted.prompt_tokens);
  EXPECT_EQ(got.cached_tokens, wanted.cached_tokens);
  EXPECT_EQ(got.output_tokens, wanted.output_tokens);
  EXPECT_EQ(got.work.seconds, wanted.work.seconds);
  EXPECT_EQ(got.energy_joules, wanted.energy_joules);
  EXPECT_TRUE(got.cost.priced);
  EXPECT_EQ(got.cost.currency, "USD");
  EXPECT_EQ(got.cost.input, wanted.cost.input);
  EXPECT_EQ(got.cost.output, wanted.cost.output);
  EXPECT_EQ(got.cost.energy, wanted.cost.energy);
  EXPECT_EQ(got.cost.saved, wanted.cost.saved);
  EXPECT_EQ(got.cost.waste, wanted.cost.waste);
  EXPECT_FALSE(entries[1].cost.priced);
  EXPECT_EQ(entries[1].cost.currency, "none");
  EXPECT_EQ(Lines()[0].substr(0, 7), "{\"v\":1,");
}

TEST_F(UsageLogTest, IdsAreNeverGivenTwiceAndFilesGoOn) {
  std::set<std::string> ids;
  for (int run = 0; run < 3; ++run) {
    const auto log = Open();
    for (int i = 0; i < 5; ++i) log->Append(EntryOf(i));
    EXPECT_TRUE(log->Close(kWaitMax).ok());
    EXPECT_EQ(log->Stats().written, 5u);
    EXPECT_EQ(log->Stats().waiting, 0u);
  }
  for (const UsageEntry& entry : Entries()) EXPECT_TRUE(ids.insert(entry.id).second) << entry.id;
  EXPECT_EQ(ids.size(), 15u);
  EXPECT_EQ(Files().size(), 1u);
}

TEST_F(UsageLogTest, ATornLastLineIsCutOff) {
  {
    const auto log = Open();
    log->Append(EntryOf(1));
    log->Append(EntryOf(2));
    EXPECT_TRUE(log->Flush(kWaitMax));
  }
  const std::string whole = Read(Files()[0]);
  // What a crash may leave: any part of a line, also of a very long one.
  for (const std::string& torn :
       {std::string("{"), whole.substr(0, whole.size() / 2 - 1), std::string(200'000, 'x')}) {
    std::ofstream(Files()[0], std::ios::binary) << whole << torn;
    {
      const auto log = Open();
      ASSERT_NE(log, nullptr);
      EXPECT_EQ(Read(Files()[0]), whole);
      log->Append(EntryOf(3));
      EXPECT_TRUE(log->Close(kWaitMax).ok());
    }
    ASSERT_EQ(Entries().size(), 3u);
    EXPECT_EQ(Entries()[2].request_id, "cmpl-3");
  }
  std::ofstream(Files()[0], std::ios::binary) << "no line at all";
  EXPECT_NE(Open(), nullptr);
  EXPECT_EQ(Read(Files()[0]), "");
}

TEST_F(UsageLogTest, ADirectoryIsOfOneProcess) {
  const auto first = Open();
  const auto second = UsageLog::Open(Options(), clock_);
  ASSERT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(dir_));
  UsageLogOptions nowhere = Options();
  nowhere.dir = dir_ + "/a/b";
  EXPECT_FALSE(UsageLog::Open(nowhere, clock_).ok());
}

TEST_F(UsageLogTest, FilesAreOfADayAndOfASize) {
  UsageLogOptions options = Options();
  options.file_bytes_max = 1000;
  const auto log = Open(options);
  for (int i = 0; i < 12; ++i) {
    if (i == 6) clock_.Advance(absl::Hours(24));
    log->Append(EntryOf(i));
    ASSERT_TRUE(log->Flush(kWaitMax));
  }
  clock_.Advance(-absl::Hours(48));  // a clock that is set back does not open old days again
  log->Append(EntryOf(12));
  ASSERT_TRUE(log->Flush(kWaitMax));
  EXPECT_EQ(Entries().size(), 13u);
  const auto files = Files();
  ASSERT_GT(files.size(), 4u);
  std::set<std::string> days;
  for (const auto& file : files) {
    EXPECT_LT(std::filesystem::file_size(file), 1000u + 600u);
    UsageFileName name;
    ASSERT_TRUE(ParseUsageFileName(file.filename().string(), &name)) << file;
    days.insert(absl::StrCat(name.day.year(), "-", name.day.month(), "-", name.day.day()));
  }
  EXPECT_EQ(days.size(), 2u);
  for (int i = 0; i < 13; ++i) EXPECT_EQ(Entries()[i].request_id, absl::StrCat("cmpl-", i));
}

TEST_F(UsageLogTest, AFullDiskLosesNothingAndWritesNothingTwice) {
  Disk disk;
  UsageLogOptions options = Options();
  options.calls = disk.Calls();
  const auto log = Open(options);
  log->Append(EntryOf(0));
  ASSERT_TRUE(log->Flush(kWaitMax));
  for (const size_t room : {size_t{0}, size_t{1}, size_t{100}, size_t{500}, size_t{1000}}) {
    disk.bytes_left = room;
    for (int i = 1; i <= 3; ++i) log->Append(EntryOf(i));
    WaitForError(*log);
    EXPECT_THAT(log->Stats().error, HasSubstr("No space left"));
    EXPECT_GT(log->Stats().waiting, 0u);
    EXPECT_FALSE(log->Flush(absl::ZeroDuration()));
    disk.bytes_left = SIZE_MAX;
    ASSERT_TRUE(log->Flush(kWaitMax));
    EXPECT_EQ(log->Stats().error, "");
  }
  EXPECT_EQ(Entries().size(), 16u);
  EXPECT_EQ(log->Stats().written, 16u);
  EXPECT_EQ(log->Stats().merged, 0u);
  std::set<std::string> ids;
  for (const UsageEntry& entry : Entries()) EXPECT_TRUE(ids.insert(entry.id).second);
}

TEST_F(UsageLogTest, ASyncThatFailedIsDoneAgainWithItsBytes) {
  Disk disk;
  UsageLogOptions options = Options();
  options.calls = disk.Calls();
  const auto log = Open(options);
  disk.sync_error = EIO;
  log->Append(EntryOf(1));
  WaitForError(*log);
  EXPECT_EQ(log->Stats().written, 0u);
  disk.sync_error = 0;
  ASSERT_TRUE(log->Flush(kWaitMax));
  EXPECT_EQ(Entries().size(), 1u);
}

TEST_F(UsageLogTest, BeyondTheQueueRequestsAreSummedUpAndSaidSo) {
  Disk disk;
  disk.write_error = EIO;
  UsageLogOptions options = Options();
  options.calls = disk.Calls();
  options.queue_max = 4;
  const auto log = Open(options);
  UsageTotals wanted({UsageField::kTenant});
  for (int i = 0; i < 1000; ++i) {
    const UsageEntry entry = EntryOf(i, absl::StrCat("t", i % 3));
    wanted.Add(entry);
    log->Append(entry);
  }
  WaitForError(*log);
  const UsageLogStats stats = log->Stats();
  EXPECT_GE(stats.merged, 1000u - 2 * (4 + 3));
  EXPECT_LE(stats.waiting, 2 * (4u + 3));  // in the writer's hands, and for it
  disk.write_error = 0;
  ASSERT_TRUE(log->Flush(kWaitMax));
  UsageTotals got({UsageField::kTenant});
  uint64_t requests = 0, summaries = 0;
  for (const UsageEntry& entry : Entries()) {
    got.Add(entry);
    requests += entry.requests;
    summaries += entry.requests > 1;
    EXPECT_EQ(entry.request_id.empty(), entry.requests > 1);
  }
  EXPECT_EQ(requests, 1000u);
  EXPECT_GE(summaries, 3u);
  EXPECT_LE(summaries, 6u);
  for (const auto& [key, sums] : wanted.rows()) {
    const UsageSums& other = got.rows().at(key);
    EXPECT_EQ(other.requests, sums.requests);
    EXPECT_EQ(other.prompt_tokens, sums.prompt_tokens);
    EXPECT_EQ(other.cached_tokens, sums.cached_tokens);
    EXPECT_EQ(other.output_tokens, sums.output_tokens);
    EXPECT_NEAR(other.work.total(), sums.work.total(), 1e-6);
    EXPECT_NEAR(other.energy_joules, sums.energy_joules, 1e-6);
    EXPECT_NEAR(other.cost.total(), sums.cost.total(), 1e-9);
    EXPECT_NEAR(other.cost.waste, sums.cost.waste, 1e-9);
  }
}

TEST_F(UsageLogTest, AppendDoesNotWaitForADiskThatHangs) {
  std::mutex hang;
  UsageLogOptions options = Options();
  options.calls.write = [&hang](int fd, const void* bytes, size_t count, off_t offset) {
    const std::lock_guard<std::mutex> held(hang);
    return ::pwrite(fd, bytes, count, offset);
  };
  options.queue_max = 100;
  const auto log = Open(options);
  hang.lock();
  // Would never come back if it waited.
  for (int i = 0; i < 5000; ++i) log->Append(EntryOf(i));
  EXPECT_FALSE(log->Flush(absl::Milliseconds(1)));
  hang.unlock();
  EXPECT_TRUE(log->Flush(kWaitMax));
  uint64_t requests = 0;
  for (const UsageEntry& entry : Entries()) requests += entry.requests;
  EXPECT_EQ(requests, 5000u);
}

TEST_F(UsageLogTest, WhatCannotBeWrittenAtTheEndIsTold) {
  Disk disk;
  disk.write_error = EIO;
  UsageLogOptions options = Options();
  options.calls = disk.Calls();
  const auto log = Open(options);
  for (int i = 0; i < 3; ++i) log->Append(EntryOf(i));
  const absl::Status closed = log->Close(absl::Milliseconds(50));
  EXPECT_EQ(closed.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(closed.message()), HasSubstr("3 usage entries were not written"));
  EXPECT_EQ(Lines().size(), 0u);
}

TEST_F(UsageLogTest, AHalfWrittenBatchIsNotLeftBehind) {
  Disk disk;
  {
    UsageLogOptions options = Options();
    options.calls = disk.Calls();
    const auto log = Open(options);
    disk.bytes_left = 100;
    log->Append(EntryOf(1));
    EXPECT_FALSE(log->Close(absl::Milliseconds(20)).ok());
  }
  EXPECT_EQ(Read(Files()[0]), "");
}

TEST_F(UsageLogTest, AFileThatSomebodyDeletesIsReplaced) {
  const auto log = Open();
  log->Append(EntryOf(1));
  ASSERT_TRUE(log->Flush(kWaitMax));
  std::filesystem::remove(Files()[0]);
  log->Append(EntryOf(2));
  ASSERT_TRUE(log->Flush(kWaitMax));
  ASSERT_EQ(Entries().size(), 1u);
  EXPECT_EQ(Entries()[0].request_id, "cmpl-2");
}

}  // namespace
}  // namespace tessera
