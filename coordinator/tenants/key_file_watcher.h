// Notices that the key file has changed and reads it again. Polled by main about once a second.

#ifndef TESSERA_COORDINATOR_TENANTS_KEY_FILE_WATCHER_H_
#define TESSERA_COORDINATOR_TENANTS_KEY_FILE_WATCHER_H_

#include <optional>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/file_watch.h"
#include "coordinator/tenants/key_file.h"

namespace tessera {

class KeyFileWatcher {
 public:
  explicit KeyFileWatcher(std::string path) : watch_(std::move(path)) {}

  // The file's content when it is another one than at the last call, or what is wrong with it, once
  // per change; nothing while it stays as it is. The first call always has something.
  std::optional<absl::StatusOr<KeyFile>> Poll() {
    if (!watch_.Changed()) return std::nullopt;
    return ReadKeyFile(watch_.path());
  }
  // The next Poll reads the file whether it has changed or not.
  void Forget() { watch_.Forget(); }

 private:
  FileWatch watch_;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_TENANTS_KEY_FILE_WATCHER_H_
