// Values are a hash of (seed, tensor, index), so that any single element can be named without the
// rest.

#include "tests/worker/tiny_model.h"

#include <bit>
#include <cmath>

#include "absl/strings/match.h"
#include "base/check.h"
#include "base/dtype.h"

namespace tessera {
namespace {

// In [-1, 1).
float Noise(const std::string& name, int64_t index, uint32_t seed) {
  uint64_t h = 1469598103934665603ull ^ seed;
  for (char c : name) h = (h ^ static_cast<uint8_t>(c)) * 1099511628211ull;
  h += static_cast<uint64_t>(index) * 0x9e3779b97f4a7c15ull;
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
  h ^= h >> 31;
  return static_cast<float>(h >> 40) * (2.0f / 16777216.0f) - 1.0f;
}

// Exact for the values below: eleven bits of mantissa, no subnormals.
uint16_t ToFloat16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) == 0) return 0;
  const uint32_t exponent = ((u >> 23) & 0xffu) - 112;
  return static_cast<uint16_t>(((u >> 16) & 0x8000u) | (exponent << 10) | ((u >> 13) & 0x3ffu));
}

// Multiples of 2^-9 below 4: exact in float16.
float Coarse(float x) { return std::round(x * 512.0f) / 512.0f; }

}  // namespace

nlohmann::json TinyConfig() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"num_hidden_layers", 2},
          {"hidden_size", 24},
          {"num_attention_heads", 8},
          {"num_key_value_heads", 4},
          {"head_dim", 6},
          {"intermediate_size", 40},
          {"vocab_size", kTinyVocab},
          {"max_position_embeddings", 256},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 10000.0},
          {"tie_word_embeddings", false},
          {"torch_dtype", "float32"}};
}

ModelSpec TinySpec(const nlohmann::json& config) {
  absl::StatusOr<ModelSpec> spec = ParseModelSpec(config.dump());
  TESSERA_CHECK(spec.ok()) << spec.status();
  return *std::move(spec);
}

float TinyValue(const std::string& name, int64_t index, const std::string& dtype, uint32_t seed) {
  const float noise = Noise(name, index, seed);
  float value = Coarse(noise * 0.7f);
  if (absl::StrContains(name, "norm")) value = Coarse(1.0f + 0.3f * noise);
  if (absl::StrContains(name, "q_proj") || absl::StrContains(name, "k_proj")) {
    value = Coarse(noise * 1.5f);
  }
  return dtype == "BF16" ? ToFloat(ToBFloat16(value)) : value;
}

void WriteTinyModel(const TempDir& dir, const nlohmann::json& config, const std::string& dtype,
                    uint32_t seed) {
  dir.Write("config.json", config.dump());
  nlohmann::json header;
  std::string data;
  for (const FakeTensor& tensor : TensorsOf(TinySpec(config))) {
    const size_t begin = data.size();
    int64_t size = 1;
    for (int64_t n : tensor.shape) size *= n;
    for (int64_t i = 0; i < size; ++i) {
      const float value = TinyValue(tensor.name, i, dtype, seed);
      if (dtype == "F32") {
        data.append(reinterpret_cast<const char*>(&value), 4);
      } else {
        const uint16_t half = dtype == "F16" ? ToFloat16(value) : ToBFloat16(value).bits;
        data.append(reinterpret_cast<const char*>(&half), 2);
      }
    }
    header[tensor.name] = {
        {"dtype", dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  dir.Write("model.safetensors", SafetensorsFile(header.dump(), data));
}

}  // namespace tessera
