// From what people call a model to the directory that holds it: a path, or a name of the Hugging
// Face Hub (org/name, org/name@revision) that was downloaded into its cache. Only looks; nothing is
// ever fetched. Called while a program starts, by the coordinator, the worker and the command line.

#ifndef TESSERA_MODELS_MODEL_DIRECTORY_H_
#define TESSERA_MODELS_MODEL_DIRECTORY_H_

#include <filesystem>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"

namespace tessera {

// Where the Hub's own tools keep downloads, as they find it: $HF_HUB_CACHE, else $HF_HOME/hub, else
// huggingface/hub in $XDG_CACHE_HOME or ~/.cache. `variable` looks up the environment (getenv).
std::filesystem::path HubCache(absl::FunctionRef<const char*(const char*)> variable);

struct ModelDirectory {
  std::string name;                 // as clients say it
  std::filesystem::path directory;  // absolute
  std::string hub_name;             // org/name; empty for a path
  std::string revision;             // of hub_name, as it was asked for
};

// `flag` is [NAME=]WHERE; WHERE is a directory, or org/name[@revision] in `hub_cache`. A directory
// goes first. NAME is by default the directory's own name, or org/name. NOT_FOUND says where was
// looked and what would fetch the model.
absl::StatusOr<ModelDirectory> FindModel(const std::string& flag,
                                         const std::filesystem::path& hub_cache);

// Where a model that lies elsewhere in a directory named `dir_name` may be under `root`: root's own
// subdirectory, root itself, and the snapshots of that name where root is a Hub cache or a model's
// folder in one. Those that exist and hold a config.json.
std::vector<std::filesystem::path> ModelCandidates(const std::filesystem::path& root,
                                                   const std::string& dir_name);

}  // namespace tessera

#endif  // TESSERA_MODELS_MODEL_DIRECTORY_H_
