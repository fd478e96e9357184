// The two streams between a worker and the coordinator, as in cluster.proto: both directions of
// each, and what the step stream's metadata says as its first message.

#ifndef TESSERA_COORDINATOR_SIM_STREAMS_H_
#define TESSERA_COORDINATOR_SIM_STREAMS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <variant>

#include "coordinator/sim/pipe.h"
#include "tessera/cluster/v1/cluster.pb.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera::sim {

// The same plan goes to every rank.
using SharedPlan = std::shared_ptr<const cluster::v1::StepPlan>;

struct ControlStream {
  ControlStream(Wire& wire, uint32_t worker_index)
      : worker(worker_index),
        up(wire, MessageKind::kFromWorker, worker_index),
        down(wire, MessageKind::kToWorker, worker_index) {}

  const uint32_t worker;  // index of the simulated worker
  Pipe<cluster::v1::WorkerMessage> up;
  Pipe<cluster::v1::CoordinatorMessage> down;
};

struct StepStream {
  struct Open {};  // always the first message
  using Up = std::variant<Open, cluster::v1::StepResult>;

  StepStream(Wire& wire, uint32_t worker_index, uint64_t worker_id_in, uint64_t epoch_in)
      : worker_id(worker_id_in),
        epoch(epoch_in),
        up(wire, MessageKind::kResult, worker_index),
        down(wire, MessageKind::kPlan, worker_index) {}

  const uint64_t worker_id;  // as the coordinator named the worker
  const uint64_t epoch;
  Pipe<Up> up;
  Pipe<SharedPlan> down;
};

// How a worker reaches the coordinator.
struct Door {
  std::function<void(std::shared_ptr<ControlStream>)> join;
  std::function<void(std::shared_ptr<StepStream>)> steps;
};

}  // namespace tessera::sim

#endif  // TESSERA_COORDINATOR_SIM_STREAMS_H_
