// Model directories made up for a test: a temporary folder, and safetensors files written field by
// field, so that each test can damage one thing.

#ifndef TESSERA_TESTS_MODELS_MODEL_FILES_H_
#define TESSERA_TESTS_MODELS_MODEL_FILES_H_

#include <stdlib.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/model_spec.h"
#include "models/weight_spec.h"

namespace tessera {

class TempDir {
 public:
  TempDir() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "tessera-models-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  void Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << bytes;
  }

 private:
  std::string path_;
};

// A small model: 4 query heads, 2 KV heads of 6, hidden 10, intermediate 12, vocabulary 13, 2
// layers.
inline nlohmann::json SmallConfig() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"num_hidden_layers", 2},
          {"hidden_size", 10},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"head_dim", 6},
          {"intermediate_size", 12},
          {"vocab_size", 13},
          {"max_position_embeddings", 64},
          {"rms_norm_eps", 1e-5},
          {"torch_dtype", "float32"}};
}

struct FakeTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::string dtype = "F32";
};

// The tensors that `spec` asks for, as they are stored.
inline std::vector<FakeTensor> TensorsOf(const ModelSpec& spec) {
  std::vector<FakeTensor> tensors;
  for (const WeightSpec& weight : WeightTable(spec)) {
    if (weight.stored_begin == 0) tensors.push_back({weight.name, weight.StoredShape()});
  }
  return tensors;
}

// Length, header, data.
inline std::string SafetensorsFile(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(header.size() >> (8 * i)));
  return bytes + header + data;
}

// A correct file; every byte of its data is `fill`.
inline std::string SafetensorsFile(const std::vector<FakeTensor>& tensors, char fill = 1) {
  nlohmann::json header = {{"__metadata__", {{"format", "pt"}}}};
  uint64_t offset = 0;
  for (const FakeTensor& tensor : tensors) {
    uint64_t bytes = tensor.dtype == "F32" ? 4 : tensor.dtype == "I64" ? 8 : 2;
    if (tensor.dtype == "F8_E4M3") bytes = 1;
    for (const int64_t n : tensor.shape) bytes *= n;
    header[tensor.name] = {{"dtype", tensor.dtype},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  return SafetensorsFile(header.dump(), std::string(offset, fill));
}

}  // namespace tessera

#endif  // TESSERA_TESTS_MODELS_MODEL_FILES_H_
