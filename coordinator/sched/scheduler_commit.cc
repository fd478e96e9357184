// What comes back from a step: computed tokens, names for full blocks, new tokens, their log
// probabilities, choices that part. Rows of sequences that have ended meanwhile are overrun: they
// count as computed and nobody ever sees them.

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "coordinator/sched/scheduler_state.h"

namespace tessera {
namespace {

using cluster::v1::StepResult;

constexpr double kRecentDecay = 0.999;  // per step, of the rates of tokens and ends

bool HasError(const StepDone& event) {
  return std::any_of(event.rank_results.begin(), event.rank_results.end(),
                     [](const StepResult& result) { return result.has_error(); });
}

// Whether the columns of the result are the answer to these rows.
bool AnswersRows(const StepResult& result, const std::vector<PlannedRow>& rows) {
  const int num_rows = static_cast<int>(rows.size());
  if (result.num_sampled_size() != num_rows) return false;
  int64_t sampled = 0;
  int64_t scored = 0;
  bool any_scored = false;
  for (int i = 0; i < num_rows; ++i) {
    const PlannedRow& row = rows[static_cast<size_t>(i)];
    if (row.is_plain && result.num_sampled(i) == 1) {
      ++sampled;
      continue;
    }
    if (result.num_sampled(i) != static_cast<uint32_t>(row.num_samples)) return false;
    sampled += row.num_samples;
    const int64_t expected = row.num_scored + (row.wants_logprobs ? row.num_samples : 0);
    any_scored = any_scored || expected > 0;
    scored += expected;
    if (expected > 0 && (result.num_scored_size() != num_rows ||
                         result.num_scored(i) != static_cast<uint32_t>(expected))) {
      return false;
    }
  }
  if (result.sampled_size() != sampled) return false;
  if (!any_scored) return result.logprobs_size() == 0;
  int64_t top = 0;
  for (uint32_t count : result.num_top()) top += count;
  return result.logprobs_size() == scored && result.num_top_size() == scored &&
         result.top_tokens_size() == top && result.top_logprobs_size() == top;
}

// Reads the scored columns of a result in order.
class ScoreReader {
 public:
  explicit ScoreReader(const StepResult& result) : result_(result) {}

  TokenLogprobs Next() {
    TokenLogprobs scored;
    scored.logprob = result_.logprobs(next_);
    const int count = static_cast<int>(result_.num_top(next_++));
    for (int i = 0; i < count; ++i, ++next_top_) {
      scored.top.emplace_back(result_.top_tokens(next_top_), result_.top_logprobs(next_top_));
    }
    return scored;
  }

 private:
  const StepResult& result_;
  int next_ = 0;
  int next_top_ = 0;
};

// What plain rows cost their tenants, added up while they come from the same one.
class RowCharges {
 public:
  ~RowCharges() { Settle(); }

  void Add(TenantState& tenant, int64_t held_tokens) {
    if (&tenant != tenant_) Settle();
    tenant_ = &tenant;
    held_tokens_ += held_tokens;
    ++samples_;
  }

 private:
  void Settle() {
    if (tenant_ == nullptr) return;
    FairQueue::Charge(*tenant_, static_cast<double>(held_tokens_) * kHeldTokenCost +
                                    static_cast<double>(samples_) * kSampleCost);
    held_tokens_ = samples_ = 0;
  }

  TenantState* tenant_ = nullptr;
  int64_t held_tokens_ = 0;
  int64_t samples_ = 0;
};

}  // namespace

void Scheduler::State::OnStepDone(const StepDone& event, absl::Time now) {
  if (event.rank_results.empty()) return;
  const StepResult& result = event.rank_results.front();
  GroupState* group = FindCurrent(event.group, result.epoch());
  if (group == nullptr || result.term() != options.term || group->in_flight.empty() ||
      result.step() != group->in_flight.front().step) {
    return;
  }
  // The cluster reports such a group lost too; until then it must not get another plan.
  if (HasError(event) || !AnswersRows(result, group->in_flight.front().rows)) {
    LoseGroup(*group);
    return;
  }
  PlanInFlight plan = std::move(group->in_flight.front());
  group->in_flight.pop_front();
  group->last_progress = now;
  // Guesses change as answers grow, and pinned blocks come free: look again at who did not fit.
  constexpr uint64_t kLookAgainSteps = 16;
  if (++group->steps % kLookAgainSteps == 0 || group->blocks->PinnedTokens() > 0) {
    ++models[group->model]->room_version;
  }
  group->blocks->Retire(plan.step);
  const double seconds = static_cast<double>(result.step_ns()) * 1e-9;
  if (!plan.rows.empty() && seconds > 0) {
    ModelState& model = *models[group->model];
    model.recent_tokens = kRecentDecay * model.recent_tokens + plan.tokens;
    model.recent_seconds = kRecentDecay * model.recent_seconds + seconds;
    model.recent_ends *= kRecentDecay;
  }
  CommitRows(*group, plan, ShareStep(*group, plan, event), result);
  group->spare_rows = std::move(plan.rows);
}

void Scheduler::State::CommitRows(GroupState& group, const PlanInFlight& plan,
                                  const RowShares& shares, const StepResult& result) {
  ModelStats& counted = models[group.model]->counted;
  ScoreReader scores(result);
  const int32_t* sampled = result.sampled().data();
  updates.reserve(updates.size() + plan.rows.size());
  absl::Span<const PlannedRow> rows = plan.rows;
  while (true) {
    const size_t plain = CommitPlainRows(group, rows, shares, sampled);
    rows.remove_prefix(plain);
    sampled += plain;
    if (rows.empty()) break;
    CommitRow(group, rows.front(), shares, sampled, [&] { return scores.Next(); });
    sampled += rows.front().num_samples;
    rows.remove_prefix(1);
  }
  counted.computed_tokens += static_cast<uint64_t>(plan.tokens);
  SweepRunning(group);
  over.clear();
}

size_t Scheduler::State::CommitPlainRows(const GroupState& group, absl::Span<const PlannedRow> rows,
                                         const RowShares& shares, const int32_t* sampled) {
  if (group.has_windows) return 0;  // blocks may be given back in any row
  RowCharges charges;
  const double at_position_0 = shares.Of(0, 1);
  size_t i = 0;
  for (; i < rows.size() && rows[i].is_plain; ++i) {
    Prefetch(*rows[std::min(i + kPrefetchAhead, rows.size() - 1)].sequence, /*all=*/true);
    Sequence& sequence = *rows[i].sequence;
    const int32_t token = sampled[i];
    if (!sequence.GrowsOnlyBy(token)) break;
    charges.Add(*sequence.tenant, sequence.num_held_tokens);
    updates.emplace_back(sequence.request_id, sequence.choice,
                         static_cast<uint32_t>(sequence.num_output()), token);
    sequence.decode_seconds +=
        at_position_0 + shares.per_pair * static_cast<double>(sequence.num_computed_tokens);
    // One token more is computed and one more is known: the group is owed as many as before.
    ++sequence.num_computed_tokens;
    sequence.Append(token);
    --sequence.num_pending;
    --sequence.rows_in_flight;
  }
  return i;
}

template <typename NextScore>
void Scheduler::State::CommitRow(GroupState& group, const PlannedRow& row, const RowShares& shares,
                                 const int32_t* sampled, NextScore next_score) {
  Sequence& sequence = *row.sequence;
  const bool is_over = sequence.status != SequenceStatus::kRunning;
  ChargeRow(sequence, row.num_tokens, shares.Of(sequence.num_computed_tokens, row.num_tokens));
  if (is_over) {
    models[group.model]->counted.overrun_tokens += static_cast<uint64_t>(row.num_tokens);
    sequence.num_computed_tokens += row.num_tokens;  // where its next row begins
  } else {
    CommitComputed(group, sequence, row.num_tokens);
  }
  if (row.num_scored > 0) CommitPromptScores(row, is_over, next_score);
  if (row.num_samples > 0) {
    std::vector<std::vector<TokenLogprobs>> logprobs(static_cast<size_t>(row.num_samples));
    for (size_t s = 0; s < logprobs.size() && row.wants_logprobs; ++s) {
      logprobs[s].push_back(next_score());
    }
    if (!is_over) {
      --sequence.num_pending;
      CommitSampled(group, sequence, sampled, std::move(logprobs));
    }
  }
  ReleaseRow(sequence);
  if (sequence.leaving && sequence.status == SequenceStatus::kRunning &&
      sequence.rows_in_flight == 0) {
    Requeue(sequence);
  }
}

void Scheduler::State::CommitComputed(GroupState& group, Sequence& sequence, int64_t tokens) {
  const int64_t before = sequence.num_computed_tokens;
  sequence.num_computed_tokens += tokens;
  group.owed_tokens -= tokens;
  if (sequence.recomputes) {
    const int64_t again = std::min(sequence.num_computed_tokens, sequence.num_computed_before);
    models[group.model]->counted.recomputed_tokens +=
        static_cast<uint64_t>(std::max<int64_t>(again - before, 0));
    sequence.recomputes = sequence.num_computed_tokens < sequence.num_computed_before;
  }
  FairQueue::Charge(
      *sequence.tenant,
      static_cast<double>(group.blocks->KeptTokens(sequence.num_held_tokens)) * kHeldTokenCost);
  if (sequence.num_computed_tokens >= sequence.content_due) {
    NameContent(sequence, sequence.num_computed_tokens);
  }
  // Rows in flight begin behind what is computed now: nobody sees these blocks any more.
  if (group.has_windows) {
    group.blocks->DropBehindWindow(sequence.num_computed_tokens, sequence.tables);
  }
}

void Scheduler::State::NameContent(Sequence& sequence, int64_t tokens) {
  GroupState& group = *sequence.group;
  const int64_t full = tokens / options.block_size;
  if (full > sequence.num_content_blocks) {
    if (sequence.request->caches) {
      group.blocks->SetContent(ChainOf(sequence, full), sequence.num_content_blocks, full,
                               sequence.tables);
    }
    sequence.num_content_blocks = full;
  }
  const int64_t next = (sequence.num_content_blocks + 1) * options.block_size;
  // Others may begin with the same prompt at any time. An answer is first read back in the next
  // turn of its conversation, so its blocks are named when it leaves, unless a window drops them.
  const bool at_once = next <= sequence.num_prompt_tokens || group.has_windows;
  sequence.content_due = at_once ? next : std::numeric_limits<int64_t>::max();
  // The row behind which it may have outgrown its factors is looked at, too.
  if (sequence.rope_switch > 0 && !sequence.long_rope) {
    sequence.content_due = std::min(sequence.content_due, int64_t{sequence.rope_switch});
  }
}

template <typename NextScore>
void Scheduler::State::CommitPromptScores(const PlannedRow& row, bool is_over,
                                          NextScore next_score) {
  RequestState& request = *row.sequence->request;
  // Computed already: the row's last token is the last one behind which it has scored.
  int64_t position = row.sequence->num_computed_tokens - row.num_tokens + 1;
  RequestUpdate& update = updates.emplace_back();
  update.request = request.id;
  RequestUpdate::Details& details = update.details.Make();
  details.first_prompt_index = static_cast<uint32_t>(request.num_prompt_scored);
  details.first_scheduled = request.first_scheduled;
  for (int32_t i = 0; i < row.num_scored; ++i, ++position) {
    TokenLogprobs scored = next_score();
    // What an earlier life has told is not told again.
    if (is_over || position < request.num_prompt_scored) continue;
    details.prompt_logprobs.push_back(std::move(scored));
    ++request.num_prompt_scored;
  }
  if (details.prompt_logprobs.empty()) updates.pop_back();
}

void Scheduler::State::CommitSampled(GroupState& group, Sequence& sequence, const int32_t* tokens,
                                     std::vector<std::vector<TokenLogprobs>> logprobs) {
  RequestState& request = *sequence.request;
  const int64_t count = sequence.num_slots();
  if (std::any_of(tokens, tokens + count, [](int32_t token) { return token < 0; })) {
    Finish(
        request, FinishReason::kError,
        absl::InternalError(absl::StrCat("no token could be sampled at output position ",
                                         sequence.num_output(), "; the logits were not finite")));
    return;
  }
  if (sequence.unforked) Fork(group, sequence, tokens, logprobs);
  CommitScored(sequence, tokens[0], std::move(logprobs[0]));
}

void Scheduler::State::Fork(GroupState& group, Sequence& parent, const int32_t* tokens,
                            std::vector<std::vector<TokenLogprobs>>& logprobs) {
  RequestState& request = *parent.request;
  const uint32_t choices = request.request->sampling.num_choices;
  parent.unforked = false;
  parent.may_share = true;
  for (uint32_t choice = 1; choice < choices; ++choice) {
    SequencePtr child = NewSequence(request, choice);
    child->status = SequenceStatus::kRunning;
    child->may_share = true;
    child->num_computed_tokens = parent.num_computed_tokens;
    child->num_scheduled_tokens = parent.num_computed_tokens;
    child->num_held_tokens = parent.num_held_tokens;
    child->num_content_blocks = parent.num_content_blocks;
    child->hashes = parent.hashes;
    child->group = &group;
    child->id = next_sequence_id++;
    group.blocks->Share(parent.tables, child->tables);
    group.running.push_back(child.get());
    group.owed_tokens += child->num_owed_tokens();
    request.tenant.held_tokens += group.blocks->KeptTokens(child->num_held_tokens);
    ++request.tenant.num_running;
    request.sequences.push_back(std::move(child));
    Sequence& forked = *request.sequences.back();
    CommitScored(forked, tokens[choice], std::move(logprobs[choice]));
    if (forked.leaving && forked.status == SequenceStatus::kRunning) Requeue(forked);
  }
}

void Scheduler::State::CommitToken(Sequence& sequence, int32_t token) {
  const int64_t index = sequence.num_output();
  sequence.Append(token);
  ++sequence.group->owed_tokens;
  FairQueue::Charge(*sequence.tenant, kSampleCost);
  RequestUpdate& update = updates.emplace_back(sequence.request_id, sequence.choice,
                                               static_cast<uint32_t>(index), token);
  if (index == 0) update.details.Make().first_scheduled = sequence.request->first_scheduled;
  const bool stops = sequence.StopsAt(token);
  if (!stops && sequence.num_tokens() < sequence.num_tokens_max) {
    if (sequence.OutgrowsRope() && !sequence.leaving) StepAside(sequence);
    return;
  }
  update.ended = true;
  update.reason = stops ? FinishReason::kStop : FinishReason::kLength;
  EndChoice(sequence, update.reason, index + 1);
  if (sequence.request->request->sampling.has_stop_strings) {
    sequence.awaits_text = true;
  } else {
    Confirm(sequence);
  }
}

void Scheduler::State::CommitScored(Sequence& sequence, int32_t token,
                                    std::vector<TokenLogprobs> logprobs) {
  // Its update comes next, and the end of the request, if it has one, in the same or behind it.
  const size_t place = updates.size();
  CommitToken(sequence, token);
  if (!logprobs.empty()) updates[place].details.Make().logprobs = std::move(logprobs);
}

}  // namespace tessera
