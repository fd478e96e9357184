// Reads the model goldens of this folder: what Hugging Face transformers computes for a checkpoint,
// token by token. Used by the parity tests of the worker; written by generate.py.
//
// What a test does with one: load model_dir and compute every prompt. In float32, at every tp that
// is listed, logits differ by at most fp32_tolerance and the greedy continuation is equal, all of
// it (no early stop at an end token). In bfloat16 the largest and the mean difference to the
// float32 logits stay below their tolerances, and so does the largest divergence of the
// distributions, in nats; its mean over all positions has one limit for all, see the test.
//
// `features` says what a case covers: switching one off must make the case fail, see
// tests/worker/feature_mutations.h.

#ifndef TESSERA_TESTS_GOLDEN_MODELS_GOLDEN_H_
#define TESSERA_TESTS_GOLDEN_MODELS_GOLDEN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tessera::golden {

struct Prompt {
  std::vector<int32_t> tokens;
  int64_t logits_begin = 0;   // first position whose logits are stored; 0 but for the demo model
  int64_t vocab_size = 0;     // V
  std::vector<float> logits;  // [tokens - logits_begin, V], computed in float32
  std::vector<float> bf16_logits;  // the same, weights and activations in bfloat16
  std::vector<int32_t> greedy;     // at least 48 tokens that follow `tokens` in float32
  double greedy_margin = 0;        // smallest distance between the best two logits on the way

  // Logits after tokens[0..position], [V].
  absl::Span<const float> LogitsAt(int64_t position) const {
    return absl::MakeSpan(logits).subspan((position - logits_begin) * vocab_size, vocab_size);
  }
  absl::Span<const float> Bf16LogitsAt(int64_t position) const {
    return absl::MakeSpan(bf16_logits).subspan((position - logits_begin) * vocab_size, vocab_size);
  }
};

// One rotary embedding as the reference has it.
struct Rope {
  std::vector<double> inverse_frequencies;
  double attention_factor = 1;
};

struct Golden {
  std::string name;
  std::string model_dir;  // absolute; an ordinary Hugging Face directory
  std::vector<std::string> features;
  std::vector<int> tp;        // values that divide this model
  double fp32_tolerance = 0;  // max abs logit difference
  double bf16_tolerance = 0;  // max abs logit difference to the float32 logits
  double bf16_mean_tolerance = 0;
  double bf16_divergence_max = 0;
  int64_t parameters = 0;  // of the model, tied ones once
  // In the order of ModelSpec::ropes, for a sequence as long as the longest prompt; and for a short
  // one, of models with longrope alone.
  std::vector<Rope> ropes;
  std::vector<Rope> short_ropes;
  double entropy_ratio = 0;  // median attention entropy / entropy of uniform attention, < 0.5
  // Tokens of the most wanted expert / tokens of an expert on average, least over layers; 0 without
  // experts.
  double expert_ratio = 0;
  std::vector<Prompt> prompts;

  bool Has(const std::string& feature) const;
  int64_t LongestPrompt() const;  // tokens
};

// The folders here that hold a golden.json, in order of name.
std::vector<std::string> CaseNames();

// Those that there have to be (expected.txt), so that none is lost unseen.
std::vector<std::string> ExpectedCaseNames();

// NOT_FOUND, INVALID_ARGUMENT or FAILED_PRECONDITION (the weights are not the ones that the golden
// was made from: says which command makes it anew).
absl::StatusOr<Golden> Read(const std::string& name);

}  // namespace tessera::golden

#endif  // TESSERA_TESTS_GOLDEN_MODELS_GOLDEN_H_
