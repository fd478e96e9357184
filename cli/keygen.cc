// See the header. The key alone goes to stdout, so that a script can take it; what is said about it
// goes to stderr.

#include "cli/keygen.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status.h"

namespace tessera {
namespace {

using nlohmann::ordered_json;

constexpr char kKeyPrefix[] = "tsk-";
constexpr mode_t kKeyFileMode = 0600;

// The whole file, {} where there is none.
absl::StatusOr<ordered_json> ReadKeys(const std::string& path) {
  ordered_json root = ordered_json::object();
  std::ifstream in(path, std::ios::binary);
  if (in) {
    root = ordered_json::parse(in, nullptr, /*allow_exceptions=*/false);
  } else if (std::filesystem::exists(path)) {
    return absl::PermissionDeniedError(absl::StrCat(path, " cannot be read"));
  }
  if (!root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a key file: no JSON object"));
  }
  for (const char* list : {"tenants", "keys"}) {
    if (!root.contains(list)) root[list] = ordered_json::array();
    if (!root[list].is_array()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " is not a key file: `", list, "` is not a list"));
    }
  }
  return root;
}

bool HasTenant(const ordered_json& root, const std::string& name) {
  return std::any_of(root["tenants"].begin(), root["tenants"].end(),
                     [&](const ordered_json& tenant) {
                       return tenant.is_object() && tenant.value("name", ordered_json()) == name;
                     });
}

absl::Status WriteAll(int fd, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t written = write(fd, text.data() + done, text.size() - done);
    if (written < 0) return absl::InternalError(std::strerror(errno));
    done += static_cast<size_t>(written);
  }
  return fsync(fd) == 0 ? absl::OkStatus() : absl::InternalError(std::strerror(errno));
}

// Reads, changes and writes while `fd`, the file that will take the old one's place, is held.
absl::StatusOr<bool> Replace(const std::string& path, const std::string& next, int fd,
                             const std::string& tenant, const std::string& entry) {
  TESSERA_ASSIGN_OR_RETURN(ordered_json root, ReadKeys(path));
  const bool is_new = !HasTenant(root, tenant);
  if (is_new) root["tenants"].push_back({{"name", tenant}});
  root["keys"].push_back(ordered_json::parse(entry));
  struct stat old;
  if (stat(path.c_str(), &old) == 0) fchmod(fd, old.st_mode & 07777);
  TESSERA_RETURN_IF_ERROR(WriteAll(fd, root.dump(2) + "\n"));
  if (std::rename(next.c_str(), path.c_str()) != 0) {
    return absl::InternalError(absl::StrCat("cannot replace ", path, ": ", std::strerror(errno)));
  }
  return is_new;
}

// Why the file that will take the old one's place cannot be made, and what mends that.
absl::Status CannotMake(const std::string& next, int error) {
  const std::string parent = std::filesystem::path(next).parent_path().string();
  const std::string directory = parent.empty() ? "." : parent;
  switch (error) {
    case EEXIST:
      return absl::UnavailableError(absl::StrCat(
          next, " exists: another keygen is at work, or one was cut off; in that case remove it"));
    case ENOENT:
      return absl::NotFoundError(
          absl::StrCat("the directory ", directory,
                       " of the key file does not exist; make it: ", "mkdir -p ", directory));
    case EACCES:
    case EROFS:
      return absl::PermissionDeniedError(
          absl::StrCat("cannot make ", next, ": ", std::strerror(error), "; the directory ",
                       directory, " must be writable for this user"));
    default:
      return absl::InternalError(absl::StrCat("cannot make ", next, ": ", std::strerror(error)));
  }
}

std::string CheckName(const std::string& name) {
  const bool valid =
      !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '.' || c == '_' || c == '-';
      });
  return valid ? "" : "must be 1 to 64 letters, digits, dots, dashes or underscores";
}

}  // namespace

CLI::App* AddKeygenCommand(CLI::App& app, KeygenOptions& options) {
  CLI::App* command = app.add_subcommand(
      "keygen", "Make an API key for a tenant; the server keeps only its digest");
  command->add_option("--tenant", options.tenant, "Whose key it is")
      ->required()
      ->check(CheckName, "NAME");
  command->add_option("--file", options.file,
                      "Key file (--api-keys of the server) to add it to, made where there is none; "
                      "a running server takes it over within a second [print the entry]");
  command->add_option("--expires-days", options.expires_days, "Days until it expires [never]")
      ->check([](const std::string& text) {
        double days = 0;
        const bool valid = absl::SimpleAtod(text, &days) && days > 0 && days <= 36500;
        return valid ? std::string() : "must be a number above 0 and at most 36500";
      });
  command->add_option("--comment", options.comment, "A note for whoever reads the file");
  return command;
}

absl::StatusOr<NewKey> DrawKey(const KeygenOptions& options, absl::Time now) {
  std::array<unsigned char, 32> bytes;
  if (RAND_bytes(bytes.data(), static_cast<int>(bytes.size())) != 1) {
    return absl::InternalError("the operating system gives no random bytes");
  }
  NewKey made;
  made.key =
      absl::StrCat(kKeyPrefix, absl::WebSafeBase64Escape(absl::string_view(
                                   reinterpret_cast<const char*>(bytes.data()), bytes.size())));
  unsigned int size = 0;
  if (EVP_Digest(made.key.data(), made.key.size(), bytes.data(), &size, EVP_sha256(), nullptr) !=
      1) {
    return absl::InternalError("SHA-256 is not available");
  }
  ordered_json entry;
  entry["sha256"] = absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  entry["tenant"] = options.tenant;
  if (options.expires_days > 0) {
    entry["expires"] = absl::FormatTime(
        "%Y-%m-%dT%H:%M:%SZ", now + absl::Hours(24) * options.expires_days, absl::UTCTimeZone());
  }
  if (!options.comment.empty()) entry["comment"] = options.comment;
  made.entry = entry.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  return made;
}

absl::StatusOr<bool> AddToKeyFile(const std::string& path, const std::string& tenant,
                                  const std::string& entry) {
  // Also the lock against a second keygen on the same file.
  const std::string next = absl::StrCat(path, ".new");
  const int fd = open(next.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kKeyFileMode);
  if (fd < 0) return CannotMake(next, errno);
  absl::StatusOr<bool> replaced = Replace(path, next, fd, tenant, entry);
  close(fd);
  if (!replaced.ok()) unlink(next.c_str());
  return replaced;
}

int RunKeygen(const KeygenOptions& options) {
  const absl::StatusOr<NewKey> made = DrawKey(options, RealClock().Now());
  if (!made.ok()) {
    std::cerr << "tessera keygen: " << made.status().message() << "\n";
    return 1;
  }
  if (options.file.empty()) {
    std::cout << made->key << "\n" << made->entry << "\n";
    std::cerr << "The first line is the key, shown only this once; the second belongs into `keys` "
                 "of the key file.\n";
    return 0;
  }
  const absl::StatusOr<bool> added = AddToKeyFile(options.file, options.tenant, made->entry);
  if (!added.ok()) {
    std::cerr << "tessera keygen: " << added.status().message() << "\n";
    return 1;
  }
  std::cout << made->key << "\n";
  std::cerr << "This key is shown only this once; its digest is in " << options.file << " now.\n";
  if (*added) {
    std::cerr << "Tenant " << options.tenant << " is new there: no limits, weight 1, all models.\n";
  }
  return 0;
}

}  // namespace tessera
