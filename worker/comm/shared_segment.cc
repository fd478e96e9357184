// POSIX shared memory under /dev/shm, mode 0600. The room is reserved at creation, because a full
// /dev/shm would otherwise show as SIGBUS in the middle of a step.

#include "worker/comm/shared_segment.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <random>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/string_view.h"
#include "base/status.h"

namespace tessera {
namespace {

constexpr uint64_t kSegmentMagic = 0x3130'6765'7365'7374;  // "tseseg01"; changes with the layout
constexpr absl::string_view kNamePrefix = "/tessera-comm-";
constexpr size_t kNameBytesMax = 64;
constexpr auto kStaleAge = std::chrono::seconds(60);
constexpr size_t kPageBytes = 4096;

constexpr size_t HeaderBytes() {
  return (sizeof(SegmentHeader) + kPageBytes - 1) / kPageBytes * kPageBytes;
}
constexpr size_t RoundBytes(int size) { return static_cast<size_t>(size) * 2 * kRoundSlotBytes; }
constexpr size_t SegmentBytes(int size) {
  return HeaderBytes() + RoundBytes(size) + static_cast<size_t>(size) * size * 2 * kMailSlotBytes;
}

uint64_t Random64() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

// Removes what killed creators left. Best effort: whatever cannot be opened or is in use stays.
void RemoveStaleSegments() {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", error)) {
    const std::string name = absl::StrCat("/", entry.path().filename().string());
    if (!absl::StartsWith(name, kNamePrefix)) continue;
    struct stat info = {};
    const int fd = shm_open(name.c_str(), O_RDWR, 0);
    if (fd < 0) continue;
    const bool old =
        fstat(fd, &info) == 0 && std::time(nullptr) - info.st_ctime > kStaleAge.count();
    if (old && flock(fd, LOCK_EX | LOCK_NB) == 0) shm_unlink(name.c_str());
    close(fd);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<SharedSegment>> SharedSegment::Create(int size) {
  RemoveStaleSegments();
  const uint64_t token = Random64();
  std::string name = absl::StrFormat("%s%d-%016x", kNamePrefix, getpid(), Random64());
  const int fd = shm_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd < 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot create shared memory ", name, ": ", std::strerror(errno)));
  }
  std::unique_ptr<SharedSegment> segment(new SharedSegment(std::move(name), size));
  segment->lock_fd_ = fd;  // from here on the destructor removes the name
  flock(fd, LOCK_EX | LOCK_NB);
  const size_t bytes = SegmentBytes(size);
  const int no_room = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  if (no_room != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("/dev/shm has no room for ", bytes, " bytes of communication buffers (",
                     std::strerror(no_room), "); enlarge it (docker: --shm-size) or free it"));
  }
  TESSERA_RETURN_IF_ERROR(segment->Map(fd));
  // New pages are zero: every counter starts there.
  segment->header()->magic = kSegmentMagic;
  segment->header()->token = token;
  return segment;
}

absl::StatusOr<std::unique_ptr<SharedSegment>> SharedSegment::Attach(const std::string& name,
                                                                     uint64_t token, int size) {
  if (!absl::StartsWith(name, kNamePrefix) || name.size() > kNameBytesMax ||
      name.find('/', 1) != std::string::npos || name.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("rank 0 names a shared memory segment that is not ours");
  }
  const int fd = shm_open(name.c_str(), O_RDWR, 0);
  if (fd < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot open shared memory ", name, " of rank 0: ", std::strerror(errno),
                     "; ranks in different containers must share /dev/shm, or use gloo"));
  }
  std::unique_ptr<SharedSegment> segment(new SharedSegment(name, size));
  struct stat info = {};
  absl::Status status = absl::OkStatus();
  if (fstat(fd, &info) != 0 || static_cast<size_t>(info.st_size) != SegmentBytes(size)) {
    status = absl::FailedPreconditionError(
        absl::StrCat("shared memory ", name, " has ", info.st_size, " bytes, expected ",
                     SegmentBytes(size), "; are all workers of the same build?"));
  } else {
    status = segment->Map(fd);
  }
  close(fd);
  if (!status.ok()) return status;
  if (segment->header()->magic != kSegmentMagic || segment->header()->token != token) {
    return absl::FailedPreconditionError(
        absl::StrCat("shared memory ", name, " is not the segment that rank 0 announced"));
  }
  return segment;
}

absl::Status SharedSegment::Map(int fd) {
  void* memory = mmap(nullptr, SegmentBytes(size_), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    return absl::UnavailableError(
        absl::StrCat("cannot map shared memory ", name_, ": ", std::strerror(errno)));
  }
  memory_ = memory;
  return absl::OkStatus();
}

SharedSegment::~SharedSegment() {
  if (lock_fd_ >= 0) Unlink();
  if (memory_ != nullptr) munmap(memory_, SegmentBytes(size_));
}

void SharedSegment::Unlink() {
  shm_unlink(name_.c_str());
  if (lock_fd_ >= 0) close(lock_fd_);
  lock_fd_ = -1;
}

char* SharedSegment::RoundSlot(int rank, uint32_t round) const {
  const size_t slot = static_cast<size_t>(rank) * 2 + (round & 1);
  return static_cast<char*>(memory_) + HeaderBytes() + slot * kRoundSlotBytes;
}

char* SharedSegment::MailSlot(int from, int to, uint32_t part) const {
  const size_t slot = (static_cast<size_t>(from) * size_ + to) * 2 + (part & 1);
  return static_cast<char*>(memory_) + HeaderBytes() + RoundBytes(size_) + slot * kMailSlotBytes;
}

}  // namespace tessera
