// Rotary position embeddings: what config.json says of them and the frequencies that follow. Read
// by config_parts.h's ParseRotary while a model is opened, turned into tables by the decoder; pure.

#ifndef TESSERA_MODELS_ROTARY_H_
#define TESSERA_MODELS_ROTARY_H_

#include <cstdint>
#include <vector>

namespace tessera {

// rope_scaling of config.json.
struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3, kYarn, kLongRope };
  Kind kind = Kind::kNone;
  double factor = 1.0;            // linear, llama3, yarn
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 1.0;  // llama3
  int64_t original_context = 0;   // llama3, yarn, longrope; tokens
  // yarn: frequencies that turn more often than beta_fast over the original context stay, those
  // that turn less often than beta_slow are divided by the factor, those between are blended.
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;  // yarn: the borders are rounded to whole pairs
  // longrope: divisors of every frequency [rotary_size / 2], for contexts of at most
  // original_context and for longer ones.
  std::vector<double> short_factor = {};
  std::vector<double> long_factor = {};
  double attention_factor = 1.0;       // yarn, longrope: multiplies cos and sin
  double long_attention_factor = 1.0;  // longrope, with long_factor
  // yarn: what mscale_all_dim makes of the factor. Latent attention scales its scores by its
  // square.
  double score_magnitude = 1.0;

  bool operator==(const RopeScaling&) const = default;
};

struct RotarySpec {
  double theta = 10000.0;
  int64_t rotary_size = 0;  // elements of a head that turn; even
  RopeScaling scaling = {};
  bool interleaved = false;  // pairs are neighbours (2 i, 2 i + 1), else half a turning part apart
};

struct RotaryTable {
  std::vector<float> inverse_frequencies;  // [rotary_size / 2], scaling applied, made in double
  float attention_factor = 1.0f;           // multiplies cos and sin
};

// `is_long`: for a sequence of more than original_context tokens, which longrope turns by its long
// factors at every position; the other kinds have one table.
RotaryTable MakeRotaryTable(const RotarySpec& rope, bool is_long);

}  // namespace tessera

#endif  // TESSERA_MODELS_ROTARY_H_
