// See the header.

#include "kernels/shared_library.h"

#include <dlfcn.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tessera {
namespace {

// Folders besides the system's own; "" is the system's search.
std::vector<std::string> Folders() {
  std::vector<std::string> folders;
  std::error_code ignored;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  if (!program.empty()) {
    folders.push_back((program.parent_path().parent_path() / "lib" / "").string());
  }
  folders.push_back("");
  // The toolkit's own place, then that of deploy/install-deps.sh --cuda.
  for (const char* folder :
       {"/usr/local/cuda/lib64/", "/usr/local/cuda/targets/x86_64-linux/lib/",
        "/opt/tessera/cuda/nvidia/cu13/lib/", "/opt/tessera/cuda/nvidia/nccl/lib/"}) {
    folders.push_back(folder);
  }
  return folders;
}

}  // namespace

absl::StatusOr<SharedLibrary> SharedLibrary::Open(const std::vector<std::string>& names) {
  std::vector<std::string> tried;
  for (const std::string& folder : Folders()) {
    for (const std::string& name : names) {
      const std::string path = absl::StrCat(folder, name);
      if (!folder.empty() && !std::filesystem::exists(path)) {
        tried.push_back(path);
        continue;
      }
      void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle != nullptr) return SharedLibrary(handle, path);
      const char* why = dlerror();
      tried.push_back(why == nullptr ? path : why);
    }
  }
  return absl::NotFoundError(absl::StrCat(names.front(), " is nowhere; tried ",
                                          absl::StrJoin(tried, "; "),
                                          "; install it or name its folder in LD_LIBRARY_PATH"));
}

SharedLibrary::~SharedLibrary() {
  if (handle_ != nullptr) dlclose(handle_);
}

absl::Status SharedLibrary::FindAddress(const char* symbol, void*& address) const {
  address = dlsym(handle_, symbol);
  if (address != nullptr) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrCat(path_, " has no ", symbol, "; it is too old for this build"));
}

}  // namespace tessera
