// What a model is, in numbers and choices: the architecture part of config.json, checked. Made once
// by ParseModelSpec, never changed; read by the memory plan, the loader, the decoder and the API.

#ifndef TESSERA_MODELS_MODEL_SPEC_H_
#define TESSERA_MODELS_MODEL_SPEC_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "models/rotary.h"

namespace tessera {

// Limits on what a config may say; beyond them it is damaged or hostile.
inline constexpr int64_t kLayersMax = 1024;
inline constexpr int64_t kHiddenSizeMax = 131072;
inline constexpr int64_t kIntermediateSizeMax = 1048576;
inline constexpr int64_t kHeadsMax = 4096;
inline constexpr int64_t kHeadSizeMax = 512;  // as the kernels have it
inline constexpr int64_t kVocabSizeMax = 4194304;
inline constexpr int64_t kContextMax = 16777216;

enum class ActivationKind { kSilu, kGeluTanh, kGelu };

// What may differ from layer to layer.
struct LayerSpec {
  int64_t window = 0;  // tokens that a query sees, itself included; 0: all
  int rope = 0;        // index into ModelSpec::ropes
};

// Layers whose KV cache is shaped and kept alike. A model has one or more; block tables are per
// group.
struct KvGroup {
  enum class Kind { kFull, kWindow, kLatent };
  Kind kind = Kind::kFull;
  std::vector<int> layers;   // indices, ascending
  int64_t window = 0;        // tokens that a query sees, itself included; kWindow
  int64_t num_kv_heads = 0;  // of the whole model
  int64_t head_size = 0;
};

struct ModelSpec {
  std::string architecture;  // "LlamaForCausalLM"
  std::string family;        // "llama"
  int64_t num_layers = 0;
  int64_t hidden_size = 0;        // C
  int64_t num_heads = 0;          // H
  int64_t num_kv_heads = 0;       // K
  int64_t head_size = 0;          // D
  int64_t intermediate_size = 0;  // I
  int64_t vocab_size = 0;         // V
  int64_t context_max = 0;        // tokens
  std::vector<LayerSpec> layers;  // num_layers of them
  std::vector<RotarySpec> ropes;  // at least one
  float embedding_scale = 1.0f;   // multiplies the embedding; rounded to the model's dtype
  float rms_norm_eps = 1e-5f;
  bool norm_plus_one = false;       // norms multiply by 1 + weight
  bool attention_out_norm = false;  // the attention's output is normed before it is added
  bool mlp_out_norm = false;        // and the MLP's
  bool qk_norm = false;             // every query and key head is normed before it turns
  float attention_scale = 0.0f;     // of q . k
  float attention_softcap = 0.0f;   // cap * tanh(score / cap); 0: none
  float final_softcap = 0.0f;       // the same on logits
  ActivationKind activation = ActivationKind::kSilu;
  bool tied_head = false;
  bool qkv_bias = false;
  bool output_bias = false;  // of the attention's output projection
  bool mlp_bias = false;
  DType checkpoint_dtype = DType::kBFloat16;  // config.json's torch_dtype / dtype
  std::vector<KvGroup> kv_groups;             // see GroupLayers
};

// How the model wants to be used: generation_config.json, else config.json.
struct GenerationDefaults {
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1;  // -1: none
  float temperature = 1.0f;
  uint32_t top_k = 0;
  float top_p = 1.0f;
};

// Parses config.json's text. UNIMPLEMENTED for an unknown architecture (lists the supported ones),
// INVALID_ARGUMENT naming the key, what it holds and what it may hold.
absl::StatusOr<ModelSpec> ParseModelSpec(const std::string& config_json);

// `generation_json` may be empty (no such file).
absl::StatusOr<GenerationDefaults> ParseGenerationDefaults(const std::string& config_json,
                                                           const std::string& generation_json);

// Parameters of the whole model, tied tensors counted once.
int64_t ParameterCount(const ModelSpec& spec);

// The KV groups that `layers` make: full ones first, then by window, the smallest first.
std::vector<KvGroup> GroupLayers(const ModelSpec& spec);

}  // namespace tessera

#endif  // TESSERA_MODELS_MODEL_SPEC_H_
