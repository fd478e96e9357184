// Candidates of all shards merged into one list, for the sampler and the scorer; engine thread.
// Shards hold ascending ids in rank order, so among equal scores the earlier rank's has the lower
// id.

#ifndef TESSERA_WORKER_SHARD_CANDIDATES_H_
#define TESSERA_WORKER_SHARD_CANDIDATES_H_

#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/ops.h"

namespace tessera {

// all [ranks, R, n], each list of n sorted as Ops::TopLogits leaves it -> the first n of each row,
// [R, n], sorted alike.
inline std::vector<Candidate> MergeShards(const std::vector<Candidate>& all, size_t rows,
                                          size_t n) {
  std::vector<Candidate> best(all.begin(), all.begin() + rows * n);
  std::vector<Candidate> merged(n);
  for (size_t from = rows * n; from < all.size(); from += n) {
    Candidate* const mine = &best[from / n % rows * n];
    const Candidate* const theirs = &all[from];
    size_t a = 0, b = 0;
    for (Candidate& next : merged) {
      const bool take_theirs =
          theirs[b].token >= 0 && (mine[a].token < 0 || theirs[b].score > mine[a].score);
      next = take_theirs ? theirs[b++] : mine[a++];
    }
    std::copy(merged.begin(), merged.end(), mine);
  }
  return best;
}

}  // namespace tessera

#endif  // TESSERA_WORKER_SHARD_CANDIDATES_H_
