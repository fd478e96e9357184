// Steps on a simulated rank: one after another, with the time they take and the accounts of it.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/sim/worker.h"

namespace tessera::sim {
namespace {

namespace pb = cluster::v1;

uint64_t Nanoseconds(absl::Duration duration) {
  return static_cast<uint64_t>(absl::ToInt64Nanoseconds(duration));
}

void AddInterval(pb::DeviceInterval::Kind kind, absl::Duration duration, pb::StepResult& result) {
  pb::DeviceInterval* interval = result.add_intervals();
  interval->set_kind(kind);
  interval->set_duration_ns(Nanoseconds(duration));
}

void SetStepError(const absl::Status& status, pb::StepResult& result) {
  result.mutable_error()->set_code(static_cast<int32_t>(status.code()));
  result.mutable_error()->set_message(std::string(status.message()));
}

}  // namespace

absl::Status Worker::CheckIdentity(const Assignment& assignment, const pb::StepPlan& plan) {
  const pb::Assign& assign = assignment.assign;
  if (plan.term() != assign.term() || plan.epoch() != assign.epoch() ||
      plan.group() != assign.group()) {
    return absl::FailedPreconditionError(absl::StrCat("plan of term ", plan.term(), ", epoch ",
                                                      plan.epoch(), ", group ", plan.group(),
                                                      " at a rank of another"));
  }
  if (plan.step() != assignment.last_step + 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("step ", plan.step(), " follows ", assignment.last_step));
  }
  return absl::OkStatus();
}

void Worker::OnPlan(SharedPlan plan) {
  assignment_->queue.push_back(std::move(plan));
  if (!assignment_->busy) StartStep();
}

void Worker::InjectPlan(SharedPlan plan) {
  WhenAwake([this, plan = std::move(plan)] {
    if (serving()) OnPlan(plan);
  });
}

void Worker::InjectResult(pb::StepResult result) {
  if (serving()) assignment_->steps->up.Send(std::move(result));
}

void Worker::StartStep() {
  Assignment& assignment = *assignment_;
  assignment.busy = true;
  const SharedPlan plan = assignment.queue.front();
  auto step = std::make_shared<Progress>();
  step->begin = step->computed = step->met = wire_.queue.Now();
  absl::Status refused = CheckIdentity(assignment, *plan);
  if (refused.ok()) {
    // A plan that the program refuses has used its number too.
    assignment.last_step = plan->step();
    step->result = assignment.program(*plan);
  } else {
    SetStepError(refused, step->result);
    step->refused = true;
  }
  step->result.set_term(assignment.assign.term());
  step->result.set_epoch(assignment.assign.epoch());
  step->result.set_group(assignment.assign.group());
  step->result.set_step(plan->step());
  step->result.set_rank(assignment.assign.rank());
  if (step->result.has_error()) {
    AfterIn(assignment, absl::ZeroDuration(), [this, step] { Answer(step); });
    return;
  }
  // A heartbeat only meets the others.
  const bool empty = plan->sequence_size() == 0;
  const absl::Duration compute =
      empty ? absl::ZeroDuration() : options_.time.Compute(*plan, random_) * slowness_;
  AfterIn(assignment, absl::Floor(compute, absl::Nanoseconds(1)), [this, step] { Meet(step); });
}

void Worker::Meet(std::shared_ptr<Progress> step) {
  step->computed = wire_.queue.Now();
  Assignment& assignment = *assignment_;
  assignment.meeting = step;
  fabric_.Arrive(assignment.assign.epoch(), step->result.step(), assignment.assign.tp(),
                 [this, step, number = assignment.number, life = life_] {
                   const bool here = alive_ && life == life_ && assignment_ != nullptr &&
                                     assignment_->number == number;
                   if (!here || assignment_->meeting != step) return;
                   assignment_->meeting = nullptr;
                   step->met = wire_.queue.Now();
                   AfterIn(*assignment_, options_.time.sampling, [this, step] { Answer(step); });
                 });
  if (!assignment.watched) Watch();
}

// A rank that waits too long for the others gives up, as a collective does. At most one look is due
// at a time.
void Worker::Watch() {
  Assignment& assignment = *assignment_;
  assignment.watched = assignment.meeting != nullptr;
  if (!assignment.watched) return;
  const absl::Duration patience = absl::Milliseconds(assignment.assign.step_deadline_ms());
  AfterIn(assignment, assignment.meeting->computed + patience - wire_.queue.Now(),
          [this, patience] {
            const std::shared_ptr<Progress> step = assignment_->meeting;
            if (step == nullptr || wire_.queue.Now() < step->computed + patience) return Watch();
            assignment_->meeting = nullptr;
            assignment_->watched = false;
            SetStepError(absl::DeadlineExceededError("a collective lost its peer"), step->result);
            step->met = wire_.queue.Now();
            Answer(step);
          });
}

void Worker::Answer(std::shared_ptr<Progress> step) {
  Assignment& assignment = *assignment_;
  const absl::Time end = wire_.queue.Now();
  pb::StepResult& result = step->result;
  AddInterval(pb::DeviceInterval::COMPUTE, step->computed - step->begin, result);
  AddInterval(pb::DeviceInterval::COLLECTIVE, step->met - step->computed, result);
  AddInterval(pb::DeviceInterval::SAMPLE, end - step->met, result);
  result.set_step_ns(Nanoseconds(end - step->begin));
  result.set_idle_before_ns(Nanoseconds(step->begin - assignment.last_end));
  const SharedPlan plan = std::move(assignment.queue.front());
  assignment.queue.pop_front();
  result.set_rows(static_cast<uint32_t>(plan->sequence_size()));
  uint32_t tokens = 0;
  for (uint32_t n : plan->num_new_tokens()) tokens += n;
  result.set_tokens_computed(tokens);
  // A plan that is not this rank's takes no time and leaves no trace in its accounts.
  if (!step->refused) assignment.last_end = end;
  assignment.steps->up.Send(std::move(result));
  assignment.busy = false;
  if (!assignment.queue.empty()) StartStep();
}

}  // namespace tessera::sim
