// Sums over the ranks of a group on the GPU, once their parts lie where this rank can read them:
// the fixed binary tree of worker/comm, in float32. Called by the communicators of the CUDA
// backend; a build without CUDA answers UNIMPLEMENTED.

#ifndef TESSERA_KERNELS_PEER_SUM_H_
#define TESSERA_KERNELS_PEER_SUM_H_

#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"

namespace tessera {

inline constexpr int kPeersMax = 8;

// out[i] = tree over parts of part[i]; `out` may be one of the parts. 1, 2, 4 or 8 parts of n
// floats.
absl::Status SumPeers(const ExecContext& context, float* out,
                      const std::vector<const float*>& parts, int64_t n);

// Ops::AddResidualNorm with the tree sum of `parts` (each [T, C] float32, contiguous) as the sum:
// one pass over the parts instead of two.
absl::Status SumPeersResidualNorm(const ExecContext& context, TensorView out, TensorView residual,
                                  const std::vector<const float*>& parts, TensorView bias,
                                  const NormSpec& norm);

}  // namespace tessera

#endif  // TESSERA_KERNELS_PEER_SUM_H_
