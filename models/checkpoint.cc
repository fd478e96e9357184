// Checkpoint::Open of checkpoint.h: finds the files of a model directory, checks them against each
// other and makes the digest.

#include "models/checkpoint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status.h"
#include "models/config_reader.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr char kAdapterFile[] = "adapter_config.json";
constexpr uint64_t kIndexBytesMax = 256 << 20;
// Bytes from the middle of every tensor that go into the digest.
constexpr uint64_t kDigestSample = 64;

absl::StatusOr<std::string> ReadText(const fs::path& path, uint64_t bytes_max) {
  TESSERA_ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, MappedFile::Open(path.string()));
  if (file->bytes() > bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " has ", file->bytes(),
                                                   " bytes; at most ", bytes_max, " are read"));
  }
  return std::string(reinterpret_cast<const char*>(file->data()), file->bytes());
}

// Names in the directory, sorted.
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& directory) {
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator it(directory, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error) {
    return absl::NotFoundError(
        absl::StrCat("cannot read the model directory ", directory, ": ", error.message()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

// Files of a directory that holds a model in another form, and what to do about it. The first that
// matches is named.
struct OtherForm {
  const char* begin;
  const char* end;
  const char* what;
};
constexpr char kPickle[] =
    ", weights as Python pickle, which can run code when it is read and is refused; convert it "
    "where you trust it: load it with transformers and call save_pretrained(dir, "
    "safe_serialization=True)";
constexpr char kOwnLayout[] =
    ", the publisher's own layout of the weights; use the files in the Hugging Face layout "
    "(config.json, model*.safetensors), most publishers have both";
constexpr char kOtherFramework[] =
    ", weights of another framework; load them with transformers and call save_pretrained";
constexpr OtherForm kOtherForms[] = {
    {"", ".gguf", ", and GGUF is not read; use the model's safetensors files"},
    {"", ".ggml", ", and GGML is not read; use the model's safetensors files"},
    {"consolidated", ".safetensors", kOwnLayout},
    {"consolidated", ".pth", kOwnLayout},
    {"params", ".json", kOwnLayout},
    {"", ".bin", kPickle},
    {"pytorch_model.bin.index", ".json", kPickle},
    {"", ".pt", kPickle},
    {"", ".pth", kPickle},
    {"", ".ckpt", kPickle},
    {"", ".pkl", kPickle},
    {"", ".h5", kOtherFramework},
    {"", ".msgpack", kOtherFramework},
    {"", ".onnx", kOtherFramework},
    {"model-", ".safetensors",
     ", but not model.safetensors.index.json, which says what is where; fetch the model again"},
    {"", ".safetensors",
     ", which is no name that the Hugging Face layout has for a model's weights"},
};
// What a trainer leaves beside a model.
constexpr const char* kTrainerFiles[] = {"training_args", "optimizer", "scheduler", "rng_state",
                                         "scaler"};

// Says what the directory holds in place of `missing`.
absl::Status NotAModel(const std::string& directory, const std::vector<std::string>& names,
                       const std::string& missing) {
  for (const OtherForm& form : kOtherForms) {
    for (const std::string& name : names) {
      if (!name.starts_with(form.begin) || !name.ends_with(form.end)) continue;
      if (std::any_of(std::begin(kTrainerFiles), std::end(kTrainerFiles),
                      [&](const char* begin) { return name.starts_with(begin); })) {
        continue;
      }
      return absl::InvalidArgumentError(
          absl::StrCat(directory, " has ", missing, "; it holds ", absl::CEscape(name), form.what));
    }
  }
  return absl::NotFoundError(absl::StrCat(directory, " has ", missing,
                                          "; it must be a model directory in the Hugging Face "
                                          "layout"));
}

// An adapter is no model, and one beside a model would change what that computes.
absl::Status RefuseAdapter(const fs::path& path) {
  std::string base;
  const absl::StatusOr<std::string> text = ReadText(path, kConfigBytesMax);
  if (text.ok()) {
    if (const auto config = ConfigReader::Parse(*text, kAdapterFile); config.ok()) {
      base = config->StringOr("base_model_name_or_path", "").value_or("");
    }
  }
  return absl::UnimplementedError(absl::StrCat(
      path.string(), ": this is an adapter (LoRA)",
      base.empty() ? "" : absl::StrCat(" of ", absl::CEscape(base)),
      ", which is not supported yet; merge it into its base model (peft: merge_and_unload, then "
      "save_pretrained) and serve the result"));
}

// A file that another one names, or that the directory lists and a dangling link stands for.
absl::Status Promised(const absl::Status& status, const std::string& by) {
  if (!absl::IsNotFound(status)) return status;
  return absl::InvalidArgumentError(
      absl::StrCat(status.message(), ", though ", by, " names it; fetch the model again"));
}

// The tensor-to-file map of an index. File names must be plain, so that none leads out of the
// directory.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const fs::path& path) {
  TESSERA_ASSIGN_OR_RETURN(const std::string text, ReadText(path, kIndexBytesMax));
  const auto refuse = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), what));
  };
  TESSERA_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, path.string()));
  const auto weight_map = json.is_object() ? json.find("weight_map") : json.end();
  if (weight_map == json.end() || !weight_map->is_object() || weight_map->empty()) {
    return refuse(" has no \"weight_map\" of tensor names to file names");
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : weight_map->items()) {
    if (!file.is_string())
      return refuse(absl::StrCat(": the file of '", tensor, "' is not a string"));
    const std::string name = file.get<std::string>();
    if (name.find_first_of(std::string("/\\\0", 3)) != std::string::npos || name[0] == '.' ||
        !name.ends_with(".safetensors")) {
      return refuse(absl::StrCat(": '", tensor, "' is said to be in '", absl::CEscape(name),
                                 "'; it must be a .safetensors file of the same directory"));
    }
    files[tensor] = name;
  }
  return files;
}

// model-00001-of-00005.safetensors
bool IsNumberedShard(std::string_view name) {
  return name.starts_with("model-") && name.ends_with(".safetensors") &&
         name.find("-of-") != std::string_view::npos;
}

absl::Status CheckIndex(const std::map<std::string, std::string>& index,
                        const std::map<std::string, Checkpoint::Located>& tensors) {
  for (const auto& [tensor, file] : index) {
    const auto it = tensors.find(tensor);
    if (it != tensors.end() && fs::path(it->second.file->path()).filename() == file) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(kIndexFile, " says that '", tensor, "' is in ", file, "; it is ",
                     it == tensors.end() ? "in no file" : "in " + it->second.file->path()));
  }
  for (const auto& [tensor, located] : tensors) {
    if (index.count(tensor) != 0) continue;
    return absl::InvalidArgumentError(absl::StrCat(located.file->path(), " holds '", tensor,
                                                   "', which ", kIndexFile, " does not name"));
  }
  return absl::OkStatus();
}

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) {
    TESSERA_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
  }
  ~Sha256() { EVP_MD_CTX_free(context_); }
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  // Length first, so that parts cannot flow into each other.
  void Add(std::string_view part) {
    AddNumber(part.size());
    TESSERA_CHECK(EVP_DigestUpdate(context_, part.data(), part.size()) == 1);
  }
  void AddNumber(uint64_t number) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(number >> (8 * i));
    TESSERA_CHECK(EVP_DigestUpdate(context_, bytes, sizeof(bytes)) == 1);
  }
  std::string Hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    TESSERA_CHECK(EVP_DigestFinal_ex(context_, digest, &size) == 1);
    return absl::BytesToHexString(std::string(reinterpret_cast<char*>(digest), size));
  }

 private:
  EVP_MD_CTX* const context_;
};

// Opens one weights file, adds its tensors to `tensors` and its part to the digest.
absl::StatusOr<std::unique_ptr<MappedFile>> AddFile(
    const fs::path& path, std::map<std::string, Checkpoint::Located>* tensors, Sha256* digest) {
  TESSERA_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path.string()));
  const char* data = reinterpret_cast<const char*>(file->data());
  absl::StatusOr<std::vector<TensorEntry>> entries =
      ParseSafetensorsHeader(std::string_view(data, file->bytes()), file->bytes());
  if (!entries.ok()) {
    return absl::Status(entries.status().code(),
                        absl::StrCat(path.string(), ": ", entries.status().message()));
  }
  const uint64_t header_end = entries->empty() ? file->bytes() : entries->front().begin;
  digest->Add(path.filename().string());
  digest->AddNumber(file->bytes());
  digest->Add(std::string_view(data, header_end));
  for (TensorEntry& entry : *entries) {
    const uint64_t bytes = entry.end - entry.begin;
    const uint64_t sample = std::min(bytes, kDigestSample);
    digest->Add(std::string_view(data + entry.begin + (bytes - sample) / 2, sample));
    const std::string name = entry.name;
    const auto [it, added] = tensors->insert({name, {file.get(), std::move(entry)}});
    if (!added) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", name,
                                                     "' is in two files: ", it->second.file->path(),
                                                     " and ", path.string()));
    }
  }
  file->Release(0, file->bytes());
  return file;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& directory) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(directory));
  const auto has = [&](const char* name) {
    return std::binary_search(names.begin(), names.end(), name);
  };
  const fs::path root(directory);
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  checkpoint->directory_ = directory;
  if (has(kAdapterFile)) return RefuseAdapter(root / kAdapterFile);
  if (!has("config.json")) return NotAModel(directory, names, "no config.json");
  TESSERA_ASSIGN_OR_RETURN(checkpoint->config_json_,
                           ReadText(root / "config.json", kConfigBytesMax));
  if (has("generation_config.json")) {
    TESSERA_ASSIGN_OR_RETURN(checkpoint->generation_config_json_,
                             ReadText(root / "generation_config.json", kConfigBytesMax));
  }

  // A single file goes before an index, as in the reference.
  std::map<std::string, std::string> index;
  std::set<std::string> files = {kSingleFile};
  if (!has(kSingleFile)) {
    if (!has(kIndexFile)) {
      return NotAModel(directory, names,
                       absl::StrCat("neither ", kSingleFile, " nor ", kIndexFile));
    }
    auto read = ReadIndex(root / kIndexFile);
    if (!read.ok()) return Promised(read.status(), directory);
    index = *std::move(read);
    files.clear();
    for (const auto& [tensor, file] : index) files.insert(file);
    for (const std::string& name : names) {
      if (IsNumberedShard(name) && files.count(name) == 0) {
        return absl::InvalidArgumentError(absl::StrCat(directory, " holds ", name, ", which ",
                                                       kIndexFile,
                                                       " does not name; fetch the model again"));
      }
    }
  }
  if (files.size() > kCheckpointFilesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        directory, " has ", files.size(), " weights files; at most ", kCheckpointFilesMax));
  }
  Sha256 digest;
  digest.Add(checkpoint->config_json_);
  for (const std::string& file : files) {
    absl::StatusOr<std::unique_ptr<MappedFile>> opened =
        AddFile(root / file, &checkpoint->tensors_, &digest);
    if (!opened.ok()) return Promised(opened.status(), index.empty() ? directory : kIndexFile);
    checkpoint->files_.push_back(*std::move(opened));
  }
  if (!index.empty()) TESSERA_RETURN_IF_ERROR(CheckIndex(index, checkpoint->tensors_));
  checkpoint->digest_ = digest.Hex();
  return checkpoint;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::WithoutWeights(
    const std::string& directory) {
  TESSERA_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(directory));
  const auto has = [&](const char* name) {
    return std::binary_search(names.begin(), names.end(), name);
  };
  const fs::path root(directory);
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint());
  checkpoint->directory_ = directory;
  checkpoint->has_no_weights_ = true;
  if (!has("config.json")) return NotAModel(directory, names, "no config.json");
  TESSERA_ASSIGN_OR_RETURN(checkpoint->config_json_,
                           ReadText(root / "config.json", kConfigBytesMax));
  if (has("generation_config.json")) {
    TESSERA_ASSIGN_OR_RETURN(checkpoint->generation_config_json_,
                             ReadText(root / "generation_config.json", kConfigBytesMax));
  }
  TESSERA_ASSIGN_OR_RETURN(const ModelSpec spec, ParseModelSpec(checkpoint->config_json_));
  const DType dtype = spec.checkpoint_dtype == DType::kFloat32 ? DType::kFloat32 : DType::kBFloat16;
  for (const WeightSpec& weight : WeightTable(spec)) {
    TensorEntry entry = {.name = weight.name, .dtype = dtype, .shape = weight.StoredShape()};
    entry.end = DTypeSize(dtype);
    for (int64_t n : entry.shape) entry.end *= static_cast<uint64_t>(n);
    checkpoint->tensors_[weight.name] = {nullptr, std::move(entry)};
  }
  Sha256 digest;
  digest.Add("without weights\n");
  digest.Add(checkpoint->config_json_);
  checkpoint->digest_ = digest.Hex();
  return checkpoint;
}

uint64_t Checkpoint::tensor_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, located] : tensors_) bytes += located.entry.end - located.entry.begin;
  return bytes;
}

}  // namespace tessera
