// Puts the parts together; see simulation.h.

#include "coordinator/sim/simulation.h"

#include <utility>

namespace tessera::sim {

Simulation::Simulation(SimulationOptions options, SimulationHooks hooks)
    : wire_{.queue = queue_,
            .random = Random(options.seed),
            .model = options.link,
            .fate = std::move(hooks.fate)},
      ranks_(std::move(hooks.ranks)),
      cluster_(std::move(options.cluster), wire_,
               {.post = [this](Event event) { engine_.Post(std::move(event)); },
                .notice = std::move(hooks.notice)}),
      engine_(std::move(options.scheduler), queue_, options.turn_time, cluster_,
              std::move(hooks.observers)) {
  for (WorkerOptions& worker : options.workers) {
    const uint32_t index = static_cast<uint32_t>(workers_.size());
    workers_.push_back(std::make_unique<Worker>(std::move(worker), index, wire_, fabric_,
                                                cluster_.door(), ranks_));
  }
}

void Simulation::Start() {
  cluster_.Start();
  engine_.Start();
  for (const auto& worker : workers_) worker->Start();
}

}  // namespace tessera::sim
