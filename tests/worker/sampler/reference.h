// The sampler as one would write it without shards or speed: sort, cut, draw. Shares with the
// product only the noise of a token (kernels/philox.h), which is the definition of a draw.

#ifndef TESSERA_TESTS_WORKER_SAMPLER_REFERENCE_H_
#define TESSERA_TESTS_WORKER_SAMPLER_REFERENCE_H_

#include <vector>

#include "worker/sampler.h"

namespace tessera {

// Ids that survive top-k and then top-p, most likely first, lower id first among equals.
std::vector<int32_t> ReferenceCut(const std::vector<float>& logits, const SampleRow& row);

// The token of one row, or Sampler::kNoToken.
int32_t ReferenceSample(const std::vector<float>& logits, const SampleRow& row);

}  // namespace tessera

#endif  // TESSERA_TESTS_WORKER_SAMPLER_REFERENCE_H_
