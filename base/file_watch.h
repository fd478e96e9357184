// Notices that a file has changed since it was last looked at, for files that are read again while
// the process runs. Polled about once a second; one thread.

#ifndef TESSERA_BASE_FILE_WATCH_H_
#define TESSERA_BASE_FILE_WATCH_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace tessera {

class FileWatch {
 public:
  explicit FileWatch(std::string path) : path_(std::move(path)) {}

  // True the first time, and whenever the file is another one than at the last call. Ask before the
  // content is read: a change in between is then read again rather than missed.
  bool Changed();
  // The next Changed is true whether it has changed or not.
  void Forget() { seen_.reset(); }
  const std::string& path() const { return path_; }

 private:
  // Device, inode, size, time of the last change (s, ns); zeros for a file that is not there.
  using Version = std::array<int64_t, 5>;

  Version CurrentVersion() const;

  const std::string path_;
  std::optional<Version> seen_;
};

}  // namespace tessera

#endif  // TESSERA_BASE_FILE_WATCH_H_
