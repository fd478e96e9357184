// Reads the model goldens of this folder: what Hugging Face transformers computes for a checkpoint,
// token by token. Used by the parity tests of the worker; written by generate.py.
//
// A test that needs them:
//   for (const std::string& name : tessera::golden::CaseNames()) {
//     absl::StatusOr<tessera::golden::Golden> golden = tessera::golden::Read(name);
//     ASSERT_TRUE(golden.ok()) << golden.status();
//     // load golden->model_dir, then for every prompt p, compute dtype float32, every tp in
//     golden->tp:
//     //   logits after p.tokens[0..i] vs p.LogitsAt(i), i in [p.logits_begin, tokens):
//     |difference| <=
//     //   golden->fp32_tolerance; the greedy continuation of p.tokens == p.greedy, all of it (no
//     early
//     //   stop at an end token).
//     // compute dtype bfloat16: max |difference| to LogitsAt(i) <= golden->bf16_tolerance, and the
//     mean
//     //   over a prompt <= golden->bf16_mean_tolerance (against the float32 logits, which are the
//     truth;
//     //   Bf16LogitsAt(i) is what the reference itself makes of bfloat16).
//   }
// golden->features says what a case covers ("rope_llama3", "rope_linear", "gqa", "tied_head",
// "attention_bias", "mlp_bias", "sharded", ...): switching that off must make the case fail.

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
  std::vector<int32_t> greedy;     // 64 tokens that follow `tokens` in float32
  double greedy_margin = 0;        // smallest distance between the best two logits on the way

  // Logits after tokens[0..position], [V].
  absl::Span<const float> LogitsAt(int64_t position) const {
    return absl::MakeSpan(logits).subspan((position - logits_begin) * vocab_size, vocab_size);
  }
  absl::Span<const float> Bf16LogitsAt(int64_t position) const {
    return absl::MakeSpan(bf16_logits).subspan((position - logits_begin) * vocab_size, vocab_size);
  }
};

struct Golden {
  std::string name;
  std::string model_dir;  // absolute; an ordinary Hugging Face directory
  std::vector<std::string> features;
  std::vector<int> tp;        // values that divide this model
  double fp32_tolerance = 0;  // max abs logit difference, 1e-4
  double bf16_tolerance = 0;  // max abs logit difference to the float32 logits
  double bf16_mean_tolerance = 0;
  int64_t parameters = 0;                   // of the model, tied ones once
  std::vector<double> inverse_frequencies;  // of the rotary embedding, as the reference has them
  double entropy_ratio = 0;  // median attention entropy / entropy of uniform attention, < 0.5
  std::vector<Prompt> prompts;

  bool Has(const std::string& feature) const;
};

// The folders here that hold a golden.json, in order of name.
std::vector<std::string> CaseNames();

// NOT_FOUND, INVALID_ARGUMENT or FAILED_PRECONDITION (the weights are not the ones that the golden
// was made from: says which command makes it anew).
absl::StatusOr<Golden> Read(const std::string& name);

}  // namespace tessera::golden

#endif  // TESSERA_TESTS_GOLDEN_MODELS_GOLDEN_H_
