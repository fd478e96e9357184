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
inline constexpr int64_t kHeadSizeMax = 512;     // as the kernels have it
inline constexpr int64_t kLatentEntryMax = 576;  // elements of a latent cache entry, likewise
inline constexpr int64_t kExpertsMax = 1024;     // likewise
inline constexpr int64_t kQueryRankMax = 65536;
inline constexpr int64_t kVocabSizeMax = 4194304;
inline constexpr int64_t kContextMax = 16777216;
inline constexpr int64_t kTensorsMax = 1'000'000;  // of experts, as a safetensors header has it

enum class ActivationKind { kSilu, kGeluTanh, kGelu };

// What may differ from layer to layer.
struct LayerSpec {
  int64_t window = 0;    // tokens that a query sees, itself included; 0: all
  int rope = 0;          // index into ModelSpec::ropes
  bool experts = false;  // its MLP is MoeSpec's
};

// MLPs of which every token passes through a few. See RoutingSpec in kernels/ops.h for the choice.
struct MoeSpec {
  enum class Scoring { kSoftmax, kSigmoid, kSparseMixer };
  int64_t num_experts = 0;          // E; 0: the model has none
  int64_t experts_per_token = 0;    // k
  int64_t expert_intermediate = 0;  // Ie
  int64_t shared_intermediate = 0;  // Is, of the expert that every token passes through; 0: none
  bool shared_gate = false;  // the shared expert's output is multiplied by a sigmoid of its own
  Scoring scoring = Scoring::kSoftmax;
  bool normalize = false;  // weights of the chosen add up to 1, before they are scaled
  double routed_scale = 1.0;
  int64_t num_groups = 1;
  int64_t groups_per_token = 1;
  int64_t group_top = 1;  // a group is as good as the sum of so many of its experts
  bool correction_bias = false;
  double jitter = 0.0;          // kSparseMixer
  bool float32_logits = false;  // of the router; else in the model's dtype
};

// Latent attention: keys and values of all heads come from one narrow vector per token, which with
// a turning part behind it is what the cache keeps.
struct LatentSpec {
  int64_t query_rank = 0;  // elements that queries are made from; 0: from the hidden state
  int64_t kv_rank = 0;     // L; 0: the model's attention is not latent
  int64_t nope_size = 0;   // N, elements of a head that do not turn
  int64_t rope_size = 0;   // R, and those that do; of keys they are common to all heads
  int64_t value_size = 0;  // elements of a value head
  float norm_eps = 1e-6f;  // of the norms between the projections
  int64_t entry_size() const { return kv_rank + rope_size; }
};

// Weights may be stored as float8 with a float32 scale for every block of them; 0: they may not.
struct BlockScaling {
  int64_t rows = 0;
  int64_t columns = 0;
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
  int64_t num_kv_heads = 0;       // K; 1 of latent attention
  int64_t head_size = 0;          // D; the cache entry of latent attention
  int64_t intermediate_size = 0;  // I, of layers without experts
  int64_t vocab_size = 0;         // V
  int64_t context_max = 0;        // tokens
  std::vector<LayerSpec> layers;  // num_layers of them
  std::vector<RotarySpec> ropes;  // at least one
  MoeSpec moe;
  LatentSpec latent;
  float embedding_scale = 1.0f;  // multiplies the embedding; rounded to the model's dtype
  float rms_norm_eps = 1e-5f;
  bool layer_norm = false;          // norms take the mean off and have a bias
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
  bool head_bias = false;
  int64_t draft_layers = 0;  // behind the last; stored, but passed over
  BlockScaling float8;
  DType checkpoint_dtype = DType::kBFloat16;  // config.json's torch_dtype / dtype
  std::vector<KvGroup> kv_groups;             // see GroupLayers
};

// Parses config.json's text. UNIMPLEMENTED for an unknown architecture (lists the supported ones),
// INVALID_ARGUMENT naming the key, what it holds and what it may hold.
absl::StatusOr<ModelSpec> ParseModelSpec(const std::string& config_json);

// Parameters of the whole model, tied tensors counted once.
int64_t ParameterCount(const ModelSpec& spec);
// Those that one token meets.
int64_t ActiveParameterCount(const ModelSpec& spec);

// Tokens that a sequence may have before it turns by long rotary factors, in a deployment of at
// most `context_max` tokens a sequence; 0: no sequence there ever does. A sequence that grows
// beyond is computed anew, all of it, and shares no cached keys with shorter ones.
int64_t RopeSwitch(const ModelSpec& spec, int64_t context_max);

// True if a layer's MLP is not of experts.
bool HasDenseLayers(const ModelSpec& spec);

// The KV groups that `layers` make: full ones first, then by window, the smallest first.
std::vector<KvGroup> GroupLayers(const ModelSpec& spec);

}  // namespace tessera

#endif  // TESSERA_MODELS_MODEL_SPEC_H_
