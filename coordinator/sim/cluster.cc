// See the header; side by side with coordinator/cluster/cluster.cc on purpose.

#include "coordinator/sim/cluster.h"

#include <utility>
#include <variant>
#include <vector>

namespace tessera::sim {
namespace {

namespace pb = cluster::v1;

}  // namespace

Cluster::Cluster(GroupManagerOptions options, Wire& wire, Outlets outlets)
    : wire_(wire), outlets_(std::move(outlets)), core_(std::move(options)) {
  door_.join = [this](std::shared_ptr<ControlStream> stream) { OnJoin(std::move(stream)); };
  door_.steps = [this](std::shared_ptr<StepStream> stream) { OnSteps(std::move(stream)); };
}

void Cluster::Start() {
  wire_.queue.After(core_.tick_interval(), [this] { Tick(); });
}

void Cluster::OnJoin(std::shared_ptr<ControlStream> stream) {
  const uint64_t control = next_stream_++;
  stream->up.Listen(
      [this, control](const pb::WorkerMessage& message) { OnWorkerMessage(control, message); },
      [this, control] { OnControlClosed(control); });
  controls_[control].stream = std::move(stream);
}

void Cluster::OnWorkerMessage(uint64_t control, const pb::WorkerMessage& message) {
  const auto found = controls_.find(control);
  if (found == controls_.end()) return;
  GroupActions actions;
  if (found->second.worker != 0) {
    core_.OnMessage(found->second.worker, message, wire_.queue.Now(), actions);
  } else {
    const absl::StatusOr<uint64_t> worker = core_.Join(message, wire_.queue.Now(), actions);
    if (worker.ok()) {
      found->second.worker = *worker;
      control_of_[*worker] = control;
    } else {
      CloseControl(control);
    }
  }
  Carry(actions);
}

void Cluster::OnControlClosed(uint64_t control) {
  const auto found = controls_.find(control);
  if (found == controls_.end()) return;
  const uint64_t worker = found->second.worker;
  controls_.erase(found);
  if (worker == 0) return;
  control_of_.erase(worker);
  GroupActions actions;
  core_.OnControlStreamClosed(worker, wire_.queue.Now(), actions);
  Carry(actions);
}

// Hangs up: the worker hears of it behind what was sent, and nothing of it is heard any more.
void Cluster::CloseControl(uint64_t control) {
  const auto found = controls_.find(control);
  found->second.stream->down.Close();
  found->second.stream->up.Cut();
  wire_.queue.After(absl::ZeroDuration(), [this, control] { OnControlClosed(control); });
}

void Cluster::OnSteps(std::shared_ptr<StepStream> stream) {
  const uint64_t steps = next_stream_++;
  stream->up.Listen([this, steps](const StepStream::Up& message) { OnStepMessage(steps, message); },
                    [this, steps] { OnStepsClosed(steps); });
  steps_[steps] = std::move(stream);
}

void Cluster::OnStepMessage(uint64_t steps, const StepStream::Up& message) {
  const auto found = steps_.find(steps);
  if (found == steps_.end()) return;
  StepStream& stream = *found->second;
  GroupActions actions;
  if (std::holds_alternative<StepStream::Open>(message)) {
    const auto accepted = steps_of_.find(stream.worker_id);
    if (accepted != steps_of_.end() && accepted->second == steps) return;  // said twice
    if (core_.OnStepStream(stream.worker_id, stream.epoch, wire_.queue.Now(), actions).ok()) {
      steps_of_[stream.worker_id] = steps;
    } else {
      stream.down.Close();
      stream.up.Cut();
      steps_.erase(found);
    }
  } else {
    core_.OnStepResult(stream.worker_id, stream.epoch, std::get<pb::StepResult>(message),
                       wire_.queue.Now(), actions);
  }
  Carry(actions);
}

void Cluster::OnStepsClosed(uint64_t steps) {
  const auto found = steps_.find(steps);
  if (found == steps_.end()) return;
  const std::shared_ptr<StepStream> stream = std::move(found->second);
  steps_.erase(found);
  const auto accepted = steps_of_.find(stream->worker_id);
  if (accepted == steps_of_.end() || accepted->second != steps) return;
  steps_of_.erase(accepted);
  GroupActions actions;
  core_.OnStepStreamClosed(stream->worker_id, stream->epoch, wire_.queue.Now(), actions);
  Carry(actions);
}

void Cluster::Submit(pb::StepPlan plan) {
  GroupActions actions;
  const std::vector<uint64_t> ranks = core_.BeginStep(plan, wire_.queue.Now());
  const auto shared = std::make_shared<const pb::StepPlan>(std::move(plan));
  for (uint64_t worker : ranks) {
    const auto steps = steps_of_.find(worker);
    if (steps != steps_of_.end()) {
      steps_.at(steps->second)->down.Send(shared);
      continue;
    }
    core_.OnPlanNotTaken(*shared, wire_.queue.Now(), actions);
    break;
  }
  Carry(actions);
}

void Cluster::Tick() {
  GroupActions actions;
  core_.Tick(wire_.queue.Now(), actions);
  Carry(actions);
  wire_.queue.After(core_.tick_interval(), [this] { Tick(); });
}

void Cluster::Carry(GroupActions& actions) {
  for (GroupActions::Send& send : actions.sends) {
    const auto found = control_of_.find(send.worker);
    if (found == control_of_.end()) continue;
    controls_.at(found->second).stream->down.Send(std::move(send.message));
  }
  for (const GroupActions::Disconnect& gone : actions.disconnects) {
    const auto found = control_of_.find(gone.worker);
    if (found != control_of_.end()) CloseControl(found->second);
    const auto steps = steps_of_.find(gone.worker);
    if (steps != steps_of_.end()) steps_.at(steps->second)->down.Close();
  }
  for (Event& event : actions.events) outlets_.post(std::move(event));
  if (!outlets_.notice) return;
  for (const Notice& notice : actions.notices) outlets_.notice(notice);
}

}  // namespace tessera::sim
