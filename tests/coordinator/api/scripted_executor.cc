// Answers from a script, see scripted_executor.h.

#include "tests/coordinator/api/scripted_executor.h"

#include <utility>

#include "absl/time/clock.h"

namespace tessera::api {

void ScriptedExecutor::Submit(cluster::v1::StepPlan plan) {
  absl::MutexLock lock(&mutex_);
  plans_.push_back(std::move(plan));
}

void ScriptedExecutor::Start(Engine* engine) {
  engine_ = engine;
  thread_ = std::thread([this] { Run(); });
}

void ScriptedExecutor::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void ScriptedExecutor::SetScript(Script script) {
  absl::MutexLock lock(&mutex_);
  script_ = std::move(script);
}

void ScriptedExecutor::SetStepTime(absl::Duration step_time) {
  absl::MutexLock lock(&mutex_);
  step_time_ = step_time;
}

void ScriptedExecutor::Hold(bool hold) {
  absl::MutexLock lock(&mutex_);
  hold_ = hold;
}

uint64_t ScriptedExecutor::sampled() const {
  absl::MutexLock lock(&mutex_);
  return sampled_;
}

void ScriptedExecutor::Run() {
  while (true) {
    StepDone done;
    absl::Duration step_time;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &ScriptedExecutor::HasWork));
      if (stopping_) return;
      done.group = plans_.front().group();
      done.rank_results.push_back(Answer(plans_.front()));
      plans_.pop_front();
      step_time = step_time_;
    }
    if (step_time > absl::ZeroDuration()) absl::SleepFor(step_time);
    engine_->Post(std::move(done));
  }
}

cluster::v1::StepResult ScriptedExecutor::Answer(const cluster::v1::StepPlan& plan) {
  for (const auto& reset : plan.resets()) {
    prompt_tokens_[plan.sequence(static_cast<int>(reset.row()))] = reset.num_prompt_tokens();
  }
  cluster::v1::StepResult result;
  result.set_term(plan.term());
  result.set_epoch(plan.epoch());
  result.set_group(plan.group());
  result.set_step(plan.step());
  result.set_rows(static_cast<uint32_t>(plan.sequence_size()));
  for (int row = 0; row < plan.sequence_size(); ++row) {
    const bool samples = plan.output(row) == cluster::v1::OUTPUT_SAMPLE;
    result.add_num_sampled(samples ? 1 : 0);
    if (!samples) continue;
    const size_t prompt = prompt_tokens_.at(plan.sequence(row));
    const size_t end = plan.start_position(row) + plan.num_new_tokens(row);
    result.add_sampled(script_(prompt, end - prompt));
    ++sampled_;
  }
  return result;
}

}  // namespace tessera::api
