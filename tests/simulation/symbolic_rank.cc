// What a plan says, taken apart and checked; see symbolic_rank.h. The step itself is in
// symbolic_rank_step.cc.

#include "tests/simulation/symbolic_rank.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace tessera::simulation {
namespace {

using cluster::v1::SequenceReset;
using cluster::v1::StepPlan;

constexpr uint32_t kNullBlockId = 0xffffffff;

}  // namespace

SymbolicRank::SymbolicRank(const cluster::v1::Assign& assign, const SchedulerModel& model,
                           const TrueToken& true_token, Violations& violations)
    : epoch_(assign.epoch()),
      group_(assign.group()),
      rank_(assign.rank()),
      block_size_(assign.block_size()),
      rows_max_(assign.rows_max()),
      tokens_max_(assign.tokens_max()),
      context_max_(assign.context_max()),
      rope_switch_(model.rope_switch),
      true_token_(true_token),
      violations_(violations) {
  for (int i = 0; i < assign.num_blocks_size(); ++i) {
    const KvGroup& kv_group = model.kv_groups.at(i);
    const bool has_window = kv_group.kind == KvGroup::Kind::kWindow;
    Pool& pool = pools_.emplace_back();
    pool.num_blocks = assign.num_blocks(i);
    pool.window = has_window ? kv_group.window : 0;
    pool.slots.resize(static_cast<size_t>(pool.num_blocks * block_size_));
  }
}

void SymbolicRank::Violate(const std::string& what) {
  violations_.Report(Checker::kRank, absl::StrCat("group ", group_, " rank ", rank_, " epoch ",
                                                  epoch_, " step ", step_, ": ", what));
}

bool SymbolicRank::CheckColumns(const StepPlan& plan) {
  const int rows = plan.sequence_size();
  const int groups = static_cast<int>(pools_.size());
  const auto wrong = [&](const char* column, int size, int wanted) {
    if (size == wanted) return false;
    Violate(absl::StrCat(column, " has ", size, " entries, not ", wanted));
    return true;
  };
  if (wrong("num_new_tokens", plan.num_new_tokens_size(), rows) ||
      wrong("start_position", plan.start_position_size(), rows) ||
      wrong("output", plan.output_size(), rows) ||
      wrong("num_choices", plan.num_choices_size(), rows) ||
      wrong("token_source", plan.token_source_size(), rows) ||
      wrong("num_new_blocks", plan.num_new_blocks_size(), rows * groups)) {
    return false;
  }
  int sampled = 0;
  int64_t tokens = 0;
  int64_t explicit_tokens = 0;
  for (int row = 0; row < rows; ++row) {
    tokens += plan.num_new_tokens(row);
    const bool last = plan.token_source(row) == cluster::v1::TOKENS_LAST_SAMPLED;
    sampled += last ? 1 : 0;
    explicit_tokens += last ? 0 : plan.num_new_tokens(row);
    if (plan.num_new_tokens(row) == 0) Violate(absl::StrCat("row ", row, " computes nothing"));
    if (last && plan.num_new_tokens(row) != 1) {
      Violate(absl::StrCat("row ", row, " takes ", plan.num_new_tokens(row), " sampled tokens"));
      return false;
    }
  }
  int64_t blocks = 0;
  for (uint32_t n : plan.num_new_blocks()) blocks += n;
  if (rows > rows_max_) Violate(absl::StrCat(rows, " rows, at most ", rows_max_));
  if (tokens > tokens_max_) Violate(absl::StrCat(tokens, " tokens, at most ", tokens_max_));
  return !wrong("tokens", plan.tokens_size(), static_cast<int>(explicit_tokens)) &&
         !wrong("block_ids", plan.block_ids_size(), static_cast<int>(blocks)) &&
         !wrong("source_step", plan.source_step_size(), sampled) &&
         !wrong("source_row", plan.source_row_size(), sampled);
}

void SymbolicRank::CopyBlocks(const StepPlan& plan) {
  for (const cluster::v1::BlockCopy& copy : plan.copies()) {
    if (copy.kv_group() >= pools_.size() ||
        copy.from_block() >= pools_[copy.kv_group()].num_blocks ||
        copy.to_block() >= pools_[copy.kv_group()].num_blocks ||
        copy.from_block() == copy.to_block()) {
      Violate(absl::StrCat("copies block ", copy.from_block(), " to ", copy.to_block(),
                           " of KvGroup ", copy.kv_group()));
      continue;
    }
    std::vector<Slot>& slots = pools_[copy.kv_group()].slots;
    std::copy_n(slots.begin() + copy.from_block() * block_size_, block_size_,
                slots.begin() + copy.to_block() * block_size_);
  }
}

void SymbolicRank::ApplyResets(const StepPlan& plan, std::vector<bool>& is_reset) {
  is_reset.assign(static_cast<size_t>(plan.sequence_size()), false);
  for (const SequenceReset& reset : plan.resets()) {
    if (reset.row() >= is_reset.size() || is_reset[reset.row()]) {
      Violate(absl::StrCat("row ", reset.row(), " is reset twice or does not exist"));
      continue;
    }
    is_reset[reset.row()] = true;
    Sequence& sequence = sequences_[plan.sequence(static_cast<int>(reset.row()))];
    sequence = Sequence();
    sequence.request_id = reset.request_id();
    sequence.choice = reset.choice();
    sequence.long_rope = reset.long_rope();
    sequence.params = ParamsOf(reset);
    sequence.tables.resize(pools_.size());
    sequence.num_computed = plan.start_position(static_cast<int>(reset.row()));
    sequence.history.assign(reset.history().begin(), reset.history().end());
  }
}

// The first `known` entries must be there by now, and be true.
void SymbolicRank::CheckHistory(const Sequence& sequence, int64_t known) {
  if (!sequence.params.needs_history()) return;
  if (static_cast<int64_t>(sequence.history.size()) < known) {
    Violate(absl::StrCat("request ", sequence.request_id, " has a history of ",
                         sequence.history.size(), " tokens, ", known, " are known"));
    return;
  }
  for (size_t p = 0; p < sequence.history.size(); ++p) {
    const int32_t token =
        true_token_(sequence.request_id, sequence.choice, static_cast<int64_t>(p));
    if (token >= 0 && token != sequence.history[p]) {
      Violate(
          absl::StrCat("request ", sequence.request_id, " has a wrong history at position ", p));
      return;
    }
  }
}

// The row's blocks go to the end of its tables, which then hold all of its tokens.
bool SymbolicRank::TakeBlocks(const StepPlan& plan, int row, int& next_block) {
  const int groups = static_cast<int>(pools_.size());
  Sequence& sequence = sequences_.at(plan.sequence(row));
  const int64_t start = plan.start_position(row);
  const int64_t end = start + plan.num_new_tokens(row);
  bool good = true;
  for (int g = 0; g < groups; ++g) {
    const Pool& pool = pools_[g];
    std::vector<uint32_t>& table = sequence.tables[g];
    for (uint32_t i = 0; i < plan.num_new_blocks(row * groups + g); ++i) {
      const uint32_t block = plan.block_ids(next_block++);
      const int64_t block_end = static_cast<int64_t>(table.size() + 1) * block_size_;
      // No query of this row or a later one sees it.
      const bool behind = pool.window > 0 && block_end <= start - pool.window + 1;
      if (block == kNullBlockId ? !behind : block >= pool.num_blocks) {
        Violate(absl::StrCat("row ", row, " names block ", block, " of KvGroup ", g));
        good = false;
      }
      table.push_back(block);
    }
    const int64_t held = static_cast<int64_t>(table.size()) * block_size_;
    if (held < end || held >= context_max_ + block_size_) {
      Violate(absl::StrCat("row ", row, " has ", table.size(), " blocks in KvGroup ", g, " for ",
                           end, " tokens"));
      good = false;
    }
  }
  return good;
}

bool SymbolicRank::TakeTokens(const StepPlan& plan, int index, int& next_token, int& next_source,
                              Row& row) {
  if (plan.token_source(index) == cluster::v1::TOKENS_EXPLICIT) {
    for (int64_t p = row.start; p < row.end; ++p) {
      const int32_t token = plan.tokens(next_token++);
      row.tokens.push_back(token);
      const int32_t wanted = true_token_(row.sequence->request_id, row.sequence->choice, p);
      if (wanted >= 0 && token != wanted) {
        Violate(absl::StrCat("request ", row.sequence->request_id, " choice ", row.sequence->choice,
                             " is given token ", token, " at position ", p, ", true is ", wanted));
      }
    }
    return true;
  }
  const uint64_t source_step = plan.source_step(next_source);
  const uint32_t source_row = plan.source_row(next_source++);
  if (source_step + 1 != plan.step() || source_row >= last_samples_.size() ||
      last_samples_[source_row].num_choices != 1 || last_samples_[source_row].sequence != row.id) {
    Violate(absl::StrCat("row ", index, " takes its token from step ", source_step, " row ",
                         source_row, ", which has none of sequence ", row.id));
    return false;
  }
  // Without a finite logit the input is token 0; whatever comes of it is dropped.
  row.tokens.push_back(std::max(last_samples_[source_row].token, 0));
  return true;
}

}  // namespace tessera::simulation
