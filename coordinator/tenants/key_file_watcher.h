// Notices that the key file has changed and reads it again. Polled by main about once a second.

#ifndef TESSERA_COORDINATOR_TENANTS_KEY_FILE_WATCHER_H_
#define TESSERA_COORDINATOR_TENANTS_KEY_FILE_WATCHER_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "coordinator/tenants/key_file.h"

namespace tessera {

class KeyFileWatcher {
 public:
  explicit KeyFileWatcher(std::string path) : path_(std::move(path)) {}

  // The file's content when it is another one than at the last call, or what is wrong with it, once
  // per change; nothing while it stays as it is. The first call always has something.
  std::optional<absl::StatusOr<KeyFile>> Poll();
  // The next Poll reads the file whether it has changed or not.
  void Forget() { seen_.reset(); }

 private:
  // Device, inode, size, time of the last change (s, ns); zeros for a file that is not there.
  using Version = std::array<int64_t, 5>;

  Version CurrentVersion() const;

  const std::string path_;
  std::optional<Version> seen_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TENANTS_KEY_FILE_WATCHER_H_
