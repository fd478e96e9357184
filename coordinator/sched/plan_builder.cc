// Choosing rows: decode first, so that running streams never wait for prompts, then prompts in
// order of admission as far as the budgets go. Packing them is in plan_columns.cc.

#include "coordinator/sched/plan_builder.h"

#include <algorithm>

#include "base/check.h"

namespace tessera {
namespace {

bool IsPlannable(const Sequence& sequence) {
  return sequence.status == SequenceStatus::kRunning && !sequence.leaving;
}

}  // namespace

PlanBuilder::PlanBuilder(Scheduler::State& state, GroupState& group, absl::Time now,
                         cluster::v1::StepPlan& plan)
    : state_(state),
      options_(state.options),
      group_(group),
      now_(now),
      plan_(plan),
      columns_(plan, static_cast<int>(group.running.size()), group.blocks->num_groups()) {
  next_.step = group.last_step + 1;
  next_.rows = std::move(group.spare_rows);
  next_.rows.resize(group.running.size());
}

int64_t PlanBuilder::Wanted(const Sequence& sequence) {
  if (!IsPlannable(sequence)) return 0;
  // All choices of a request come out of one row: nobody knows the sequences behind it yet.
  const int64_t pending = sequence.unforked ? 0 : int64_t{sequence.num_pending};
  const int64_t known = sequence.num_tokens() + pending;
  return std::min<int64_t>(known, sequence.num_computable) - sequence.num_scheduled_tokens;
}

bool PlanBuilder::Hold(Sequence& sequence, int64_t tokens, bool may_take) {
  const int64_t begin = sequence.num_scheduled_tokens;
  const int64_t end = begin + tokens;
  if (end <= sequence.num_held_tokens && !sequence.may_share) return true;
  BlockManager& blocks = *group_.blocks;
  const size_t copied = copies_.size();
  const auto extend = [&] {
    return blocks.Extend(begin, end, next_.step, sequence.tables, copies_);
  };
  while (!extend()) {
    // One block more than the missing positions, for a copy-on-write.
    const int64_t missing = end - sequence.num_held_tokens + blocks.block_size();
    if (!may_take || !state_.TakeRoom(group_, sequence, missing, now_)) return false;
    if (!IsPlannable(sequence)) return false;  // it took from itself
    if (extend()) break;
    // What was taken comes free when plans in flight have been answered.
    if (!group_.in_flight.empty()) return false;
  }
  if (copies_.size() > copied) sequence.last_plan = 0;  // the ranks need the whole table again
  sequence.has_news = true;
  sequence.may_share = false;
  const int64_t held =
      std::max<int64_t>(blocks.BlocksFor(end) * blocks.block_size(), sequence.num_held_tokens);
  sequence.tenant->held_tokens +=
      blocks.KeptTokens(held) - blocks.KeptTokens(sequence.num_held_tokens);
  sequence.num_held_tokens = static_cast<int32_t>(held);
  return true;
}

void PlanBuilder::TryDecode(Sequence& sequence) {
  if (tokens_left_ < 1 || outputs_left_ < 1) return;
  if (!Hold(sequence, 1, /*may_take=*/true)) return;
  AddRow(sequence, 1);
}

int64_t PlanBuilder::ChunkOf(const Sequence& sequence) const {
  int64_t chunk = std::min({Wanted(sequence), options_.chunk_max, tokens_left_});
  // Every scored position and every choice is a row of logits; the last token's may be both.
  if (sequence.scores_prompt) chunk = std::min(chunk, outputs_left_);
  const auto outputs = [&] {
    const bool reaches_end = sequence.num_scheduled_tokens + chunk == sequence.num_tokens();
    return sequence.NumScored(chunk) + (reaches_end ? sequence.num_slots() : 0);
  };
  if (chunk > 0 && outputs() > outputs_left_) --chunk;  // the last token in a later step
  if (chunk > 0 && outputs() > outputs_left_) return 0;
  if (decodes_ && group_.cost.known() && options_.inter_token_target < absl::InfiniteDuration()) {
    const double left = absl::ToDoubleSeconds(options_.inter_token_target) -
                        group_.cost.Predict(next_.tokens, next_.attended);
    const int64_t bearable = group_.cost.TokensWithin(left, sequence.num_scheduled_tokens, chunk);
    // Somebody's prompt gets on by a block in every step, whatever the prediction says.
    chunk = std::min(chunk, std::max(bearable, has_prefill_ ? 0 : options_.block_size));
  }
  return chunk;
}

void PlanBuilder::TryPrefill(Sequence& sequence) {
  int64_t chunk = ChunkOf(sequence);
  if (chunk <= 0) return;
  const bool may_take = &sequence == protected_;
  if (!Hold(sequence, chunk, may_take)) {
    if (!IsPlannable(sequence)) return;
    // As much as there is room for; the rest when others have ended.
    const int64_t room = sequence.num_held_tokens - sequence.num_scheduled_tokens +
                         (sequence.may_share ? 0 : group_.blocks->FreeTokens());
    chunk = std::min(chunk, room);
    if (chunk <= 0 || !Hold(sequence, chunk, /*may_take=*/false)) return;
  }
  AddRow(sequence, chunk);
  has_prefill_ = true;
}

// Blocks may run short: the oldest takes its own before the others, and leaves them their tokens.
void PlanBuilder::TryProtected() {
  protected_ = Scheduler::State::OldestOf(group_);
  if (protected_ == nullptr) return;
  decodes_ = std::any_of(group_.running.begin(), group_.running.end(), [](const Sequence* other) {
    return Wanted(*other) == 1 && !other->unforked;
  });
  const int64_t others = static_cast<int64_t>(group_.running.size()) - 1;
  tokens_left_ -= others;
  outputs_left_ -= std::min(others, outputs_left_ - protected_->num_slots());
  const int64_t outputs = outputs_left_;
  if (Wanted(*protected_) > 1 || protected_->unforked) {
    TryPrefill(*protected_);
  } else if (Wanted(*protected_) == 1) {
    TryDecode(*protected_);
  }
  tokens_left_ += others;
  outputs_left_ = options_.rows_max - (outputs - outputs_left_);
}

bool PlanBuilder::AddRows() {
  TESSERA_CHECK(group_.ready) << "group " << group_.id << " cannot take a plan";
  tokens_left_ = options_.tokens_max;
  outputs_left_ = options_.rows_max;
  std::vector<Sequence*> rest;
  const int64_t asked = static_cast<int64_t>(group_.running.size()) * group_.blocks->block_size();
  if (group_.blocks->FreeTokens() < asked) {
    TryProtected();
    // A copy: who leaves on the way goes out of `running`, and is not plannable any more.
    rest = group_.running;
  } else {
    AddNextTokens(rest);
  }
  std::vector<Sequence*> prefills;
  for (Sequence* sequence : rest) {
    const int64_t wanted = Wanted(*sequence);
    if (wanted <= 0 || sequence == protected_) continue;
    if (wanted > 1 || sequence->unforked) {
      prefills.push_back(sequence);
    } else {
      decodes_ = true;
      TryDecode(*sequence);
    }
  }
  for (Sequence* sequence : prefills) {
    if (IsPlannable(*sequence)) TryPrefill(*sequence);
  }
  return columns_.rows > 0;
}

bool Scheduler::State::BuildPlan(GroupState& group, absl::Time now, cluster::v1::StepPlan& plan) {
  PlanBuilder builder(*this, group, now, plan);
  const bool heartbeat_due =
      group.in_flight.empty() && now >= group.last_plan_time + options.heartbeat_interval;
  if (!builder.AddRows() && !heartbeat_due) return false;
  builder.Finish();
  return true;
}

}  // namespace tessera
