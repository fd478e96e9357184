// Opens the models named on the command line: files, tokenizer, template, limits, and what the
// cluster and the scheduler need to know of each. Runs once, on main's thread, before anything is
// started.

#ifndef TESSERA_COORDINATOR_MODEL_SETUP_H_
#define TESSERA_COORDINATOR_MODEL_SETUP_H_

#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/api/served_model.h"
#include "coordinator/cluster/group_manager.h"
#include "coordinator/options.h"
#include "coordinator/sched/scheduler.h"

namespace tessera {

struct ModelSetup {
  std::vector<ServedModel> served;        // for the front doors
  std::vector<ModelTarget> targets;       // for the cluster
  std::vector<SchedulerModel> scheduled;  // for the scheduler
};

// The error names the model directory and what is wrong with it.
absl::StatusOr<ModelSetup> OpenModels(const CoordinatorOptions& options);

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_MODEL_SETUP_H_
