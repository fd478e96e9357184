"""Bugs to plant. Every entry: (name, file, kind, original text, what stands there instead).

kind "value": an expression; both are of the same type. kind "do": statements. The original must be in its file
exactly once; white space counts. See plant.py for how they get into a build.
"""

SCHED = "coordinator/sched/"
KV = "coordinator/kv/"
CLUSTER = "coordinator/cluster/"

MUTANTS = [
    # Blocks.
    ("free-while-named", KV + "block_pool.cc", "value", "(block.last_plan > retired_plan_)", "false"),
    ("forget-latest-plan", KV + "block_pool.cc", "value", "std::max(block.last_plan, last_plan)", "block.last_plan"),
    ("retire-too-much", KV + "block_pool.cc", "value", "block.ref_count == 0 && block.last_plan > plan", "false"),
    ("reuse-keeps-name", KV + "block_pool.cc", "do", "    Forget(id);\n", "    static_cast<void>(id);\n"),
    ("write-shared", KV + "block_manager.cc", "value", "p.pool.references(table.ids[first]) > 1", "false"),
    ("share-without-holding", KV + "block_manager.cc", "do", "      pools_[group].pool.Hold(table.ids[i]);\n",
     "      static_cast<void>(i);\n"),
    ("window-one-short", KV + "block_manager.cc", "value", "(position - pool.window + 1) / block_size_",
     "(position - pool.window + 1 + block_size_) / block_size_"),
    ("one-block-too-few", KV + "block_manager.cc", "value", "static_cast<size_t>(BlocksFor(end))",
     "static_cast<size_t>(BlocksFor(end - 1))"),
    # Prefix hits.
    ("hit-whole-prompt", SCHED + "scheduler_admission.cc", "value",
     "(sequence.num_tokens() - 1) / options.block_size", "sequence.num_tokens() / options.block_size"),
    ("tenants-share-keys", SCHED + "scheduler_prefix.cc", "value",
     "i < num_shared ? domain.shared_key : domain.key", "PrefixKey()"),
    # Overlap.
    ("source-row-off-by-one", SCHED + "plan_columns.cc", "value", "sequence.last_row = static_cast<uint32_t>(i)",
     "sequence.last_row = static_cast<uint32_t>(i > 0 ? i - 1 : i)"),
    ("pending-forgotten", SCHED + "plan_builder.cc", "value", "sequence.unforked ? 0 : int64_t{sequence.num_pending}",
     "int64_t{sequence.num_pending}"),
    ("overrun-committed", SCHED + "scheduler_commit.cc", "value", "sequence.status != SequenceStatus::kRunning", "false"),
    # Ends.
    ("stop-token-missed-in-choices", SCHED + "scheduler_commit.cc", "value", "sequence.StopsAt(token)",
     "sequence.choice == 0 && sequence.StopsAt(token)"),
    ("length-one-more", SCHED + "scheduler_commit.cc", "value", "sequence.num_tokens() < sequence.num_tokens_max",
     "sequence.num_tokens() <= sequence.num_tokens_max"),
    ("text-stop-keeps-overrun", SCHED + "scheduler_events.cc", "value", "update.first_index >= kept", "false"),
    ("confirm-counts-one-short", SCHED + "scheduler_state.cc", "value",
     "++request.num_confirmed < request.request->sampling.num_choices",
     "++request.num_confirmed + 1 < request.request->sampling.num_choices"),
    ("cancel-forgets-blocks", SCHED + "scheduler_state.cc", "do",
     "  group.blocks->Release(sequence.chosen_step, sequence.tables);\n", "  sequence.tables.clear();\n"),
    ("deadline-ignored-while-running", SCHED + "scheduler_admission.cc", "value",
     "!deadlines.empty() && deadlines.begin()->first <= now",
     "!deadlines.empty() && deadlines.begin()->first + absl::Seconds(2) <= now"),
    # Preemption and loss.
    ("release-pinned-by-nothing", SCHED + "scheduler_state.cc", "do",
     "  if (sequence.chosen_step > 0) group.finished_ids.push_back(sequence.id);\n",
     "  if (sequence.chosen_step > 3) group.finished_ids.push_back(sequence.id);\n"),
    ("loss-keeps-tenant-tokens", SCHED + "scheduler_state.cc", "do",
     "    tenant.held_tokens -= sequence->num_held_tokens;\n", "    static_cast<void>(tenant);\n"),
    ("prompt-scores-twice", SCHED + "scheduler_commit.cc", "value", "is_over || position < request.num_prompt_scored",
     "is_over"),
    # Turns.
    ("newest-first", SCHED + "fair_queue.cc", "value", "*waiting.begin()->second", "*waiting.rbegin()->second"),
    ("never-charged", SCHED + "scheduler_commit.cc", "do", "  FairQueue::Charge(*sequence.tenant, kSampleCost);\n",
     "  static_cast<void>(kSampleCost);\n"),
    ("never-aged", SCHED + "fair_queue.cc", "value", "request.priority + static_cast<int>(age)", "request.priority"),
    # Rare meetings: what only happens when two things happen at once.
    ("text-stop-drops-other-choices", SCHED + "scheduler_events.cc", "value", "update.choice == event.choice", "true"),
    ("scores-of-overrun-unread", SCHED + "scheduler_commit.cc", "value", "s < logprobs.size() && row.wants_logprobs",
     "s < logprobs.size() && row.wants_logprobs && !is_over"),
    ("scores-of-the-first-choice", SCHED + "scheduler_commit.cc", "value", "std::move(logprobs[choice])",
     "std::vector<TokenLogprobs>(logprobs[0])"),
    ("loss-keeps-leaving", SCHED + "scheduler_state.cc", "do", "  group.num_leaving = 0;\n",
     "  static_cast<void>(group);\n"),
    ("loss-keeps-pending", SCHED + "scheduler_state.cc", "do", "  sequence.num_pending = 0;\n",
     "  static_cast<void>(sequence);\n"),
    # Parameters that do not arrive.
    ("min-p-lost", SCHED + "plan_columns.cc", "do", "  to.set_min_p(from.min_p);\n", "  to.set_min_p(0);\n"),
    ("presence-penalty-lost", SCHED + "plan_columns.cc", "do",
     "  to.set_presence_penalty(from.presence_penalty);\n", "  to.set_presence_penalty(0);\n"),
    ("min-tokens-lost", SCHED + "plan_columns.cc", "do", "  to.set_min_tokens(from.min_tokens);\n",
     "  to.set_min_tokens(0);\n"),
    ("top-k-lost", SCHED + "plan_columns.cc", "do", "  to.set_top_k(from.top_k);\n", "  to.set_top_k(0);\n"),
    # Group life.
    ("answers-out-of-order", CLUSTER + "step_tracker.cc", "value",
     "step != group.out.begin() && !std::prev(step)->has_answered[rank]", "false"),
]
