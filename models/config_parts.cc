// See config_parts.h; the rotary embedding's part is in rotary_config.cc.

#include "models/config_parts.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace tessera {
namespace {

constexpr double kSoftcapMax = 1e6;
constexpr int64_t kScaleBlockMax = 1 << 20;  // rows or columns

absl::Status ParseHeads(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(spec->num_heads, config.Int("num_attention_heads", 1, kHeadsMax));
  TESSERA_ASSIGN_OR_RETURN(
      spec->num_kv_heads, config.IntOr("num_key_value_heads", spec->num_heads, 1, spec->num_heads));
  if (spec->num_heads % spec->num_kv_heads != 0) {
    return config.Refuse("num_key_value_heads",
                         absl::StrCat("a divisor of num_attention_heads, ", spec->num_heads));
  }
  if (!config.Has("head_dim") && spec->hidden_size % spec->num_heads != 0) {
    return config.Refuse("num_attention_heads",
                         absl::StrCat("a divisor of hidden_size, ", spec->hidden_size,
                                      ", where there is no head_dim"));
  }
  TESSERA_ASSIGN_OR_RETURN(
      spec->head_size,
      config.IntOr("head_dim", spec->hidden_size / spec->num_heads, 1, kHeadSizeMax));
  if (spec->head_size % 2 != 0 || spec->head_size < 2 || spec->head_size > kHeadSizeMax) {
    const std::string allowed = absl::StrCat("an even number from 2 to ", kHeadSizeMax);
    if (config.Has("head_dim")) return config.Refuse("head_dim", allowed);
    return absl::InvalidArgumentError(absl::StrCat(
        "config.json: hidden_size ", spec->hidden_size, " / num_attention_heads ", spec->num_heads,
        " gives heads of ", spec->head_size, " elements; it must be ", allowed));
  }
  spec->attention_scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(spec->head_size)));
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseWidths(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_ASSIGN_OR_RETURN(spec->num_layers, config.Int("num_hidden_layers", 1, kLayersMax));
  TESSERA_ASSIGN_OR_RETURN(spec->hidden_size, config.Int("hidden_size", 1, kHiddenSizeMax));
  TESSERA_ASSIGN_OR_RETURN(spec->intermediate_size,
                           config.Int("intermediate_size", 1, kIntermediateSizeMax));
  TESSERA_ASSIGN_OR_RETURN(spec->vocab_size, config.Int("vocab_size", 1, kVocabSizeMax));
  TESSERA_ASSIGN_OR_RETURN(spec->context_max,
                           config.Int("max_position_embeddings", 1, kContextMax));
  TESSERA_ASSIGN_OR_RETURN(const double eps, config.Number("rms_norm_eps", 1e-12, 1.0));
  spec->rms_norm_eps = static_cast<float>(eps);
  return absl::OkStatus();
}

absl::Status ParseSizes(const ConfigReader& config, ModelSpec* spec) {
  TESSERA_RETURN_IF_ERROR(ParseWidths(config, spec));
  return ParseHeads(config, spec);
}

absl::StatusOr<ActivationKind> ParseActivation(const ConfigReader& config, const std::string& key) {
  TESSERA_ASSIGN_OR_RETURN(const std::string name, config.StringOr(key, "silu"));
  if (name == "silu" || name == "swish") return ActivationKind::kSilu;
  if (name == "gelu") return ActivationKind::kGelu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return ActivationKind::kGeluTanh;
  return config.Refuse(key, "one of silu, gelu, gelu_pytorch_tanh");
}

absl::StatusOr<float> ParseSoftcap(const ConfigReader& config, const std::string& key) {
  if (!config.Has(key)) return 0.0f;
  TESSERA_ASSIGN_OR_RETURN(const double cap, config.Number(key, 1e-3, kSoftcapMax));
  return static_cast<float>(cap);
}

absl::StatusOr<int64_t> ParseWindow(const ConfigReader& config, int64_t otherwise) {
  if (!config.Mentions("sliding_window")) return otherwise;
  return config.IntOr("sliding_window", 0, 1, kContextMax);
}

absl::Status ParseLayers(const ConfigReader& config, int64_t window,
                         absl::FunctionRef<bool(int64_t layer)> slides, ModelSpec* spec) {
  spec->layers.resize(spec->num_layers);
  const ConfigReader::Json* types = config.Find("layer_types");
  if (types != nullptr &&
      (!types->is_array() || static_cast<int64_t>(types->size()) != spec->num_layers)) {
    return config.Refuse("layer_types",
                         absl::StrCat("a list of ", spec->num_layers, " names, one per layer"));
  }
  for (int64_t layer = 0; layer < spec->num_layers; ++layer) {
    bool is_sliding = window > 0 && slides(layer);
    if (types != nullptr) {
      const ConfigReader::Json& type = (*types)[layer];
      is_sliding = type == "sliding_attention";
      if (!is_sliding && type != "full_attention") {
        return config.Refuse("layer_types", "a list of full_attention and sliding_attention");
      }
    }
    if (is_sliding && window == 0) {
      return config.Refuse("layer_types", "a list of full_attention without a sliding window");
    }
    if (is_sliding) spec->layers[layer].window = window;
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ParseExpertsPerToken(const ConfigReader& config, int64_t experts) {
  return config.Int("num_experts_per_tok", 1, experts);
}

absl::StatusOr<BlockScaling> ParseBlockScaling(const ConfigReader& config) {
  BlockScaling scaling;
  TESSERA_ASSIGN_OR_RETURN(const auto quantization, config.Object("quantization_config"));
  if (!quantization.has_value()) return scaling;
  constexpr char kOthers[] =
      "; otherwise use a checkpoint in bfloat16, float16 or float32, other quantized weights are "
      "not supported";
  TESSERA_ASSIGN_OR_RETURN(const std::string method, quantization->StringOr("quant_method", ""));
  if (method != "fp8") {
    return quantization->RefuseForNow(
        "quant_method", absl::StrCat("\"fp8\", with a scale per block of weights", kOthers));
  }
  TESSERA_ASSIGN_OR_RETURN(const std::string format, quantization->StringOr("fmt", "e4m3"));
  if (format != "e4m3") {
    return quantization->RefuseForNow("fmt", absl::StrCat("\"e4m3\"", kOthers));
  }
  if (!quantization->Has("weight_block_size")) {
    return quantization->RefuseForNow(
        "weight_block_size",
        absl::StrCat("the rows and columns of weights that share a scale", kOthers));
  }
  const ConfigReader::Json& block = *quantization->Find("weight_block_size");
  const auto is_size = [](const ConfigReader::Json& n) {
    return n.is_number_unsigned() && n >= 1 && n <= kScaleBlockMax;
  };
  if (!block.is_array() || block.size() != 2 || !is_size(block[0]) || !is_size(block[1])) {
    return quantization->Refuse("weight_block_size",
                                absl::StrCat("two integers from 1 to ", kScaleBlockMax));
  }
  scaling.rows = block[0].get<int64_t>();
  scaling.columns = block[1].get<int64_t>();
  return scaling;
}

absl::StatusOr<DType> ParseCheckpointDType(const ConfigReader& config) {
  const char* key = config.Has("dtype") ? "dtype" : "torch_dtype";
  TESSERA_ASSIGN_OR_RETURN(const std::string name, config.StringOr(key, "float32"));
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    if (name == DTypeName(dtype)) return dtype;
  }
  return config.Refuse(key, "one of bfloat16, float16, float32");
}

}  // namespace tessera
