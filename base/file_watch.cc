// See the header.

#include "base/file_watch.h"

#include <sys/stat.h>

namespace tessera {

FileWatch::Version FileWatch::CurrentVersion() const {
  struct stat info;
  if (stat(path_.c_str(), &info) != 0) return Version{};
  return {static_cast<int64_t>(info.st_dev), static_cast<int64_t>(info.st_ino),
          static_cast<int64_t>(info.st_size), static_cast<int64_t>(info.st_mtim.tv_sec),
          static_cast<int64_t>(info.st_mtim.tv_nsec)};
}

bool FileWatch::Changed() {
  const Version version = CurrentVersion();
  if (seen_ == version) return false;
  seen_ = version;
  return true;
}

}  // namespace tessera
