// The exact top-k and top-p cut over a sharded vocabulary, for all rows of a step together. Called
// by the sampler on the engine thread.
//
// A cut is a threshold logit and how many of the tokens equal to it stay (the lowest ids). It is
// found byte by byte of the logit's float order: a histogram of the 256 values of a byte says in
// which of them the wanted rank or mass lies, the next byte is looked at only inside that one. Four
// histograms for top-k, four for top-p; rows with both share the first, so seven.

#ifndef TESSERA_WORKER_TOP_CUT_H_
#define TESSERA_WORKER_TOP_CUT_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "worker/comm/communicator.h"

namespace tessera {

// What to cut from one row: top-k, top-p or both.
struct CutRow {
  uint32_t top_k = 0;    // 0: off
  float top_p = 1.0f;    // 1: off
  float maximum = 0.0f;  // largest logit over all shards, finite
  float inv_temperature = 1.0f;
};

// What stays: tokens above the threshold, and of those equal to it the first `ties_kept` on this
// rank.
struct Cut {
  float threshold = 0.0f;
  int64_t ties_kept = 0;
};

// found[r] becomes the cut of entry r of `rows`. No collective without entries.
absl::Status FindCuts(const ExecContext& ctx, Ops& ops, Communicator& comm, LogitRows rows,
                      const std::vector<CutRow>& cuts, std::vector<Cut>& found);

}  // namespace tessera

#endif  // TESSERA_WORKER_TOP_CUT_H_
