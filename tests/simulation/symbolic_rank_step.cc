// The step of a symbolic rank: write, attend, sample; see symbolic_rank.h.

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/simulation/symbolic_rank.h"

namespace tessera::simulation {

using cluster::v1::StepPlan;
using cluster::v1::StepResult;

SymbolicRank::Slot* SymbolicRank::At(Pool& pool, const std::vector<uint32_t>& table,
                                     int64_t position) {
  const uint32_t block = table[position / block_size_];
  if (block >= pool.num_blocks) return nullptr;
  return &pool.slots[block * block_size_ + position % block_size_];
}

void SymbolicRank::Write(Row& row) {
  for (size_t g = 0; g < pools_.size(); ++g) {
    const std::vector<uint32_t>& table = row.sequence->tables[g];
    uint64_t state = 0;
    if (row.start > 0) {
      // The state of a model's last layer is that of everything before; any KvGroup has it.
      const Slot* before = At(pools_[g], table, row.start - 1);
      state = before == nullptr ? ~uint64_t{0} : before->state;
      if (before == nullptr && pools_[g].window != 1) {
        Violate(absl::StrCat("sequence ", row.id, " has lost position ", row.start - 1));
      }
    }
    row.states.clear();
    for (int64_t p = row.start; p < row.end; ++p) {
      state = Extend(state, row.tokens[p - row.start], p);
      row.states.push_back(state);
      Slot* slot = At(pools_[g], table, p);
      if (slot == nullptr) {
        Violate(absl::StrCat("sequence ", row.id, " has no block for position ", p));
        return;
      }
      *slot = Slot{row.tokens[p - row.start], row.sequence->long_rope, state};
    }
  }
}

// Every position from `first` to the row's end must hold what the chain of hashes says.
void SymbolicRank::CheckSlots(const Pool& pool, const std::vector<uint32_t>& table, const Row& row,
                              int64_t first) {
  uint64_t state = 0;
  for (int64_t p = first; p < row.end; ++p) {
    const uint32_t block = table[p / block_size_];
    if (block >= pool.num_blocks) {
      Violate(
          absl::StrCat("sequence ", row.id, " reads a block that is not there at position ", p));
      return;
    }
    const Slot& slot = pool.slots[block * block_size_ + p % block_size_];
    // In a window the chain begins with what the first slot says.
    const bool begins = p == first && first > 0;
    state = begins ? slot.state : Extend(state, slot.token, p);
    if (slot.token < 0 || slot.state != state || slot.long_rope != row.sequence->long_rope) {
      Violate(absl::StrCat("sequence ", row.id, " of request ", row.sequence->request_id,
                           " reads a foreign or stale KV slot at position ", p));
      return;
    }
  }
  if (state != row.states.back()) {
    Violate(absl::StrCat("sequence ", row.id, " reads another history than it wrote"));
  }
}

void SymbolicRank::Attend(const Row& row) {
  for (size_t g = 0; g < pools_.size(); ++g) {
    const Pool& pool = pools_[g];
    // What the row's first query sees, and with it what the later ones see.
    const int64_t first = pool.window == 0 ? 0 : std::max<int64_t>(0, row.start - pool.window + 1);
    CheckSlots(pool, row.sequence->tables[g], row, first);
  }
}

void SymbolicRank::AddScore(const TokenLogprobs& score, StepResult& result) {
  result.add_logprobs(score.logprob);
  result.add_num_top(static_cast<uint32_t>(score.top.size()));
  for (const auto& [token, logprob] : score.top) {
    result.add_top_tokens(token);
    result.add_top_logprobs(logprob);
  }
}

// Position p is scored by the row that computes p - 1.
void SymbolicRank::ScorePrompt(const Row& row, StepResult& result, uint32_t& scored) {
  const DrawParams& params = row.sequence->params;
  if (params.prompt_logprobs == 0) return;
  const int64_t last = std::min<int64_t>(row.end, int64_t{params.num_prompt_tokens} - 1);
  for (int64_t p = row.start + 1; p <= last; ++p) {
    const uint64_t state = row.states[p - 1 - row.start];
    AddScore(Score(state, row.sequence->history[p], params.prompt_logprobs - 1), result);
    ++scored;
  }
}

void SymbolicRank::Sampled(const StepPlan& plan, int index, const Row& row, StepResult& result,
                           uint32_t& scored) {
  Sequence& sequence = *row.sequence;
  const uint32_t choices = plan.num_choices(index);
  if (choices == 0 || (choices > 1 && sequence.choice != 0)) {
    Violate(absl::StrCat("row ", index, " samples ", choices, " choices from choice ",
                         sequence.choice));
  }
  if (sequence.params.needs_history() && static_cast<int64_t>(sequence.history.size()) != row.end) {
    Violate(absl::StrCat("request ", sequence.request_id, " samples with a history of ",
                         sequence.history.size(), " tokens, not ", row.end));
  }
  uint64_t history_state = 0;
  for (size_t p = 0; p < sequence.history.size(); ++p) {
    history_state = Extend(history_state, sequence.history[p], static_cast<int64_t>(p));
  }
  const uint64_t state = row.states.back();
  int32_t first = -1;
  for (uint32_t c = 0; c < choices; ++c) {
    const int32_t token =
        DrawToken(sequence.params, state, history_state, row.end, sequence.choice + c);
    if (c == 0) first = token;
    result.add_sampled(token);
    if (!sequence.params.logprobs) continue;
    AddScore(Score(state, std::max(token, 0), sequence.params.top_logprobs), result);
    ++scored;
  }
  if (sequence.params.needs_history()) sequence.history.push_back(std::max(first, 0));
  last_samples_[index] = {row.id, choices, first};
}

// Factors change behind a number of tokens. Who samples has computed all of its tokens.
void SymbolicRank::CheckRope(const Row& row, bool samples) {
  const bool is_beyond = rope_switch_ > 0 && row.end > rope_switch_;
  const bool is_long = row.sequence->long_rope;
  if (is_long ? !is_beyond && samples : is_beyond) {
    Violate(absl::StrCat("sequence ", row.id, " turns by the ", is_long ? "long" : "short",
                         " factors at ", row.end, " tokens, the border is ", rope_switch_));
  }
}

StepResult SymbolicRank::Execute(const StepPlan& plan) {
  step_ = plan.step();
  StepResult result;
  const auto refuse = [&result] {
    result.Clear();
    result.mutable_error()->set_code(static_cast<int>(absl::StatusCode::kInvalidArgument));
    result.mutable_error()->set_message("the plan does not hold together");
    return result;
  };
  if (!CheckColumns(plan)) return refuse();
  CopyBlocks(plan);
  std::vector<bool> is_reset;
  ApplyResets(plan, is_reset);
  std::vector<Row> rows(static_cast<size_t>(plan.sequence_size()));
  std::set<uint64_t> seen;
  int next_block = 0;
  int next_token = 0;
  int next_source = 0;
  for (int i = 0; i < plan.sequence_size(); ++i) {
    Row& row = rows[i];
    row.id = plan.sequence(i);
    row.start = plan.start_position(i);
    row.end = row.start + plan.num_new_tokens(i);
    const auto found = sequences_.find(row.id);
    if (!seen.insert(row.id).second || finished_.contains(row.id) || found == sequences_.end() ||
        found->second.num_computed != row.start || row.end > context_max_) {
      Violate(absl::StrCat("row ", i, " names sequence ", row.id,
                           " twice, unreset, finished, or at "
                           "position ",
                           row.start, " instead of where it is"));
      return refuse();
    }
    row.sequence = &found->second;
    CheckRope(row, plan.output(i) == cluster::v1::OUTPUT_SAMPLE);
    if (!TakeBlocks(plan, i, next_block)) return refuse();
    if (!TakeTokens(plan, i, next_token, next_source, row)) return refuse();
    if (is_reset[i]) {
      const bool sampled = plan.token_source(i) == cluster::v1::TOKENS_LAST_SAMPLED;
      CheckHistory(*row.sequence, row.end - (sampled ? 1 : 0));
    }
  }
  for (Row& row : rows) Write(row);
  last_samples_.assign(rows.size(), {});
  bool any_scored = false;
  for (int i = 0; i < plan.sequence_size(); ++i) {
    Row& row = rows[i];
    // After all rows have written, as on a real rank.
    if (row.states.size() == row.tokens.size()) Attend(row);
    uint32_t scored = 0;
    ScorePrompt(row, result, scored);
    const bool samples = plan.output(i) == cluster::v1::OUTPUT_SAMPLE;
    if (samples) Sampled(plan, i, row, result, scored);
    result.add_num_sampled(samples ? plan.num_choices(i) : 0);
    result.add_num_scored(scored);
    any_scored |= scored > 0;
    row.sequence->num_computed = row.end;
  }
  if (!any_scored) result.clear_num_scored();
  for (uint64_t id : plan.finished_sequences()) {
    sequences_.erase(id);
    finished_.insert(id);
  }
  return result;
}

}  // namespace tessera::simulation
