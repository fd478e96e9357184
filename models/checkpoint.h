// The files of a Hugging Face model directory: which there are, their safetensors headers (bounds-
// and overlap-checked), and a digest that says whether two machines hold the same model. Opens and
// maps files; reads no tensor data itself.

#ifndef TESSERA_MODELS_CHECKPOINT_H_
#define TESSERA_MODELS_CHECKPOINT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/dtype.h"

namespace tessera {

inline constexpr uint64_t kSafetensorsHeaderMax =
    100'000'000;  // bytes, as the format's reference has it
inline constexpr uint64_t kConfigBytesMax = 4 << 20;
inline constexpr int kCheckpointFilesMax = 4096;

// One tensor as a safetensors header describes it.
struct TensorEntry {
  std::string name;
  DType dtype = DType::kBFloat16;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the file
  uint64_t end = 0;
};

// Parses and checks a header: `file_prefix` is the file's first bytes (8-byte length + JSON),
// `file_bytes` the size of the whole file. Refuses truncation, overlaps, holes, sizes that do not
// match the shape, duplicate names and dtypes that DType lacks, naming the tensor. Sorted by place
// in the file. A tensor may begin at any byte: the format does not align it to its element size.
absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(std::string_view file_prefix,
                                                                uint64_t file_bytes);

// A read-only memory-mapped file.
class MappedFile {
 public:
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  // Tells the kernel that [begin, end) was used and its pages may go.
  void Release(uint64_t begin, uint64_t end) const;

 private:
  MappedFile(std::string path, const uint8_t* data, uint64_t bytes)
      : path_(std::move(path)), data_(data), bytes_(bytes) {}
  const std::string path_;
  const uint8_t* const data_;
  const uint64_t bytes_;
};

// A model directory, opened: config texts and every tensor of every file (model.safetensors, or the
// files that model.safetensors.index.json names).
class Checkpoint {
 public:
  struct Located {
    const MappedFile* file;  // null: see has_no_weights
    TensorEntry entry;
  };
  // NOT_FOUND / INVALID_ARGUMENT naming the file and what is wrong with it. Adapters, pickle files
  // (.bin, .pt), GGUF and other layouts are refused by name, with what to do about it.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory);

  // The same directory as if it held the tensors that its config.json asks for: in the checkpoint's
  // dtype (bfloat16 for anything but float32), without a file, whatever lies beside config.json.
  // The digest is that of the configuration alone.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> WithoutWeights(const std::string& directory);

  // Made by WithoutWeights: no tensor has a file.
  bool has_no_weights() const { return has_no_weights_; }
  const std::string& directory() const { return directory_; }
  const std::string& config_json() const { return config_json_; }
  const std::string& generation_config_json() const {
    return generation_config_json_;
  }  // may be ""
  const std::map<std::string, Located>& tensors() const { return tensors_; }
  uint64_t tensor_bytes() const;
  // SHA-256, hex, over config.json, every safetensors header and size, and a few bytes of every
  // tensor: equal on machines that hold the same model, cheap to compute, and another for a
  // fine-tuned sibling.
  const std::string& digest() const { return digest_; }

 private:
  Checkpoint() = default;
  bool has_no_weights_ = false;
  std::string directory_;
  std::string config_json_;
  std::string generation_config_json_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, Located> tensors_;
  std::string digest_;
};

// The licence as the directory states it: the model card's front matter, else a LICENSE file's
// first line, else "unknown".
std::string LicenseOf(const std::string& directory);

}  // namespace tessera

#endif  // TESSERA_MODELS_CHECKPOINT_H_
