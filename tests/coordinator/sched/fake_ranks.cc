// Symbolic execution of plans; see fake_ranks.h.

#include "tests/coordinator/sched/fake_ranks.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/coordinator/sched/symbolic_model.h"

namespace tessera::testing {

using cluster::v1::StepPlan;
using cluster::v1::StepResult;

FakeRanks::FakeRanks(const GroupReady& ready, const SchedulerOptions& options, int num_ranks,
                     std::vector<std::string>& violations)
    : term_(options.term),
      group_(ready.group),
      epoch_(ready.epoch),
      chunk_max_(options.chunk_max),
      num_ranks_(num_ranks),
      limits_{.rows_max = options.rows_max,
              .tokens_max = options.tokens_max,
              .context_max = options.models[ready.model].context_max,
              .block_size = options.block_size,
              .vocab_size = kVocabSize,
              .num_blocks = ready.num_blocks},
      violations_(violations),
      in_flight_blocks_(ready.num_blocks.size()) {
  for (uint32_t blocks : ready.num_blocks) {
    slots_.emplace_back(static_cast<size_t>(blocks * options.block_size));
  }
}

void FakeRanks::Violate(const std::string& what) {
  violations_.push_back(
      absl::StrCat("group ", group_, " epoch ", epoch_, " step ", last_step_, ": ", what));
}

void FakeRanks::CheckIdentity(const StepPlan& plan) {
  if (plan.term() != term_ || plan.group() != group_ || plan.epoch() != epoch_) {
    Violate("the plan is for somebody else");
  }
  if (plan.step() != last_step_ + 1) Violate(absl::StrCat("step ", plan.step(), " follows"));
  if (in_flight()) Violate("a second plan while one is in flight");
  last_step_ = plan.step();
}

// What a rank cannot know: ids never come back, decode is never left out, chunks are bounded.
void FakeRanks::CheckRules(const StepPlan& plan) {
  std::set<uint64_t> expected = std::move(owes_one_);
  owes_one_.clear();
  for (uint64_t id : plan.finished_sequences()) {
    expected.erase(id);
    if (!sequences_.contains(id)) Violate(absl::StrCat("unknown sequence ", id, " finished"));
  }
  std::set<int> reset_rows;
  for (const auto& reset : plan.resets()) reset_rows.insert(static_cast<int>(reset.row()));
  for (int row = 0; row < plan.sequence_size(); ++row) {
    const uint64_t id = plan.sequence(row);
    expected.erase(id);
    if (plan.num_new_tokens(row) > chunk_max_) {
      Violate(absl::StrCat("row ", row, " computes ", plan.num_new_tokens(row), " tokens"));
    }
    if (reset_rows.contains(row) != used_ids_.insert(id).second) {
      Violate(absl::StrCat("sequence ", id, " is reset twice, never, or reused"));
    }
    if (reset_rows.contains(row) && plan.start_position(row) != 0) {
      Violate(absl::StrCat("sequence ", id, " begins at ", plan.start_position(row)));
    }
  }
  for (uint64_t id : expected)
    Violate(absl::StrCat("sequence ", id, " owes one token, has no row"));
}

// Applies resets and block columns. No block may belong to two sequences that are still alive.
void FakeRanks::TakeBlocks(const StepPlan& plan) {
  for (const auto& reset : plan.resets()) {
    const uint64_t id = plan.sequence(static_cast<int>(reset.row()));
    SequenceState& sequence = sequences_[id];
    sequence = SequenceState{};
    sequence.block_tables.resize(slots_.size());
    params_[id] = Params{reset.sampling().temperature(), reset.sampling().seed()};
    first_rows_.push_back(reset.request_id());
  }
  int next = 0;
  const int kv_groups = static_cast<int>(slots_.size());
  for (int entry = 0; entry < plan.num_new_blocks_size(); ++entry) {
    SequenceState& sequence = sequences_[plan.sequence(entry / kv_groups)];
    for (uint32_t i = 0; i < plan.num_new_blocks(entry); ++i) {
      sequence.block_tables[entry % kv_groups].push_back(
          static_cast<int32_t>(plan.block_ids(next++)));
    }
  }
  const std::set<uint64_t> finished(plan.finished_sequences().begin(),
                                    plan.finished_sequences().end());
  for (int kv_group = 0; kv_group < kv_groups; ++kv_group) {
    std::map<int32_t, uint64_t> owner;
    for (const auto& [id, sequence] : sequences_) {
      if (finished.contains(id)) continue;
      for (int32_t block : sequence.block_tables[kv_group]) {
        const auto [entry, is_new] = owner.emplace(block, id);
        if (!is_new) {
          Violate(
              absl::StrCat("block ", block, " belongs to sequences ", entry->second, " and ", id));
        }
      }
    }
    in_flight_blocks_[kv_group].clear();
    for (uint64_t id : plan.sequence()) {
      const auto& table = sequences_[id].block_tables[kv_group];
      in_flight_blocks_[kv_group].insert(table.begin(), table.end());
    }
  }
}

FakeRanks::Slot& FakeRanks::At(int kv_group, const SequenceState& sequence, int64_t position) {
  const int64_t block = sequence.block_tables[kv_group][position / limits_.block_size];
  return slots_[kv_group][block * limits_.block_size + position % limits_.block_size];
}

void FakeRanks::WriteRow(const SequenceState& sequence, int64_t start, const int32_t* tokens,
                         int64_t count) {
  for (int kv_group = 0; kv_group < static_cast<int>(slots_.size()); ++kv_group) {
    uint64_t state = start == 0 ? 0 : At(kv_group, sequence, start - 1).state;
    for (int64_t i = 0; i < count; ++i) {
      state = Extend(state, tokens[i], start + i);
      At(kv_group, sequence, start + i) = Slot{tokens[i], state};
    }
  }
}

// Reads the whole history through the block tables, in every KvGroup, and samples what comes next.
int32_t FakeRanks::Attend(uint64_t id, const SequenceState& sequence) {
  uint64_t state = 0;
  for (int kv_group = 0; kv_group < static_cast<int>(slots_.size()); ++kv_group) {
    state = 0;
    for (int64_t position = 0; position < sequence.num_computed; ++position) {
      const Slot& slot = At(kv_group, sequence, position);
      state = Extend(state, slot.token, position);
      if (slot.state != state) {
        Violate(absl::StrCat("sequence ", id, " reads a foreign or stale KV slot at position ",
                             position));
        return 0;
      }
    }
  }
  return SampleToken(state, sequence.num_computed, params_[id].temperature, params_[id].seed);
}

void FakeRanks::Submit(const StepPlan& plan) {
  CheckIdentity(plan);
  StepResult result;
  result.set_term(plan.term());
  result.set_epoch(plan.epoch());
  result.set_group(plan.group());
  result.set_step(plan.step());
  const absl::Status guard = CheckPlan(plan, limits_, sequences_);
  if (guard.ok()) {
    CheckRules(plan);
    TakeBlocks(plan);
    const int32_t* tokens = plan.tokens().data();
    for (int row = 0; row < plan.sequence_size(); ++row) {
      const uint64_t id = plan.sequence(row);
      SequenceState& sequence = sequences_[id];
      WriteRow(sequence, plan.start_position(row), tokens, plan.num_new_tokens(row));
      tokens += plan.num_new_tokens(row);
      sequence.num_computed += plan.num_new_tokens(row);
    }
    // After all rows have written, as on a real rank.
    for (int row = 0; row < plan.sequence_size(); ++row) {
      const uint64_t id = plan.sequence(row);
      const bool samples = plan.output(row) == cluster::v1::OUTPUT_SAMPLE;
      result.add_num_sampled(samples ? 1 : 0);
      if (!samples) continue;
      result.add_sampled(Attend(id, sequences_[id]));
      owes_one_.insert(id);
    }
    for (uint64_t id : plan.finished_sequences()) sequences_.erase(id);
  } else {
    Violate(std::string(guard.message()));
    result.mutable_error()->set_code(static_cast<int>(guard.code()));
    result.mutable_error()->set_message(std::string(guard.message()));
  }
  result.set_rows(static_cast<uint32_t>(plan.sequence_size()));
  result.set_tokens_computed(static_cast<uint32_t>(plan.tokens_size()));
  done_ = StepDone{.group = group_, .rank_results = {}};
  for (int rank = 0; rank < num_ranks_; ++rank) {
    result.set_rank(static_cast<uint32_t>(rank));
    done_->rank_results.push_back(result);
  }
}

StepDone FakeRanks::Finish() {
  TESSERA_CHECK(in_flight());
  for (auto& blocks : in_flight_blocks_) blocks.clear();
  return *std::exchange(done_, std::nullopt);
}

int64_t FakeRanks::NumBlocksInFlight(int kv_group) const {
  return static_cast<int64_t>(in_flight_blocks_[kv_group].size());
}

}  // namespace tessera::testing
