// A safetensors header from an untrusted file: whatever the bytes, it is refused, or its tensors
// tile the file exactly.

#include <set>

#include "base/check.h"
#include "models/checkpoint.h"

namespace {

void CheckTensors(const std::vector<tessera::TensorEntry>& tensors, uint64_t file_bytes) {
  std::set<std::string> names;
  uint64_t end = tensors.empty() ? file_bytes : tensors.front().begin;
  for (const tessera::TensorEntry& tensor : tensors) {
    TESSERA_CHECK(names.insert(tensor.name).second) << tensor.name;
    TESSERA_CHECK(tensor.begin == end && tensor.begin >= 8) << tensor.name;
    uint64_t bytes = tessera::DTypeSize(tensor.dtype);
    for (const int64_t n : tensor.shape) {
      TESSERA_CHECK(n >= 0) << tensor.name;
      bytes *= static_cast<uint64_t>(n);
    }
    end = tensor.end;
    TESSERA_CHECK(end - tensor.begin == bytes) << tensor.name;
  }
  TESSERA_CHECK(end == file_bytes) << end << " of " << file_bytes;
}

// The header is tried as the input has it, and behind a correct length with as much data as its
// tensors may want, so that the fuzzer need not find those eight bytes.
void Try(std::string_view prefix, uint64_t file_bytes) {
  const auto tensors = tessera::ParseSafetensorsHeader(prefix, file_bytes);
  if (tensors.ok()) CheckTensors(*tensors, file_bytes);
  TESSERA_CHECK(tensors.ok() || !tensors.status().message().empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  Try(input, size);
  std::string framed;
  for (int i = 0; i < 8; ++i) framed.push_back(static_cast<char>(size >> (8 * i)));
  framed += input;
  for (const uint64_t data_bytes : {0, 4, 16, 64}) Try(framed, framed.size() + data_bytes);
  return 0;
}
