// A Llama checkpoint made up for a test: random weights from a seed, any stored dtype, sizes chosen
// so that tp 1, 2, 4 and 8 divide it (8: KV heads shared by two ranks each) while nothing is a
// power of two.

#ifndef TESSERA_TESTS_WORKER_TINY_MODEL_H_
#define TESSERA_TESTS_WORKER_TINY_MODEL_H_

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/model_spec.h"
#include "tests/models/model_files.h"

namespace tessera {

inline constexpr int64_t kTinyVocab = 37;

// 2 layers, hidden 24, 8 query heads and 4 KV heads of 6, intermediate 40, vocabulary 37.
nlohmann::json TinyConfig();

ModelSpec TinySpec(const nlohmann::json& config);

// Writes config.json and model.safetensors with every tensor that the config asks for, `dtype` F32,
// BF16 or F16, values drawn from `seed` so that attention is far from uniform.
void WriteTinyModel(const TempDir& dir, const nlohmann::json& config, const std::string& dtype,
                    uint32_t seed);

// The value of element `index` of tensor `name` in such a model, as float32 would hold it.
float TinyValue(const std::string& name, int64_t index, const std::string& dtype, uint32_t seed);

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_TINY_MODEL_H_
