// The tensor names that most checkpoints share, in pieces that a family puts together: which
// tensors there are follows from the spec's choices. Used by the files of this folder.

#ifndef TESSERA_MODELS_FAMILIES_STANDARD_H_
#define TESSERA_MODELS_FAMILIES_STANDARD_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "models/model_spec.h"
#include "models/weight_spec.h"

namespace tessera {

// How a family calls the parts of its experts.
struct ExpertNames {
  std::string prefix = "mlp.";
  std::string gate = "gate_proj";
  std::string up = "up_proj";
  std::string down = "down_proj";
  std::string shared = "shared_experts";
};

// The tensors of one layer, whose names begin with `prefix`.
class LayerTable {
 public:
  LayerTable(const ModelSpec& spec, int layer, std::string prefix, std::vector<WeightSpec>* table)
      : spec_(spec), layer_(layer), prefix_(std::move(prefix)), table_(table) {}

  // Each of these adds what the spec says.
  void AddNorms();      // around attention and MLP
  void AddAttention();  // projections, biases, head norms
  void AddMlp();        // gate, up, down, biases
  // The same where query, key and value, or gate and up, are one stored tensor.
  void AddFusedAttention();
  void AddFusedMlp();
  void AddLatentAttention();
  // Router, experts, shared expert. `prefix` is that of all three.
  void AddExperts(const ExpertNames& names);
  // AddMlp or AddExperts, as the layer has it.
  void AddMlpOrExperts(const ExpertNames& names);

  void Add(const std::string& name, WeightSlot slot, std::vector<int64_t> shape, ShardRule rule);

 private:
  struct Part {
    WeightSlot slot;
    int64_t rows;
    ShardRule rule;
  };
  void AddFused(const std::string& name, const std::vector<Part>& parts);

  const ModelSpec& spec_;
  const int layer_;
  const std::string prefix_;
  std::vector<WeightSpec>* const table_;
};

// Embedding, what add_layer adds for every layer, final norm, head.
std::vector<WeightSpec> WeightsAround(const ModelSpec& spec,
                                      absl::FunctionRef<void(LayerTable&)> add_layer);

// WeightsAround norms, attention and MLP, nothing fused.
std::vector<WeightSpec> StandardWeights(const ModelSpec& spec);

// Rotary buffers, and lm_head.weight beside a tied head.
bool StandardIgnorable(const ModelSpec& spec, std::string_view tensor);

}  // namespace tessera

#endif  // TESSERA_MODELS_FAMILIES_STANDARD_H_
