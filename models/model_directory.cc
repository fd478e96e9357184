// See the header. A Hub cache holds models--ORG--NAME/refs/REVISION, a file with a commit, and
// models--ORG--NAME/snapshots/COMMIT, a directory whose files are links to ../../blobs.

#include "models/model_directory.h"

#include <algorithm>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr size_t kHubPartMax = 96;       // bytes of org or name, as the Hub has it
constexpr size_t kHubRevisionMax = 256;  // bytes
constexpr size_t kCommitSize = 40;       // hexadecimal digits
constexpr size_t kListedMax = 8;         // revisions named in a message

bool IsDirectory(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool IsPlainName(std::string_view part, size_t size_max) {
  if (part.empty() || part.size() > size_max || part.front() == '.' || part.front() == '-') {
    return false;
  }
  return std::all_of(part.begin(), part.end(), [](unsigned char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

bool IsCommit(std::string_view text) {
  return text.size() == kCommitSize && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

struct HubName {
  std::string org;
  std::string name;
  std::string revision = "main";
};

// True if `text` has the form of org/name[@revision].
bool ParseHubName(std::string_view text, HubName* hub) {
  if (const size_t at = text.find('@'); at != std::string_view::npos) {
    hub->revision = text.substr(at + 1);
    text = text.substr(0, at);
  }
  const size_t slash = text.find('/');
  if (slash == std::string_view::npos) return false;
  hub->org = text.substr(0, slash);
  hub->name = text.substr(slash + 1);
  return IsPlainName(hub->org, kHubPartMax) && IsPlainName(hub->name, kHubPartMax);
}

// A branch may have slashes in it, but leads nowhere else.
bool IsRevision(const std::string& revision) {
  if (revision.size() > kHubRevisionMax) return false;
  const fs::path path(revision);
  return std::all_of(path.begin(), path.end(), [](const fs::path& part) {
    return IsPlainName(part.string(), kHubRevisionMax);
  });
}

std::vector<std::string> SortedNames(const fs::path& directory) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator it(directory, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string HubCommand(const HubName& hub) {
  std::string command = absl::StrCat("`hf download ", hub.org, "/", hub.name);
  if (hub.revision != "main") absl::StrAppend(&command, " --revision ", hub.revision);
  return command + "`";
}

// The snapshots that are there, to choose from.
std::string OtherSnapshots(const fs::path& model, const HubName& hub) {
  std::vector<std::string> commits = SortedNames(model / "snapshots");
  std::erase_if(commits, [](const std::string& commit) { return !IsCommit(commit); });
  if (commits.empty()) return "";
  if (commits.size() > kListedMax) commits.resize(kListedMax);
  const std::string prefix = absl::StrCat(hub.org, "/", hub.name, "@");
  return absl::StrCat("; there are ", absl::StrJoin(commits, ", ", [&](auto* out, const auto& one) {
                        out->append(prefix + one);
                      }));
}

absl::StatusOr<fs::path> FindSnapshot(const HubName& hub, const fs::path& hub_cache) {
  const std::string asked = absl::StrCat(hub.org, "/", hub.name);
  if (!IsRevision(hub.revision)) {
    return absl::InvalidArgumentError(absl::StrCat("the revision of ", asked,
                                                   " must be a branch, a tag or a commit, it is '",
                                                   hub.revision, "'"));
  }
  const fs::path model = hub_cache / absl::StrCat("models--", hub.org, "--", hub.name);
  if (!IsDirectory(model)) {
    return absl::NotFoundError(absl::StrCat(
        asked, " is neither a directory here nor in the Hugging Face cache ", hub_cache.string(),
        " (there is no ", model.filename().string(), "); nothing is downloaded by itself: ",
        HubCommand(hub), " fetches it, HF_HOME or HF_HUB_CACHE names another cache"));
  }
  std::string commit = hub.revision;
  const fs::path ref = model / "refs" / hub.revision;
  std::error_code ignored;
  if (fs::is_regular_file(ref, ignored)) {
    std::string text(kCommitSize + 2, '\0');
    std::ifstream in(ref, std::ios::binary);
    in.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<size_t>(in.gcount()));
    commit = std::string(absl::StripAsciiWhitespace(text));
    if (!IsCommit(commit)) {
      return absl::InvalidArgumentError(absl::StrCat(ref.string(), " must hold a commit (",
                                                     kCommitSize, " hexadecimal digits); ",
                                                     HubCommand(hub), " writes it anew"));
    }
  } else if (!IsCommit(commit)) {
    return absl::NotFoundError(absl::StrCat(
        model.string(), " has no revision '", hub.revision, "' (no refs/", hub.revision, ")",
        OtherSnapshots(model, hub), "; ", HubCommand(hub), " fetches it"));
  }
  const fs::path snapshot = model / "snapshots" / commit;
  if (!IsDirectory(snapshot)) {
    return absl::NotFoundError(absl::StrCat(snapshot.string(), " is not there",
                                            OtherSnapshots(model, hub), "; ", HubCommand(hub),
                                            " fetches it"));
  }
  return snapshot;
}

fs::path Absolute(const std::string& text) {
  fs::path path = fs::absolute(text).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

}  // namespace

fs::path HubCache(absl::FunctionRef<const char*(const char*)> variable) {
  const auto value = [&](const char* name) {
    const char* text = variable(name);
    return std::string(text == nullptr ? "" : text);
  };
  if (const std::string cache = value("HF_HUB_CACHE"); !cache.empty()) return Absolute(cache);
  // The name it had before.
  if (const std::string cache = value("HUGGINGFACE_HUB_CACHE"); !cache.empty()) {
    return Absolute(cache);
  }
  if (const std::string home = value("HF_HOME"); !home.empty()) return Absolute(home) / "hub";
  const std::string caches = value("XDG_CACHE_HOME");
  const fs::path root = caches.empty() ? fs::path(value("HOME")) / ".cache" : fs::path(caches);
  return root / "huggingface" / "hub";
}

absl::StatusOr<ModelDirectory> FindModel(const std::string& flag, const fs::path& hub_cache) {
  const size_t equals = flag.find('=');
  const std::string where = equals == std::string::npos ? flag : flag.substr(equals + 1);
  ModelDirectory found;
  if (equals != std::string::npos) found.name = flag.substr(0, equals);
  if (where.empty() || (equals == 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--model is '", flag, "'; it must be [NAME=]DIR or [NAME=]ORG/NAME[@REVISION]"));
  }
  HubName hub;
  if (!IsDirectory(where) && ParseHubName(where, &hub)) {
    found.hub_name = absl::StrCat(hub.org, "/", hub.name);
    found.revision = hub.revision;
    if (found.name.empty()) found.name = found.hub_name;
    TESSERA_ASSIGN_OR_RETURN(found.directory, FindSnapshot(hub, hub_cache));
    found.directory = fs::absolute(found.directory).lexically_normal();
    return found;
  }
  found.directory = Absolute(where);
  if (found.name.empty()) found.name = found.directory.filename().string();
  if (!IsDirectory(found.directory)) {
    return absl::NotFoundError(absl::StrCat(
        "there is no directory ", found.directory.string(),
        "; give the directory of a model, or ORG/NAME of one that `hf download` fetched"));
  }
  return found;
}

std::vector<fs::path> ModelCandidates(const fs::path& root, const std::string& dir_name) {
  std::vector<fs::path> places = {root / dir_name, root};
  if (IsCommit(dir_name)) {
    places.push_back(root / "snapshots" / dir_name);
    for (const std::string& model : SortedNames(root)) {
      if (model.starts_with("models--")) places.push_back(root / model / "snapshots" / dir_name);
    }
  }
  std::error_code ignored;
  std::erase_if(places,
                [&](const fs::path& place) { return !fs::exists(place / "config.json", ignored); });
  return places;
}

}  // namespace tessera
