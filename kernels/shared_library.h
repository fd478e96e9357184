// Libraries that are looked for when a GPU is used, not when the program starts: the same program
// runs on machines without them. Looked for beside the program first (../lib), then where the
// system looks, then where CUDA is usually installed. Called while a device is opened; any thread.

#ifndef TESSERA_KERNELS_SHARED_LIBRARY_H_
#define TESSERA_KERNELS_SHARED_LIBRARY_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace tessera {

class SharedLibrary {
 public:
  // `names`: file names, the best first. NOT_FOUND naming all places that were tried.
  static absl::StatusOr<SharedLibrary> Open(const std::vector<std::string>& names);

  SharedLibrary(SharedLibrary&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), path_(std::move(other.path_)) {}
  SharedLibrary& operator=(SharedLibrary&&) = delete;
  ~SharedLibrary();

  const std::string& path() const { return path_; }

  // Sets `function` to the symbol; NOT_FOUND when the library has no such function.
  template <typename Function>
  absl::Status Find(const char* symbol, Function*& function) const {
    void* address = nullptr;
    absl::Status status = FindAddress(symbol, address);
    function = reinterpret_cast<Function*>(address);
    return status;
  }

 private:
  SharedLibrary(void* handle, std::string path) : handle_(handle), path_(std::move(path)) {}
  absl::Status FindAddress(const char* symbol, void*& address) const;

  void* handle_;
  std::string path_;
};

}  // namespace tessera

#endif  // TESSERA_KERNELS_SHARED_LIBRARY_H_
