// Llama specs for tests: of chosen or of random sizes, made through config.json like real ones.

#ifndef TESSERA_TESTS_MODELS_RANDOM_SPEC_H_
#define TESSERA_TESTS_MODELS_RANDOM_SPEC_H_

#include <random>

#include "base/check.h"
#include "models/model_spec.h"
#include "tests/models/model_files.h"

namespace tessera {

struct Sizes {
  int layers = 2;
  int heads = 4;
  int kv_heads = 2;
  int head_size = 6;
  int hidden = 10;
  int intermediate = 24;
  int vocab = 13;
  bool biases = false;
  bool tied = false;
};

inline ModelSpec SpecOf(const Sizes& sizes) {
  nlohmann::json config = SmallConfig();
  config.update({{"num_hidden_layers", sizes.layers},
                 {"num_attention_heads", sizes.heads},
                 {"num_key_value_heads", sizes.kv_heads},
                 {"head_dim", sizes.head_size},
                 {"hidden_size", sizes.hidden},
                 {"intermediate_size", sizes.intermediate},
                 {"vocab_size", sizes.vocab},
                 {"attention_bias", sizes.biases},
                 {"mlp_bias", sizes.biases},
                 {"tie_word_embeddings", sizes.tied}});
  const absl::StatusOr<ModelSpec> spec = ParseModelSpec(config.dump());
  TESSERA_CHECK(spec.ok()) << spec.status();
  return *spec;
}

inline ModelSpec RandomSpec(std::mt19937& random) {
  const auto pick = [&](int low, int high) {
    return static_cast<int>(low + random() % static_cast<uint32_t>(high - low + 1));
  };
  Sizes sizes;
  sizes.layers = pick(1, 3);
  sizes.kv_heads = pick(0, 1) == 0 ? 1 << pick(0, 3) : pick(1, 6);
  sizes.heads = sizes.kv_heads * pick(1, 4);
  sizes.head_size = 2 * pick(1, 5);
  sizes.hidden = pick(1, 20);
  sizes.intermediate = 8 * pick(1, 5);
  sizes.vocab = pick(1, 40);
  sizes.biases = pick(0, 1) == 1;
  sizes.tied = pick(0, 1) == 1;
  return SpecOf(sizes);
}

}  // namespace tessera

#endif  // TESSERA_TESTS_MODELS_RANDOM_SPEC_H_
