// See the header.

#include "tests/simulation/faults.h"

#include <memory>
#include <utility>

#include "tests/simulation/symbolic_model.h"

namespace tessera::simulation {

using sim::MessageFate;

MessageFate Faults::Fate(sim::MessageKind /*kind*/) {
  MessageFate fate;
  if (stopped_) return fate;
  fate.drop = random_.Chance(rates_.drop);
  fate.duplicate = random_.Chance(rates_.duplicate);
  fate.overtake = random_.Chance(rates_.overtake);
  const bool delayed = random_.Chance(rates_.delay);
  if (delayed) fate.delay = rates_.delay_max * random_.Uniform();
  num_hits_ += fate.drop + fate.duplicate + fate.overtake + delayed;
  return fate;
}

bool Faults::IsOutOfMemory() {
  const bool fails = !stopped_ && random_.Chance(rates_.out_of_memory);
  num_hits_ += fails;
  return fails;
}

void Faults::Remember(const StepDone& done) {
  if (rates_.stale > 0 && (!old_done_.has_value() || random_.Chance(0.05))) old_done_ = done;
}

void Faults::Remember(const cluster::v1::StepPlan& plan) {
  if (rates_.stale <= 0) return;
  if (!old_plan_.has_value() || random_.Chance(0.05)) old_plan_ = plan;
  last_plan_ = plan;
}

template <typename Fault>
void Faults::Schedule(double per_second, Fault fault) {
  if (per_second <= 0) return;
  absl::Duration when;
  while ((when += absl::Seconds(random_.Exponential() / per_second)) < phase_) {
    simulation_->queue().After(when, [this, fault] {
      if (stopped_) return;
      ++num_hits_;
      fault();
    });
  }
}

sim::Worker& Faults::Somebody() {
  return simulation_->worker(random_.Below(simulation_->num_workers()));
}

absl::Duration Faults::RestartTime() {
  return random_.Between(absl::Milliseconds(50), absl::Seconds(3));
}

void Faults::Start(const Scenario& scenario, sim::Simulation& simulation, Workload& workload) {
  simulation_ = &simulation;
  workload_ = &workload;
  phase_ = scenario.fault_phase;
  Schedule(rates_.kill, [this] { Somebody().Kill(RestartTime()); });
  Schedule(rates_.vanish, [this] { Somebody().Kill(RestartTime(), absl::Seconds(3)); });
  Schedule(rates_.pause, [this] {
    Somebody().Pause(random_.Between(absl::Milliseconds(10), absl::Seconds(5)) * random_.Uniform());
  });
  Schedule(rates_.slow, [this] {
    sim::Worker& worker = Somebody();
    worker.SetSlowness(100);
    simulation_->queue().After(random_.Between(absl::Milliseconds(100), absl::Seconds(5)),
                               [&worker] { worker.SetSlowness(1); });
  });
  Schedule(rates_.stale, [this] { SendStale(); });
  Schedule(rates_.load_failure, [this] {
    const bool memory = random_.Chance(0.5);
    Somebody().FailNextLoad(memory ? absl::ResourceExhaustedError("no memory for the weights")
                                   : absl::UnavailableError("the disk does not answer"),
                            RestartTime());
  });
  Schedule(rates_.reload, [this] { Reload(); });
}

// What a rank told an earlier coordinator, whose epochs and steps had the same numbers as now.
cluster::v1::StepResult Faults::OfEarlierTerm() {
  cluster::v1::StepResult result;
  result.set_term(last_plan_->term() - 1);
  result.set_epoch(last_plan_->epoch());
  result.set_group(last_plan_->group());
  result.set_step(last_plan_->step() - random_.Below(2));
  for (int row = 0; row < last_plan_->sequence_size(); ++row) {
    const bool samples = last_plan_->output(row) == cluster::v1::OUTPUT_SAMPLE;
    result.add_num_sampled(samples ? last_plan_->num_choices(row) : 0);
    for (uint32_t i = 0; i < result.num_sampled(row); ++i) {
      result.add_sampled(static_cast<int32_t>(random_.Below(kVocabSize)));
    }
  }
  return result;
}

// An answer or a plan of another time: of this life, of an earlier epoch, or of an earlier term.
void Faults::SendStale() {
  sim::Worker& worker = Somebody();
  if (last_plan_.has_value() && random_.Chance(0.3)) {
    worker.InjectResult(OfEarlierTerm());
  } else if (old_done_.has_value() && random_.Chance(0.6)) {
    worker.InjectResult(old_done_->rank_results.front());
  } else if (old_plan_.has_value()) {
    auto plan = std::make_shared<cluster::v1::StepPlan>(*old_plan_);
    if (random_.Chance(0.3)) plan->set_term(plan->term() - 1);
    worker.InjectPlan(std::move(plan));
  }
}

void Faults::Reload() {
  for (size_t i = 0; i < simulation_->num_workers(); ++i) {
    sim::Worker& worker = simulation_->worker(i);
    simulation_->queue().After(random_.Between(absl::ZeroDuration(), absl::Seconds(1)),
                               [&worker] { worker.Kill(absl::Milliseconds(100)); });
  }
  workload_->ChangeTenants();
}

void Faults::Stop() {
  stopped_ = true;
  for (size_t i = 0; i < simulation_->num_workers(); ++i) {
    simulation_->worker(i).SetSlowness(1);
    simulation_->worker(i).FailNextLoad(absl::OkStatus(), absl::ZeroDuration());
  }
}

}  // namespace tessera::simulation
