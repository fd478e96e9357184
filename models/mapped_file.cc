// MappedFile of checkpoint.h: a file as read-only memory. Pages come when touched and go on
// Release.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "models/checkpoint.h"

namespace tessera {
namespace {

absl::Status ErrnoError(const std::string& path, const char* what) {
  const std::string text = absl::StrCat(what, " ", path, ": ", strerror(errno));
  if (errno == ENOENT) return absl::NotFoundError(text);
  if (errno == EACCES) return absl::PermissionDeniedError(text);
  return absl::InternalError(text);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path) {
  // Non-blocking, so that a pipe of that name cannot stop us.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return ErrnoError(path, "cannot open");
  struct stat info;
  if (fstat(fd, &info) != 0) {
    absl::Status status = ErrnoError(path, "cannot examine");
    close(fd);
    return status;
  }
  if (!S_ISREG(info.st_mode) || info.st_size == 0) {
    close(fd);
    return absl::InvalidArgumentError(
        absl::StrCat(path, S_ISREG(info.st_mode) ? " is empty" : " is not a file"));
  }
  const uint64_t bytes = static_cast<uint64_t>(info.st_size);
  void* data = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  absl::Status status = data == MAP_FAILED ? ErrnoError(path, "cannot map") : absl::OkStatus();
  close(fd);
  if (!status.ok()) return status;
  return std::unique_ptr<MappedFile>(
      new MappedFile(path, static_cast<const uint8_t*>(data), bytes));
}

MappedFile::~MappedFile() { munmap(const_cast<uint8_t*>(data_), bytes_); }

void MappedFile::Release(uint64_t begin, uint64_t end) const {
  TESSERA_CHECK(begin <= end && end <= bytes_)
      << path_ << ": " << begin << ".." << end << " of " << bytes_;
  // Whole pages only; one shared with a neighbour is read again if somebody still wants it.
  const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t aligned = begin / page * page;
  if (aligned < end) madvise(const_cast<uint8_t*>(data_) + aligned, end - aligned, MADV_DONTNEED);
}

}  // namespace tessera
