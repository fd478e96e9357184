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

void ScriptedExecutor::TellStepTime(absl::Duration told) {
  absl::MutexLock lock(&mutex_);
  told_step_time_ = told;
}

void ScriptedExecutor::Hold(bool hold) {
  absl::MutexLock lock(&mutex_);
  hold_ = hold;
}

uint64_t ScriptedExecutor::sampled() const {
  absl::MutexLock lock(&mutex_);
  return sampled_;
}

cluster::v1::SamplingParams ScriptedExecutor::last_sampling() const {
  absl::MutexLock lock(&mutex_);
  return last_sampling_;
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

float ScriptedExecutor::Logprob(int32_t token, size_t position, uint32_t choice) {
  return -static_cast<float>((static_cast<size_t>(token) + position) % 7 + 1 + choice) / 8;
}

std::vector<std::pair<int32_t, float>> ScriptedExecutor::TopLogprobs(int32_t token, size_t position,
                                                                     uint32_t choice,
                                                                     uint32_t count) {
  std::vector<std::pair<int32_t, float>> top;
  for (uint32_t i = 0; i < count; ++i) {
    top.emplace_back(token + static_cast<int32_t>(i),
                     Logprob(token, position, choice) - static_cast<float>(i) / 8);
  }
  return top;
}

void ScriptedExecutor::Score(int32_t token, size_t position, uint32_t choice, uint32_t alternatives,
                             cluster::v1::StepResult* result) const {
  result->add_logprobs(Logprob(token, position, choice));
  result->add_num_top(alternatives);
  for (const auto& [id, logprob] : TopLogprobs(token, position, choice, alternatives)) {
    result->add_top_tokens(id);
    result->add_top_logprobs(logprob);
  }
}

void ScriptedExecutor::AnswerRow(const cluster::v1::StepPlan& plan, int row,
                                 cluster::v1::StepResult* result) {
  const cluster::v1::SequenceReset& known = known_.at(plan.sequence(row));
  const cluster::v1::SamplingParams& sampling = known.sampling();
  const size_t prompt = known.num_prompt_tokens();
  const size_t start = plan.start_position(row);
  const size_t end = start + plan.num_new_tokens(row);
  uint32_t scored = 0;
  if (sampling.prompt_logprobs() > 0) {
    for (size_t position = start + 1; position <= end && position < prompt; ++position, ++scored) {
      Score(known.history(static_cast<int>(position)), position, known.choice(),
            sampling.prompt_logprobs() - 1, result);
    }
  }
  const uint32_t samples =
      plan.output(row) == cluster::v1::OUTPUT_SAMPLE ? plan.num_choices(row) : 0;
  for (uint32_t i = 0; i < samples; ++i) {
    const uint32_t choice = known.choice() + i;
    const int32_t token = script_(prompt, end - prompt, choice);
    result->add_sampled(token);
    ++sampled_;
    if (!sampling.logprobs()) continue;
    Score(token, end, choice, sampling.top_logprobs(), result);
    ++scored;
  }
  result->add_num_sampled(samples);
  result->add_num_scored(scored);
}

cluster::v1::StepResult ScriptedExecutor::Answer(const cluster::v1::StepPlan& plan) {
  for (const auto& reset : plan.resets()) {
    known_[plan.sequence(static_cast<int>(reset.row()))] = reset;
    last_sampling_ = reset.sampling();
  }
  cluster::v1::StepResult result;
  result.set_term(plan.term());
  result.set_epoch(plan.epoch());
  result.set_group(plan.group());
  result.set_step(plan.step());
  result.set_rows(static_cast<uint32_t>(plan.sequence_size()));
  if (plan.sequence_size() > 0) {
    result.set_step_ns(static_cast<uint64_t>(absl::ToInt64Nanoseconds(told_step_time_)));
  }
  for (int row = 0; row < plan.sequence_size(); ++row) AnswerRow(plan, row, &result);
  if (result.logprobs_size() == 0) result.clear_num_scored();
  for (const uint64_t sequence : plan.finished_sequences()) known_.erase(sequence);
  return result;
}

}  // namespace tessera::api
