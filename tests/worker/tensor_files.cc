// Files are read whole and written anew; the models of tests are small.

#include "tests/worker/tensor_files.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/check.h"
#include "tests/models/model_files.h"

namespace tessera {
namespace {

std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  TESSERA_CHECK(static_cast<bool>(in)) << path;
  return std::string(std::istreambuf_iterator<char>(in), {});
}

}  // namespace

void EditTensors(const std::string& dir,
                 const std::function<void(const TensorEntry&, absl::Span<char>)>& edit) {
  for (const auto& file : std::filesystem::directory_iterator(dir)) {
    if (file.path().extension() != ".safetensors") continue;
    std::string bytes = ReadAll(file.path().string());
    const auto entries = ParseSafetensorsHeader(bytes, bytes.size());
    TESSERA_CHECK(entries.ok()) << entries.status();
    for (const TensorEntry& entry : *entries) {
      edit(entry, absl::MakeSpan(bytes).subspan(entry.begin, entry.end - entry.begin));
    }
    std::ofstream(file.path(), std::ios::binary) << bytes;
  }
}

void AddTensor(const std::string& dir, const std::string& name, absl::Span<const int64_t> shape,
               absl::Span<const float> values) {
  const std::string path = dir + "/model.safetensors";
  const std::string bytes = ReadAll(path);
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), sizeof(header_size));
  nlohmann::json header = nlohmann::json::parse(bytes.substr(8, header_size));
  std::string data = bytes.substr(8 + header_size);
  const size_t begin = data.size();
  data.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  header[name] = {{"dtype", "F32"},
                  {"shape", std::vector<int64_t>(shape.begin(), shape.end())},
                  {"data_offsets", {begin, data.size()}}};
  std::ofstream(path, std::ios::binary) << SafetensorsFile(header.dump(), data);
}

}  // namespace tessera
