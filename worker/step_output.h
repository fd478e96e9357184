// What a step drew and scored, as the columns of its StepResult. Called by the engine on its
// thread, once the sampler and the scorer are done.

#ifndef TESSERA_WORKER_STEP_OUTPUT_H_
#define TESSERA_WORKER_STEP_OUTPUT_H_

#include <cstdint>
#include <vector>

#include "tessera/cluster/v1/step.pb.h"
#include "worker/scorer.h"
#include "worker/step_input.h"

namespace tessera {

// What to score, in the order of StepResult's columns: for each row its prompt tokens, then its
// samples. `drawn` has one token per entry of input.sampling.
void FillScoreRows(const StepInput& input, const std::vector<int32_t>& drawn,
                   std::vector<ScoreRow>& rows);

// Fills the columns of `result` that are per row. `scores` are those of FillScoreRows' rows.
void FillColumns(const StepInput& input, const std::vector<int32_t>& drawn, const Scores& scores,
                 cluster::v1::StepResult& result);

}  // namespace tessera

#endif  // TESSERA_WORKER_STEP_OUTPUT_H_
