// A step as the decoder's layers see it: the views of all rows and of runs of rows that turn alike.
// Made by StepArrays for every KvGroup, read by the decoder; engine thread only.

#ifndef TESSERA_WORKER_GROUP_STEP_H_
#define TESSERA_WORKER_GROUP_STEP_H_

#include <cstdint>
#include <vector>

#include "kernels/ops.h"

namespace tessera {

struct GroupStep {
  // Neighbouring rows whose sequences turn by the same table; a step in itself, of tokens
  // [first_token, first_token + rows.num_tokens) of the whole one.
  struct Run {
    StepView rows;
    int64_t first_token = 0;
    bool long_rope = false;
  };
  StepView all;
  std::vector<Run> runs;  // in order, all rows; one unless the step mixes short and long sequences
};

}  // namespace tessera

#endif  // TESSERA_WORKER_GROUP_STEP_H_
