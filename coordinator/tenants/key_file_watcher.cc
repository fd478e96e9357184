// See key_file_watcher.h. The version is taken before the content is read: a change in between is
// read again by the next Poll rather than missed.

#include "coordinator/tenants/key_file_watcher.h"

#include <sys/stat.h>

namespace tessera {

KeyFileWatcher::Version KeyFileWatcher::CurrentVersion() const {
  struct stat info;
  if (stat(path_.c_str(), &info) != 0) return Version{};
  return {static_cast<int64_t>(info.st_dev), static_cast<int64_t>(info.st_ino),
          static_cast<int64_t>(info.st_size), static_cast<int64_t>(info.st_mtim.tv_sec),
          static_cast<int64_t>(info.st_mtim.tv_nsec)};
}

std::optional<absl::StatusOr<KeyFile>> KeyFileWatcher::Poll() {
  const Version version = CurrentVersion();
  if (seen_ == version) return std::nullopt;
  seen_ = version;
  return ReadKeyFile(path_);
}

}  // namespace tessera
