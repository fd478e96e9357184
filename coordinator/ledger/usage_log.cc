// See the header. What is written goes to a known place (pwrite behind the last synced byte), so
// that a write that failed half-way is simply done again, and a sync that failed is not believed
// later: the bytes are written once more.

#include "coordinator/ledger/usage_log.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status.h"

namespace tessera {
namespace {

constexpr char kLockName[] = ".lock";
constexpr mode_t kDirMode = 0750;
constexpr mode_t kFileMode = 0640;
constexpr size_t kBatchMax = 1024;                                // entries
constexpr absl::Duration kClosingPause = absl::Milliseconds(20);  // between the last tries
constexpr size_t kTailBytes = 64 << 10;  // looked through at once for the last whole line

absl::Status Failed(const std::string& what, const std::string& path) {
  const std::string why = absl::StrCat("cannot ", what, " ", path, ": ", std::strerror(errno));
  return errno == ENOSPC || errno == EDQUOT ? absl::ResourceExhaustedError(why)
                                            : absl::InternalError(why);
}

absl::StatusOr<int> TakeDirectory(const std::string& dir) {
  if (mkdir(dir.c_str(), kDirMode) != 0 && errno != EEXIST) return Failed("make", dir);
  const std::string path = absl::StrCat(dir, "/", kLockName);
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, kFileMode);
  if (fd < 0) return Failed("open", path);
  if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
  close(fd);
  return absl::FailedPreconditionError(
      absl::StrCat("another process writes to the usage directory ", dir,
                   "; each coordinator needs one of its own"));
}

// Up to and with the last line end.
absl::StatusOr<uint64_t> WholeBytes(int fd, uint64_t size, const std::string& path) {
  std::string buffer;
  for (uint64_t end = size; end > 0;) {
    const uint64_t begin = end > kTailBytes ? end - kTailBytes : 0;
    buffer.resize(end - begin);
    if (pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(begin)) !=
        static_cast<ssize_t>(buffer.size())) {
      return Failed("read", path);
    }
    const size_t found = buffer.rfind('\n');
    if (found != std::string::npos) return begin + found + 1;
    end = begin;
  }
  return 0;
}

void SyncDirectory(const std::string& dir) {
  const int fd = open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

std::vector<std::string> SummaryKey(const UsageEntry& entry) {
  return {
      entry.tenant,       entry.model, entry.adapter, entry.device, FinishReasonName(entry.reason),
      entry.cost.currency};
}

}  // namespace

absl::StatusOr<std::unique_ptr<UsageLog>> UsageLog::Open(UsageLogOptions options,
                                                         const Clock& clock) {
  if (!options.calls.write) options.calls.write = ::pwrite;
  if (!options.calls.sync) options.calls.sync = ::fdatasync;
  TESSERA_ASSIGN_OR_RETURN(const int lock_fd, TakeDirectory(options.dir));
  std::unique_ptr<UsageLog> log(new UsageLog(std::move(options), clock, lock_fd));
  TESSERA_RETURN_IF_ERROR(log->Resume());
  TESSERA_RETURN_IF_ERROR(log->OpenFile());
  log->thread_ = std::thread([raw = log.get()] { raw->Run(); });
  return log;
}

UsageLog::UsageLog(UsageLogOptions options, const Clock& clock, int lock_fd)
    : options_(std::move(options)), clock_(clock), lock_fd_(lock_fd) {}

UsageLog::~UsageLog() {
  const absl::Status status = Close(absl::ZeroDuration());
  if (!status.ok()) spdlog::error("{}", std::string(status.message()));
  CloseFile();
  close(lock_fd_);
}

std::string UsageLog::PathOf(const UsageFileName& name) const {
  return absl::StrCat(options_.dir, "/", name.ToString());
}

// Finds the last file and cuts off what a crash left of a line.
absl::Status UsageLog::Resume() {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<UsageFileName> files, ListUsageFiles(options_.dir));
  if (files.empty()) return absl::OkStatus();
  file_ = files.back();
  const std::string path = PathOf(file_);
  fd_ = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd_ < 0) return Failed("open", path);
  struct stat info;
  if (fstat(fd_, &info) != 0) return Failed("look at", path);
  const uint64_t size = static_cast<uint64_t>(info.st_size);
  TESSERA_ASSIGN_OR_RETURN(file_size_, WholeBytes(fd_, size, path));
  if (file_size_ == size) return absl::OkStatus();
  spdlog::warn("{}: the last {} bytes are no whole line and are cut off", path, size - file_size_);
  if (ftruncate(fd_, static_cast<off_t>(file_size_)) != 0 || fdatasync(fd_) != 0) {
    return Failed("cut", path);
  }
  return absl::OkStatus();
}

// The file for what comes now: that of today with room, else a new one.
absl::Status UsageLog::OpenFile() {
  const absl::CivilDay today = absl::ToCivilDay(clock_.Now(), absl::UTCTimeZone());
  struct stat info;
  // One that somebody has deleted would take everything and keep nothing.
  const bool is_there = fd_ >= 0 && fstat(fd_, &info) == 0 && info.st_nlink > 0;
  // A clock that was set back does not open earlier days again.
  if (is_there && file_.day >= today && file_size_ < options_.file_bytes_max) {
    return absl::OkStatus();
  }
  const UsageFileName next =
      file_.day >= today ? UsageFileName{file_.day, file_.number + 1} : UsageFileName{today, 1};
  CloseFile();
  if (next.number > kUsageFilesPerDayMax) {
    return absl::ResourceExhaustedError(
        absl::StrCat(options_.dir, " has ", kUsageFilesPerDayMax, " files of one day"));
  }
  const std::string path = PathOf(next);
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, kFileMode);
  if (fd_ < 0) return Failed("make", path);
  file_ = next;
  file_size_ = 0;
  SyncDirectory(options_.dir);
  return absl::OkStatus();
}

void UsageLog::CloseFile() {
  if (fd_ < 0) return;
  // What was written of a batch that did not get through is not part of the log.
  if (std::exchange(dirty_, false) && ftruncate(fd_, static_cast<off_t>(file_size_)) != 0) {
    spdlog::error("{}", std::string(Failed("cut", PathOf(file_)).message()));
  }
  close(std::exchange(fd_, -1));
}

absl::Status UsageLog::WriteAndSync(const std::string& bytes) {
  // After a failure the same file goes on, so that no entry is in two.
  if (!dirty_) TESSERA_RETURN_IF_ERROR(OpenFile());
  dirty_ = true;
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t written = options_.calls.write(fd_, bytes.data() + done, bytes.size() - done,
                                                 static_cast<off_t>(file_size_ + done));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return Failed("write to", PathOf(file_));
    done += static_cast<size_t>(written);
  }
  if (options_.calls.sync(fd_) != 0) return Failed("sync", PathOf(file_));
  file_size_ += bytes.size();
  dirty_ = false;
  return absl::OkStatus();
}

void UsageLog::Append(UsageEntry entry) {
  absl::MutexLock lock(&mutex_);
  if (queue_.size() >= options_.queue_max || closing_) return Merge(std::move(entry));
  entry.id = absl::StrCat(options_.run, "-", next_entry_++);
  queue_.push_back(std::move(entry));
  ++stats_.waiting;
}

void UsageLog::Merge(UsageEntry entry) {
  if (summaries_.empty()) {
    spdlog::error("the usage log cannot keep up, requests are summed up: {}",
                  stats_.error.empty() ? "the disk is slow" : stats_.error);
  }
  std::vector<std::string> key = SummaryKey(entry);
  if (summaries_.size() >= kUsageSummariesMax && !summaries_.contains(key)) {
    key[0] = entry.tenant = "other";
  }
  const auto [found, is_new] = summaries_.try_emplace(std::move(key), entry);
  if (!is_new) {
    stats_.merged += found->second.requests == 1 ? 2 : 1;
    return MergeUsage(entry, &found->second);
  }
  found->second.id = absl::StrCat(options_.run, "-", next_entry_++);
  ++stats_.waiting;
}

bool UsageLog::TakeBatch(std::vector<UsageEntry>* batch) {
  absl::MutexLock lock(&mutex_);
  const auto has_work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return closing_ || !queue_.empty() || !summaries_.empty();
  };
  mutex_.Await(absl::Condition(&has_work));
  const size_t count = std::min(queue_.size(), kBatchMax);
  const auto end = queue_.begin() + static_cast<std::ptrdiff_t>(count);
  batch->assign(std::make_move_iterator(queue_.begin()), std::make_move_iterator(end));
  queue_.erase(queue_.begin(), end);
  if (queue_.empty()) {
    for (auto& [key, summary] : summaries_) batch->push_back(std::move(summary));
    summaries_.clear();
  }
  return !batch->empty();
}

bool UsageLog::Pause(absl::Duration time) {
  bool closing = false;
  {
    absl::MutexLock lock(&mutex_);
    closing = mutex_.AwaitWithTimeout(absl::Condition(&closing_), time);
    if (closing && absl::Now() >= close_limit_) return false;
  }
  if (closing) absl::SleepFor(std::min(time, kClosingPause));
  return true;
}

void UsageLog::Settle(const absl::Status& status, size_t entries) {
  absl::MutexLock lock(&mutex_);
  const std::string error(status.message());
  if (!error.empty() && stats_.error.empty()) {
    spdlog::error("{}; {} usage entries wait for it", error, stats_.waiting);
  }
  if (error.empty() && !stats_.error.empty()) {
    spdlog::info("the usage log is written again; {} requests were summed up", stats_.merged);
  }
  stats_.error = error;
  if (!status.ok()) return;
  stats_.written += entries;
  stats_.waiting -= entries;
}

void UsageLog::Run() {
  std::vector<UsageEntry> batch;
  while (TakeBatch(&batch)) {
    std::string bytes;
    for (const UsageEntry& entry : batch) absl::StrAppend(&bytes, UsageLine(entry), "\n");
    while (true) {
      const absl::Status status = WriteAndSync(bytes);
      Settle(status, batch.size());
      if (status.ok()) break;
      if (!Pause(options_.retry_interval)) return;
    }
    if (!Pause(options_.sync_interval)) return;
  }
}

bool UsageLog::Flush(absl::Duration limit) {
  absl::MutexLock lock(&mutex_);
  const uint64_t wanted = stats_.written + stats_.waiting;
  const auto is_written = [this, wanted]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stats_.written >= wanted;
  };
  return mutex_.AwaitWithTimeout(absl::Condition(&is_written), limit);
}

UsageLogStats UsageLog::Stats() const {
  absl::MutexLock lock(&mutex_);
  return stats_;
}

absl::Status UsageLog::Close(absl::Duration limit) {
  if (!thread_.joinable()) return absl::OkStatus();
  {
    absl::MutexLock lock(&mutex_);
    closing_ = true;
    close_limit_ = absl::Now() + limit;
  }
  thread_.join();
  absl::MutexLock lock(&mutex_);
  if (stats_.waiting == 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(stats_.waiting, " usage entries were not written to ",
                                          options_.dir, ": ", stats_.error));
}

}  // namespace tessera
