// The sampler as one would write it without shards or speed: count, sort, cut, draw. Shares with
// the product only the noise of a token (kernels/philox.h), which is the definition of a draw.

#ifndef TESSERA_TESTS_WORKER_SAMPLER_REFERENCE_H_
#define TESSERA_TESTS_WORKER_SAMPLER_REFERENCE_H_

#include <random>
#include <vector>

#include "worker/sampler.h"

namespace tessera {

// Ids that survive top-k, then top-p, then min-p, most likely first, lower id first among equals.
std::vector<int32_t> ReferenceCut(const std::vector<float>& logits, const SampleRow& row);

// The token of one row, or Sampler::kNoToken. Rules are not looked at: give ruled logits.
int32_t ReferenceSample(const std::vector<float>& logits, const SampleRow& row);

// Rules and the tokens that they look at.
struct RuleCase {
  TokenRuleParams params;
  std::vector<int32_t> prompt;
  std::vector<int32_t> output;
};

// Every kind of rule, each in about half of the cases.
RuleCase RandomRules(std::mt19937& random, int32_t vocab);

TokenRules RulesOf(const RuleCase& rules);

// Every logit of the vocabulary under the rules, by looking through all lists for each of them.
std::vector<float> ReferenceRules(std::vector<float> logits, const RuleCase& rules);

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_SAMPLER_REFERENCE_H_
