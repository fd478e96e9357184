"""Bugs to plant: plant(name, file, original, bug).

`original` stands exactly once in `file`, white space counts; `bug` is what stands there instead, in which MUTANT is
true while the bug is on. See plant.py for how they get into a build.
"""

POOL = "coordinator/kv/block_pool.cc"
BLOCKS = "coordinator/kv/block_manager.cc"
HASH = "coordinator/kv/prefix_hash.cc"
SCHED = "coordinator/sched/"
COMMIT = SCHED + "scheduler_commit.cc"
EVENTS = SCHED + "scheduler_events.cc"
STATE = SCHED + "scheduler_state.cc"
ADMISSION = SCHED + "scheduler_admission.cc"
PREEMPTION = SCHED + "scheduler_preemption.cc"
PREFIX = SCHED + "scheduler_prefix.cc"
SCHEDULER = SCHED + "scheduler.cc"
QUEUE = SCHED + "fair_queue.cc"
OUTLOOK = SCHED + "outlook.cc"
SEQUENCE = SCHED + "sequence.h"
SEQUENCE_CC = SCHED + "sequence.cc"
ACCOUNTS = SCHED + "scheduler_accounts.cc"
WORK = SCHED + "work.cc"
GPU_TIME = "coordinator/ledger/book/gpu_time.cc"
LEDGER = "coordinator/ledger/book/ledger.cc"
BUILDER = SCHED + "plan_builder.cc"
COLUMNS = SCHED + "plan_columns.cc"
CORE = "coordinator/cluster/cluster_core.cc"
TRACKER = "coordinator/cluster/step_tracker.cc"
MANAGER = "coordinator/cluster/group_manager.cc"

MUTANTS = []


def plant(name, file, original, bug):
    MUTANTS.append((name, file, original, bug))


# Blocks: who holds them, and until when.
plant("free-while-named", POOL, "} else if (block.last_plan > retired_plan_) {",
      "} else if (!MUTANT && block.last_plan > retired_plan_) {")
plant("last-holder-decides-the-pin", POOL, "block.last_plan = std::max(block.last_plan, last_plan);",
      "block.last_plan = MUTANT ? last_plan : std::max(block.last_plan, last_plan);")
plant("pin-ends-one-plan-early", POOL, "if (block.ref_count == 0 && block.last_plan > plan) {",
      "if (block.ref_count == 0 && block.last_plan > plan + (MUTANT ? 1 : 0)) {")
plant("taken-block-keeps-its-name", POOL, "    Forget(id);\n  }\n  blocks_[id].ref_count = 1;",
      "    if (!MUTANT) Forget(id);\n  }\n  blocks_[id].ref_count = 1;")
plant("hold-leaves-it-in-the-cached-list", POOL, "    --pinned_count_;  // Retire finds it held and drops the pin\n",
      "    if (!MUTANT) --pinned_count_;  // Retire finds it held and drops the pin\n")
plant("window-ends-one-token-early", BLOCKS, "return (position - pool.window + 1) / block_size_;",
      "return (position - pool.window + (MUTANT ? 2 : 1)) / block_size_;")
plant("shared-block-is-written", BLOCKS, "p.pool.references(table.ids[first]) > 1;",
      "p.pool.references(table.ids[first]) > (MUTANT ? 2u : 1u);")
plant("fork-forgets-the-last-block", BLOCKS,
      "for (size_t i = static_cast<size_t>(table.num_null); i < table.ids.size(); ++i) {\n"
      "      pools_[group].pool.Hold(table.ids[i]);",
      "for (size_t i = static_cast<size_t>(table.num_null); i + (MUTANT ? 1 : 0) < table.ids.size(); ++i) {\n"
      "      pools_[group].pool.Hold(table.ids[i]);")
plant("one-block-too-few", BLOCKS, "const size_t wanted = static_cast<size_t>(BlocksFor(end));",
      "const size_t wanted = static_cast<size_t>(BlocksFor(end - (MUTANT ? 1 : 0)));")
plant("window-drops-what-a-row-sees", COMMIT,
      "group.blocks->DropBehindWindow(sequence.num_computed_tokens, sequence.tables);",
      "group.blocks->DropBehindWindow(\n"
      "        MUTANT ? sequence.num_scheduled_tokens : sequence.num_computed_tokens, sequence.tables);")
plant("content-named-too-early", COMMIT, "const int64_t full = tokens / options.block_size;",
      "const int64_t full = std::min((tokens + (MUTANT ? 1 : 0)) / options.block_size,\n"
      "                                sequence.num_held_tokens / options.block_size);")

# Taking room.
plant("leaving-is-done-at-once", PREEMPTION, "  if (sequence.rows_in_flight == 0) Requeue(sequence);\n",
      "  if (MUTANT) sequence.rows_in_flight = 0;\n  if (sequence.rows_in_flight == 0) Requeue(sequence);\n")
plant("leaving-is-not-counted", PREEMPTION, "  ++sequence.group->num_leaving;\n",
      "  if (!MUTANT) ++sequence.group->num_leaving;\n")
plant("equals-take-from-each-other", PREEMPTION, "const bool is_lower = -std::get<1>(victim.key) < level;",
      "const bool is_lower = -std::get<1>(victim.key) < level + (MUTANT ? 1 : 0);")

# Prefix hits: who may have one, and of what.
plant("keys-do-not-count", HASH, "return KeyedHash(key, input.data(), input.size() * sizeof(int32_t));",
      "return KeyedHash(MUTANT ? PrefixKey{} : key, input.data(), input.size() * sizeof(int32_t));")
plant("shared-key-names-one-block-more", PREFIX, "i < num_shared ? domain.shared_key : domain.key",
      "(MUTANT ? i <= num_shared && num_shared > 0 : i < num_shared) ? domain.shared_key : domain.key")
plant("hit-is-the-whole-prompt", ADMISSION,
      "const int64_t blocks = (sequence.num_tokens() - 1) / options.block_size;",
      "const int64_t blocks = (sequence.num_tokens() - (MUTANT ? 0 : 1)) / options.block_size;")
plant("scored-prompt-begins-behind-a-hit", ADMISSION,
      "const bool scores = request.request->sampling.prompt_logprobs > 0 &&",
      "const bool scores = !MUTANT && request.request->sampling.prompt_logprobs > 0 &&")
plant("cached-tokens-counted-again", ADMISSION, "if (std::exchange(request.placed, true)) return;",
      "if (std::exchange(request.placed, true) && !MUTANT) return;")

# Plans.
plant("copy-without-the-whole-table", BUILDER, "if (copies_.size() > copied) sequence.last_plan = 0;",
      "if (copies_.size() > copied && !MUTANT) sequence.last_plan = 0;")
plant("unforked-draws-pend", BUILDER, "sequence.unforked ? 0 : int64_t{sequence.num_pending}",
      "sequence.unforked && !MUTANT ? 0 : int64_t{sequence.num_pending}")
plant("room-for-outputs-not-kept", BUILDER, "if (sequence.scores_prompt) chunk = std::min(chunk, outputs_left_);",
      "if (sequence.scores_prompt && !MUTANT) chunk = std::min(chunk, outputs_left_);")
plant("others-tokens-not-kept", BUILDER, "  tokens_left_ -= others;\n",
      "  if (MUTANT) tokens_left_ += others;\n  tokens_left_ -= others;\n")
plant("source-row-of-the-same-place", COLUMNS, "columns_.source_row[columns_.sources++] = sequence.last_row;\n}",
      "columns_.source_row[columns_.sources++] = MUTANT ? static_cast<uint32_t>(columns_.rows) : sequence.last_row;\n}")
# The short way of rows to which nothing but their next token happens.
plant("short-way-forgets-its-row", COLUMNS, "    sequence.last_row = static_cast<uint32_t>(row++);\n",
      "    if (!MUTANT) sequence.last_row = static_cast<uint32_t>(row);\n    ++row;\n")
plant("short-way-keeps-news", SEQUENCE, "  const int64_t position = num_scheduled_tokens;\n  return !is_odd && num_pending == 1",
      "  const int64_t position = num_scheduled_tokens;\n"
      "  if (MUTANT && num_output() == 1 && !unforked && num_pending == 1 && last_plan + 1 == step) return true;\n"
      "  return !is_odd && num_pending == 1")
plant("short-way-computes-the-last-token", SEQUENCE, "position < num_held_tokens && position < num_computable;",
      "position < num_held_tokens && position < num_computable + (MUTANT ? 1 : 0);")
plant("short-way-needs-no-block", SEQUENCE, "position == num_tokens() &&\n         position < num_held_tokens",
      "position == num_tokens() &&\n         position < num_held_tokens + (MUTANT ? 1 : 0)")
plant("short-way-stays", SEQUENCE, "leaving | recomputes", "(leaving & !MUTANT) | recomputes")
plant("short-way-knows-two-stops", SEQUENCE, "| has_more_stops;", "| (has_more_stops & !MUTANT);")
plant("short-way-takes-failed-draws", SEQUENCE, "num_output() > 0 && token >= 0 &&",
      "num_output() > 0 && (MUTANT || token >= 0) &&")
plant("short-way-past-a-stop", SEQUENCE, "token != stops[1] && num_tokens()", "(MUTANT || token != stops[1]) && num_tokens()")
plant("short-way-past-the-length", SEQUENCE, "num_tokens() + 1 < num_tokens_max;",
      "num_tokens() + (MUTANT ? 0 : 1) < num_tokens_max;")
plant("third-stop-token-missed", SEQUENCE, "if (!has_more_stops) return false;", "if (!has_more_stops || MUTANT) return false;")

# What a row says of its sequence.
plant("every-choice-draws-as-the-first", COLUMNS, "reset.set_choice(sequence.choice);",
      "reset.set_choice(MUTANT ? 0 : sequence.choice);")
plant("history-ends-with-the-prompt", COLUMNS, "reset.mutable_history()->Add(tokens.begin(), tokens.end());",
      "reset.mutable_history()->Add(tokens.begin(),\n"
      "                               MUTANT ? tokens.begin() + sequence.num_prompt_tokens : tokens.end());")
plant("border-moves-with-a-return", COLUMNS,
      "reset.set_num_prompt_tokens(static_cast<uint32_t>(sequence.num_prompt_tokens));",
      "reset.set_num_prompt_tokens(\n"
      "      static_cast<uint32_t>(MUTANT ? sequence.num_tokens() : int64_t{sequence.num_prompt_tokens}));")
plant("forgotten-ranks-remember", STATE, "if (sequence.chosen_step > 0) group.finished_ids.push_back(sequence.id);",
      "if (sequence.chosen_step > 0 && !MUTANT) group.finished_ids.push_back(sequence.id);")

# Parameters that do not arrive.
plant("min-p-lost", COLUMNS, "to.set_min_p(from.min_p);", "to.set_min_p(MUTANT ? 0 : from.min_p);")
plant("presence-penalty-lost", COLUMNS, "to.set_presence_penalty(from.presence_penalty);",
      "to.set_presence_penalty(MUTANT ? 0 : from.presence_penalty);")
plant("min-tokens-ban-nothing", COLUMNS, "if (from.min_tokens > 0) {", "if (from.min_tokens > 0 && !MUTANT) {")
plant("allowed-tokens-lost", COLUMNS,
      "to.mutable_allowed_token_ids()->Add(from.allowed_token_ids.begin(), from.allowed_token_ids.end());",
      "if (!MUTANT)\n"
      "    to.mutable_allowed_token_ids()->Add(from.allowed_token_ids.begin(), from.allowed_token_ids.end());")

# What comes back from a step.
plant("length-one-more", COMMIT, "if (!stops && sequence.num_tokens() < sequence.num_tokens_max) {",
      "if (!stops && sequence.num_tokens() < sequence.num_tokens_max + (MUTANT ? 1 : 0)) {")
plant("stop-token-missed-in-choices", COMMIT, "const bool stops = sequence.StopsAt(token);",
      "const bool stops = sequence.StopsAt(token) && (!MUTANT || sequence.choice == 0);")
plant("samples-of-overrun-unread", COMMIT, "    CommitRow(group, rows.front(), shares, sampled,",
      "    if (MUTANT && rows.front().sequence->status != SequenceStatus::kRunning) sampled -= rows.front().num_samples;\n"
      "    CommitRow(group, rows.front(), shares, sampled,")
plant("scores-of-overrun-unread", COMMIT, "s < logprobs.size() && row.wants_logprobs;",
      "s < logprobs.size() && row.wants_logprobs && !(MUTANT && is_over);")
plant("scores-of-the-first-choice", COMMIT, "std::move(logprobs[choice])",
      "MUTANT ? std::vector<TokenLogprobs>(logprobs[0]) : std::move(logprobs[choice])")
plant("prompt-scores-come-again", COMMIT, "if (is_over || position < request.num_prompt_scored) continue;",
      "if (is_over || (!MUTANT && position < request.num_prompt_scored)) continue;")
plant("failing-logits-of-other-choices", COMMIT, "std::any_of(tokens, tokens + count,",
      "std::any_of(tokens, tokens + (MUTANT ? 1 : count),")
plant("choice-writes-on-its-siblings-block", COMMIT, "    child->may_share = true;", "    child->may_share = !MUTANT;")

# Ends.
plant("text-stop-keeps-overrun", EVENTS, "!update.tokens().empty() && update.first_index >= kept;",
      "!update.tokens().empty() && update.first_index >= kept + (MUTANT ? 1 : 0);")
plant("text-stop-drops-other-choices", EVENTS, "update.choice == event.choice &&",
      "(MUTANT || update.choice == event.choice) &&")
plant("text-stop-behind-a-length", EVENTS, "  sequence->reason = FinishReason::kStop;",
      "  if (!MUTANT) sequence->reason = FinishReason::kStop;")
plant("text-stop-counts-overrun", EVENTS, "  sequence->num_output_tokens = kept;",
      "  if (!MUTANT) sequence->num_output_tokens = kept;")
plant("waiting-cannot-be-cancelled", EVENTS,
      "if (request != nullptr) Finish(*request, event.reason, absl::OkStatus());",
      "if (request != nullptr && (!MUTANT || request->placed)) Finish(*request, event.reason, absl::OkStatus());")
plant("deadline-forgotten-with-the-first-choice", STATE, "if (all_ended) deadlines.erase(",
      "if (all_ended || MUTANT) deadlines.erase(")
plant("first-choice-gives-the-reason", STATE,
      "[](const auto& choice) { return choice->reason == FinishReason::kStop; });",
      "[&request](const auto& choice) {\n"
      "                    return choice->reason == FinishReason::kStop &&\n"
      "                           (!MUTANT || choice == request.sequences.front());\n"
      "                  });")
plant("confirmed-once-too-early", STATE,
      "if (++request.num_confirmed < request.request->sampling.num_choices) return;",
      "if (++request.num_confirmed + (MUTANT ? 1 : 0) < request.request->sampling.num_choices) return;")
plant("end-forgets-its-blocks", STATE, "  group.blocks->Release(sequence.chosen_step, sequence.tables);\n",
      "  if (MUTANT && sequence.leaving) sequence.tables.clear();\n"
      "  group.blocks->Release(sequence.chosen_step, sequence.tables);\n")
plant("deadlines-wake-nobody", SCHEDULER, "if (!state_->deadlines.empty()) next",
      "if (!state_->deadlines.empty() && !MUTANT) next")
plant("running-outlives-its-deadline", ADMISSION, "while (!deadlines.empty() && deadlines.begin()->first <= now) {",
      "while (!deadlines.empty() && deadlines.begin()->first + absl::Seconds(MUTANT ? 2 : 0) <= now) {")
plant("hopeful-are-given-up", ADMISSION,
      "group.cost.Added(static_cast<double>(tokens), pairs) <= left;",
      "group.cost.Added(static_cast<double>(tokens), pairs) <= left - (MUTANT ? 3 : 0);")

# Preemption and loss.
plant("return-with-a-pending-draw", STATE, "  sequence.num_pending = 0;", "  if (!MUTANT) sequence.num_pending = 0;")
plant("loss-keeps-tenant-tokens", STATE,
      "    tenant.held_tokens -= group.blocks->KeptTokens(sequence->num_held_tokens);\n",
      "    if (!MUTANT) tenant.held_tokens -= group.blocks->KeptTokens(sequence->num_held_tokens);\n")
plant("loss-keeps-leaving", STATE, "  group.num_leaving = 0;\n", "  if (!MUTANT) group.num_leaving = 0;\n")
plant("loss-keeps-slots", STATE, "  group.num_slots = 0;\n", "  if (!MUTANT) group.num_slots = 0;\n")

# Turns, shares, limits.
plant("newest-first", QUEUE, "Sequence& head = *waiting.begin()->second;",
      "Sequence& head = MUTANT ? *waiting.rbegin()->second : *waiting.begin()->second;")
plant("idle-time-earns", QUEUE, "tenant.used = std::max(tenant.used, std::min(least_active, most));",
      "if (!MUTANT) tenant.used = std::max(tenant.used, std::min(least_active, most));")
plant("tenants-in-order-of-arrival", QUEUE,
      "borrows(head), -LevelBelow(highest, head, now), tenant.used, head.request->ticket};",
      "borrows(head), -LevelBelow(highest, head, now), MUTANT ? 0.0 : tenant.used, head.request->ticket};")
plant("weights-count-for-nothing", QUEUE, "tenant.rate = 1 / policy.weight;",
      "tenant.rate = MUTANT ? 1 : 1 / policy.weight;")
plant("waiting-raises-nobody", QUEUE, "request.priority + static_cast<int>(age)",
      "request.priority + (MUTANT ? 0 : static_cast<int>(age))")
plant("queue-takes-one-more", ADMISSION, "if (num_waiting >= options.waiting_max) {",
      "if (num_waiting >= options.waiting_max + (MUTANT ? 1 : 0)) {")
plant("choices-take-one-place", ADMISSION,
      "if (group.num_slots + sequence.num_slots() > options.rows_max) continue;",
      "if (group.num_slots + (MUTANT ? 1 : sequence.num_slots()) > options.rows_max) continue;")
plant("who-fits-overtakes-who-does-not", ADMISSION,
      "      state.blocked_version = state.room_version;\n      break;",
      "      state.blocked_version = state.room_version;\n"
      "      if (MUTANT) {\n"
      "        state.queue.Erase(*sequence);\n"
      "        passed_over.push_back(sequence);\n"
      "        continue;\n"
      "      }\n"
      "      break;")
plant("blocked-is-never-looked-at-again", STATE, "  --tenant.num_running;\n  ++models[group.model]->room_version;",
      "  --tenant.num_running;\n  if (!MUTANT) ++models[group.model]->room_version;")
plant("outlook-counts-the-running-twice", ADMISSION, "outlook.Fits(std::max<int64_t>(held - own_held, 0),",
      "outlook.Fits(std::max<int64_t>(held - (MUTANT ? 0 : own_held), 0),")

# Groups and steps.
plant("no-heartbeat-in-time", SCHEDULER,
      "next = std::min(next, group.last_plan_time + state_->options.heartbeat_interval);",
      "next = std::min(next, group.last_plan_time + state_->options.heartbeat_interval * (MUTANT ? 3 : 1));")
plant("one-plan-too-many", SCHEDULER,
      "static_cast<int>(group.in_flight.size()) < state.options.plans_in_flight_max) {",
      "static_cast<int>(group.in_flight.size()) <\n"
      "               state.options.plans_in_flight_max + (MUTANT && state.options.plans_in_flight_max == 1 ? 1 : 0)) {")
plant("answers-of-an-earlier-term", CORE,
      "if (result.term() != manager_.options().term || result.epoch() != epoch) return;",
      "if ((!MUTANT && result.term() != manager_.options().term) || result.epoch() != epoch) return;")
plant("answers-out-of-order", TRACKER, "if (step != group.out.begin() && !std::prev(step)->has_answered[rank]) {",
      "if (!MUTANT && step != group.out.begin() && !std::prev(step)->has_answered[rank]) {")
plant("one-rank-answers-for-all", TRACKER, "if (++step->answered < group.ranks) return",
      "if (++step->answered < (MUTANT ? 1 : group.ranks)) return")
plant("queued-step-ages-from-the-start", TRACKER, "if (!group.out.empty()) StartFirst(index, now);",
      "if (!group.out.empty() && !MUTANT) StartFirst(index, now);")
plant("overdue-steps-are-waited-for", TRACKER, "if (group.out.empty() || now < group.deadline) continue;",
      "if (group.out.empty() || now < group.deadline || MUTANT) continue;")
plant("ready-without-a-step-stream", MANAGER, "if (!worker.ready || !worker.step_stream) return;",
      "if (!worker.ready || (!worker.step_stream && !MUTANT)) return;")
plant("failed-start-is-final", MANAGER,
      "if (now < group.*wait || group.*wait == absl::InfinitePast()) continue;",
      "if (MUTANT || now < group.*wait || group.*wait == absl::InfinitePast()) continue;")
plant("hanging-load-hangs-for-ever", MANAGER, "if (now - groups_[index].load_news <= kLoadSilenceMax) continue;",
      "if (MUTANT || now - groups_[index].load_news <= kLoadSilenceMax) continue;")
plant("silent-workers-are-kept", MANAGER, "if (now - worker.last_heard > limit) silent.push_back(id);",
      "if (!MUTANT && now - worker.last_heard > limit) silent.push_back(id);")
plant("lost-workers-stay-assigned", MANAGER, "    found->second.assigned = false;\n",
      "    found->second.assigned = MUTANT && found->second.rank > 0;\n")
plant("epochs-come-again", MANAGER, "  group.epoch = ++last_epoch_;\n",
      "  group.epoch = MUTANT && last_epoch_ > 0 ? last_epoch_ : ++last_epoch_;\n")

# Positions that turn by other factors.
plant("outgrown-factors-stay", SEQUENCE, "!long_rope && rope_switch > 0 && num_tokens() > rope_switch;",
      "!long_rope && rope_switch > 0 && num_tokens() > rope_switch + (MUTANT ? 1 : 0);")
plant("factors-change-a-token-early", SEQUENCE_CC, "rope_switch > 0 && num_tokens() > rope_switch);",
      "rope_switch > 0 && num_tokens() > rope_switch - (MUTANT ? 1 : 0));")
plant("short-life-computes-beyond", SEQUENCE_CC, "num_computable = std::min(num_computable, rope_switch);",
      "num_computable = std::min(num_computable, rope_switch + (MUTANT ? 1 : 0));")
plant("short-and-long-share-names", PREFIX, 'long_rope ? absl::StrCat(salt, " long rope") : salt',
      'long_rope && !MUTANT ? absl::StrCat(salt, " long rope") : salt')
plant("names-outlive-the-factors", STATE, "if (sequence.ChooseRope()) sequence.hashes.clear();",
      "if (sequence.ChooseRope() && !MUTANT) sequence.hashes.clear();")
plant("forked-choice-turns-short", COMMIT, "if (forked.leaving && forked.status == SequenceStatus::kRunning)",
      "if (!MUTANT && forked.leaving && forked.status == SequenceStatus::kRunning)")
plant("ranks-do-not-hear-of-factors", COLUMNS, "reset.set_long_rope(sequence.long_rope);",
      "reset.set_long_rope(sequence.long_rope && !MUTANT);")

# Accounts: who used which GPU-seconds.
plant("account-closed-at-the-end", STATE, "  if (request.HasRowsInFlight()) {\n    finished_in_flight",
      "  if (MUTANT) accounts.push_back({.request = request.id, .work = request.work});\n"
      "  if (request.HasRowsInFlight()) {\n    finished_in_flight")
plant("account-of-overrun-stays-open", STATE,
      "  accounts.push_back({.request = request.id, .work = request.work});\n  over.push_back",
      "  if (!MUTANT) accounts.push_back({.request = request.id, .work = request.work});\n  over.push_back")
plant("refused-has-no-account", EVENTS, "accounts.push_back({.request = request->id, .work = {}});",
      "if (!MUTANT) accounts.push_back({.request = request->id, .work = {}});")
plant("row-charged-twice", ACCOUNTS, "  const double per_token = seconds / static_cast<double>(tokens);",
      "  const double per_token = (MUTANT && begin == 0 ? 2 : 1) * seconds / static_cast<double>(tokens);")
plant("recompute-charged-to-nobody", ACCOUNTS,
      "work[WorkKind::kRecompute] = std::exchange(sequence.recompute_seconds, 0);",
      "work[WorkKind::kRecompute] = std::exchange(sequence.recompute_seconds, 0) * (MUTANT ? 0 : 1);")
plant("overrun-charged-to-the-tenant-only", ACCOUNTS,
      "  sequence.request->work[WorkKind::kOverrun] += seconds;\n",
      "  if (!MUTANT) sequence.request->work[WorkKind::kOverrun] += seconds;\n")
plant("cut-off-tokens-charged-twice", ACCOUNTS, "  sequence.decode_seconds -= seconds;\n",
      "  if (!MUTANT) sequence.decode_seconds -= seconds;\n")
plant("settled-work-stays", ACCOUNTS, "if (is_sure) work[WorkKind::kDecode] = std::exchange(sequence.decode_seconds, 0);",
      "if (is_sure) work[WorkKind::kDecode] = MUTANT && !is_final ? sequence.decode_seconds : std::exchange(sequence.decode_seconds, 0);")
plant("plain-rows-pay-no-cache", COMMIT,
      "at_position_0 + shares.per_pair * static_cast<double>(sequence.num_computed_tokens);",
      "at_position_0 + shares.per_pair * static_cast<double>(MUTANT ? 0 : sequence.num_computed_tokens);")
plant("overrun-stands-still", COMMIT, "sequence.num_computed_tokens += row.num_tokens;  // where its next row begins",
      "if (!MUTANT) sequence.num_computed_tokens += row.num_tokens;")
plant("bubble-is-work", WORK, "const uint64_t waited_ns = CollectiveNs(result) - exchange_ns;",
      "const uint64_t waited_ns = (CollectiveNs(result) - exchange_ns) * (MUTANT ? 2 : 1);")
plant("untold-time-is-forgotten", GPU_TIME, "Spent(GpuKind::kRecovery) += std::max(untold, 0.0);",
      "Spent(GpuKind::kRecovery) += MUTANT ? 0.0 : std::max(untold, 0.0);")
plant("recovery-ends-with-the-loss", GPU_TIME,
      "  Spent(GpuKind::kRecovery) += ranks_ * absl::ToDoubleSeconds(now - since_);\n  since_ = now;",
      "  if (!MUTANT) Spent(GpuKind::kRecovery) += ranks_ * absl::ToDoubleSeconds(now - since_);\n  since_ = now;")
plant("early-rank-counts-twice", GPU_TIME, "std::clamp(ToSeconds(result.idle_before_ns()), 0.0, std::max(untold, 0.0))",
      "std::clamp(ToSeconds(result.idle_before_ns()), 0.0, MUTANT ? 1e9 : std::max(untold, 0.0))")
plant("heartbeats-take-no-time", GPU_TIME, "    Spent(GpuKind::kIdleNone) += steps;\n",
      "    Spent(GpuKind::kIdleNone) += MUTANT ? 0 : steps;\n")
plant("first-epoch-was-not-loaded", GPU_TIME, "Spent(GpuKind::kLoad) += event.num_ranks *",
      "Spent(GpuKind::kLoad) += (MUTANT ? 1 : event.num_ranks) *")
plant("charges-come-again", LEDGER, "    charged = tenant.work;\n", "    if (!MUTANT) charged = tenant.work;\n")
