// Symbolic execution of plans; see fake_ranks.h.

#include "tests/coordinator/sched/fake_ranks.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/kv/block.h"
#include "tests/coordinator/sched/symbolic_model.h"

namespace tessera::testing {

using cluster::v1::StepPlan;
using cluster::v1::StepResult;

FakeRanks::FakeRanks(const GroupReady& ready, const SchedulerOptions& options, int num_ranks,
                     std::vector<std::string>& violations)
    : term_(options.term),
      group_(ready.group),
      epoch_(ready.epoch),
      options_(options),
      kv_groups_(options.models[ready.model].kv_groups),
      num_ranks_(num_ranks),
      violations_(violations) {
  for (uint32_t blocks : ready.num_blocks) {
    slots_.emplace_back(static_cast<size_t>(blocks * options.block_size));
  }
}

void FakeRanks::Violate(const std::string& what) {
  violations_.push_back(
      absl::StrCat("group ", group_, " epoch ", epoch_, " step ", last_step_, ": ", what));
}

int64_t FakeRanks::FirstVisible(size_t kv_group, int64_t position) const {
  const KvGroup& group = kv_groups_[kv_group];
  if (group.kind != KvGroup::Kind::kWindow) return 0;
  return std::max<int64_t>(position - group.window + 1, 0);
}

FakeRanks::Slot& FakeRanks::At(size_t kv_group, const Known& sequence, int64_t position) {
  const size_t index = static_cast<size_t>(position / options_.block_size);
  const std::vector<uint32_t>& table = sequence.tables[kv_group];
  TESSERA_CHECK(index < table.size() && table[index] != kNullBlock)
      << "position " << position << " has no block";
  return slots_[kv_group][table[index] * static_cast<size_t>(options_.block_size) +
                          static_cast<size_t>(position % options_.block_size)];
}

void FakeRanks::Reset(const StepPlan& plan) {
  for (const auto& reset : plan.resets()) {
    const int row = static_cast<int>(reset.row());
    const auto [entry, is_new] = sequences_.try_emplace(plan.sequence(row));
    if (is_new) first_rows_.push_back(reset.request_id());
    Known& known = entry->second;
    known = Known{.tables = std::vector<std::vector<uint32_t>>(slots_.size()),
                  .num_computed = plan.start_position(row),
                  .num_prompt = reset.num_prompt_tokens(),
                  .choice = reset.choice(),
                  .sampling = reset.sampling(),
                  .history = {reset.history().begin(), reset.history().end()}};
  }
}

void FakeRanks::TakeBlocks(const StepPlan& plan) {
  int next = 0;
  const size_t kv_groups = slots_.size();
  for (int entry = 0; entry < plan.num_new_blocks_size(); ++entry) {
    Known& sequence = sequences_[plan.sequence(entry / static_cast<int>(kv_groups))];
    for (uint32_t i = 0; i < plan.num_new_blocks(entry); ++i) {
      sequence.tables[static_cast<size_t>(entry) % kv_groups].push_back(plan.block_ids(next++));
    }
  }
}

void FakeRanks::Copy(const StepPlan& plan) {
  const size_t size = static_cast<size_t>(options_.block_size);
  for (const auto& copy : plan.copies()) {
    std::vector<Slot>& slots = slots_[copy.kv_group()];
    std::copy_n(slots.begin() + static_cast<int64_t>(copy.from_block() * size), size,
                slots.begin() + static_cast<int64_t>(copy.to_block() * size));
  }
}

void FakeRanks::WriteToken(const Known& sequence, int64_t position, int32_t token) {
  for (size_t kv_group = 0; kv_group < slots_.size(); ++kv_group) {
    const uint64_t before = position == 0 ? 0 : At(0, sequence, position - 1).state;
    At(kv_group, sequence, position) = Slot{token, Extend(before, token, position)};
  }
}

void FakeRanks::WriteRows(const StepPlan& plan) {
  int next_token = 0;
  int next_source = 0;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    const auto found = sequences_.find(plan.sequence(row));
    if (found == sequences_.end()) return Violate(absl::StrCat("row ", row, " is a stranger"));
    Known& sequence = found->second;
    if (plan.start_position(row) != sequence.num_computed) {
      Violate(absl::StrCat("row ", row, " begins at ", plan.start_position(row), ", computed are ",
                           sequence.num_computed));
    }
    const bool is_sampled = plan.token_source(row) == cluster::v1::TOKENS_LAST_SAMPLED;
    for (uint32_t i = 0; i < plan.num_new_tokens(row); ++i) {
      int32_t token = 0;
      if (is_sampled) {
        const Sampled& source = last_sampled_[plan.source_row(next_source)];
        if (plan.source_step(next_source++) + 1 != plan.step() || source.tokens.size() != 1 ||
            source.sequence != plan.sequence(row)) {
          Violate(absl::StrCat("row ", row, " takes a token that is not its own"));
        }
        token = std::max(source.tokens.front(), 0);
      } else {
        token = plan.tokens(next_token++);
      }
      const size_t position = static_cast<size_t>(sequence.num_computed++);
      if (position < sequence.history.size() && sequence.history[position] != token) {
        Violate(absl::StrCat("the history of row ", row, " says otherwise"));
      }
      WriteToken(sequence, static_cast<int64_t>(position), token);
    }
  }
  if (next_token != plan.tokens_size()) Violate("tokens that no row owns");
}

// Reads what a query at the last position sees, in every KvGroup.
uint64_t FakeRanks::Attend(const Known& sequence, int64_t count) {
  for (size_t kv_group = 0; kv_group < slots_.size(); ++kv_group) {
    uint64_t before = 0;
    for (int64_t i = FirstVisible(kv_group, count - 1); i < count; ++i) {
      const Slot& slot = At(kv_group, sequence, i);
      const bool has_before = i == 0 || i > FirstVisible(kv_group, count - 1);
      if (has_before && slot.state != Extend(before, slot.token, i)) {
        Violate(absl::StrCat("a foreign or stale KV slot at position ", i));
        return 0;
      }
      before = slot.state;
    }
  }
  return At(0, sequence, count - 1).state;
}

void FakeRanks::Score(int32_t token, uint32_t top, uint64_t state, StepResult& result) const {
  result.add_logprobs(ScoreOf(state, token));
  result.add_num_top(top);
  for (uint32_t i = 0; i < top; ++i) {
    result.add_top_tokens(static_cast<int32_t>(i));
    result.add_top_logprobs(ScoreOf(state, static_cast<int32_t>(i)));
  }
}

void FakeRanks::Answer(const StepPlan& plan, StepResult& result) {
  sampled_.assign(static_cast<size_t>(plan.sequence_size()), {});
  bool any_scored = false;
  for (int row = 0; row < plan.sequence_size(); ++row) {
    Known& sequence = sequences_[plan.sequence(row)];
    Sampled& sampled = sampled_[static_cast<size_t>(row)];
    sampled.sequence = plan.sequence(row);
    const auto& params = sequence.sampling;
    uint32_t scored = 0;
    if (params.prompt_logprobs() > 0) {
      for (int64_t p = plan.start_position(row) + 1;
           p <= std::min<int64_t>(sequence.num_computed, sequence.num_prompt - 1); ++p, ++scored) {
        Score(sequence.history[static_cast<size_t>(p)], params.prompt_logprobs() - 1,
              Attend(sequence, p), result);
      }
    }
    if (plan.output(row) == cluster::v1::OUTPUT_SAMPLE) {
      const uint64_t state = Attend(sequence, sequence.num_computed);
      for (uint32_t i = 0; i < plan.num_choices(row); ++i) {
        const int32_t token = SampleToken(state, sequence.num_computed, params.temperature(),
                                          params.seed(), sequence.choice + i);
        sampled.tokens.push_back(token);
        result.add_sampled(token);
        if (!params.logprobs()) continue;
        Score(token, params.top_logprobs(), state, result);
        ++scored;
      }
    }
    result.add_num_sampled(static_cast<uint32_t>(sampled.tokens.size()));
    result.add_num_scored(scored);
    any_scored = any_scored || scored > 0;
  }
  if (!any_scored) result.clear_num_scored();
  last_sampled_ = std::move(sampled_);
}

void FakeRanks::Submit(const StepPlan& plan) {
  if (plan.term() != term_ || plan.group() != group_ || plan.epoch() != epoch_) {
    Violate("the plan is for somebody else");
  }
  if (plan.step() != last_step_ + 1) Violate(absl::StrCat("step ", plan.step(), " follows"));
  last_step_ = plan.step();
  StepResult result;
  result.set_term(plan.term());
  result.set_epoch(plan.epoch());
  result.set_group(plan.group());
  result.set_step(plan.step());
  Reset(plan);
  TakeBlocks(plan);
  Copy(plan);
  WriteRows(plan);
  Answer(plan, result);
  for (uint64_t id : plan.finished_sequences()) {
    if (sequences_.erase(id) == 0) Violate(absl::StrCat("unknown sequence ", id, " finished"));
  }
  uint32_t tokens = 0;
  for (uint32_t count : plan.num_new_tokens()) tokens += count;
  tokens_computed_ += tokens;
  result.set_rows(static_cast<uint32_t>(plan.sequence_size()));
  result.set_tokens_computed(tokens);
  result.set_step_ns(
      static_cast<uint64_t>((seconds_per_step_ + seconds_per_token_ * tokens) * 1e9));
  StepDone& done = answers_.emplace_back();
  done.group = group_;
  for (int rank = 0; rank < num_ranks_; ++rank) {
    result.set_rank(static_cast<uint32_t>(rank));
    done.rank_results.push_back(result);
  }
}

StepDone FakeRanks::Finish() {
  TESSERA_CHECK(in_flight());
  StepDone done = std::move(answers_.front());
  answers_.pop_front();
  return done;
}

}  // namespace tessera::testing
