// Everything the scheduler knows, and the steps that events and Schedule are made of. Private to
// the scheduler*.cc files of this folder; engine thread only.

#ifndef TESSERA_COORDINATOR_SCHED_SCHEDULER_STATE_H_
#define TESSERA_COORDINATOR_SCHED_SCHEDULER_STATE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <memory_resource>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/sched/fair_queue.h"
#include "coordinator/sched/group_state.h"
#include "coordinator/sched/outlook.h"
#include "coordinator/sched/scheduler.h"
#include "coordinator/sched/sequence.h"
#include "tessera/cluster/v1/step.pb.h"

namespace tessera {

// What is known of one model, over all its groups.
struct ModelState {
  explicit ModelState(absl::Duration ageing) : queue(ageing) {}

  FairQueue queue;
  OutputLengths lengths;
  // Grows whenever somebody gives room back; while it stands still, whoever did not fit still does
  // not.
  uint64_t room_version = 1;
  std::pair<uint64_t, uint32_t> blocked;  // ticket and choice of who did not fit
  uint64_t blocked_version = 0;           // at this version
  ModelStats counted;                     // the counters of it
  double recent_tokens = 0;               // decayed sums over answered steps
  double recent_ends = 0;
  double recent_seconds = 0;
};

struct Scheduler::State {
  explicit State(SchedulerOptions options_in);

  // Events (scheduler_events.cc).
  void OnNewRequest(const NewRequest& event, absl::Time now);
  void OnCancel(const Cancel& event);
  void OnTextStop(const TextStop& event);
  void OnTextEnd(const TextEnd& event);
  void OnGroupReady(const GroupReady& event, absl::Time now);
  void OnGroupLost(const GroupLost& event);
  void OnSetTenants(const SetTenants& event);

  // What comes back from a step (scheduler_commit.cc).
  void OnStepDone(const StepDone& event, absl::Time now);
  void CommitRows(GroupState& group, const PlanInFlight& plan, const RowShares& shares,
                  const cluster::v1::StepResult& result);
  // The leading rows to which nothing but their next token happens; how many these are.
  size_t CommitPlainRows(const GroupState& group, absl::Span<const PlannedRow> rows,
                         const RowShares& shares, const int32_t* sampled);
  // Any row. `next_score` gives its scores one after the other, those of the prompt first.
  template <typename NextScore>
  void CommitRow(GroupState& group, const PlannedRow& row, const RowShares& shares,
                 const int32_t* sampled, NextScore next_score);
  void CommitComputed(GroupState& group, Sequence& sequence, int64_t tokens);
  // The whole blocks of the first `tokens` tokens can be found from now on.
  void NameContent(Sequence& sequence, int64_t tokens);
  template <typename NextScore>
  void CommitPromptScores(const PlannedRow& row, bool is_over, NextScore next_score);
  // `tokens`: one per choice that came out of the row; `logprobs` likewise, or empty.
  void CommitSampled(GroupState& group, Sequence& sequence, const int32_t* tokens,
                     std::vector<std::vector<TokenLogprobs>> logprobs);
  // The choices but the first become sequences of their own behind their first token.
  void Fork(GroupState& group, Sequence& parent, const int32_t* tokens,
            std::vector<std::vector<TokenLogprobs>>& logprobs);
  // The token extends its choice, and may end it.
  void CommitToken(Sequence& sequence, int32_t token);
  void CommitScored(Sequence& sequence, int32_t token, std::vector<TokenLogprobs> logprobs);
  // Takes out of `running` what does not run any more.
  static void SweepRunning(GroupState& group);

  // How choices and requests end and groups are lost (scheduler_state.cc).
  // A waiting or running sequence has its last token; its blocks are given back.
  void EndChoice(Sequence& sequence, FinishReason reason, int64_t output_tokens);
  // The end of a choice is final; finishes the request with the last of them.
  void Confirm(Sequence& sequence);
  // The terminal update. Sequences that still wait or run end at once.
  void Finish(RequestState& request, FinishReason reason, absl::Status error);
  // Gives back blocks and load; SweepRunning takes it out of `running`. The first `kept_tokens`
  // tokens count.
  void LeaveGroup(Sequence& sequence, int64_t kept_tokens);
  // A preempted sequence whose rows are all answered waits again.
  void Requeue(Sequence& sequence);
  // Forgets what a group knew of it.
  static void ResetSequence(Sequence& sequence);
  // What ran there waits again, with its tokens and its place in the queue.
  void LoseGroup(GroupState& group);
  // A row of the sequence's request was answered or lost.
  void ReleaseRow(Sequence& sequence);
  RequestState* Find(RequestId request) const;
  SequencePtr NewSequence(RequestState& request, uint32_t choice);
  // The group if it is ready in that epoch, else null: the news is stale.
  GroupState* FindCurrent(uint32_t group, uint64_t epoch);
  ModelState& ModelOf(const Sequence& sequence) {
    return *models[sequence.request->request->model];
  }

  // Who used how much (scheduler_accounts.cc).
  // What the rows of an answered plan have to share; learns from it how long steps take.
  static RowShares ShareStep(GroupState& group, const PlanInFlight& plan, const StepDone& event);
  // A row of so many tokens behind those that the sequence has computed is answered.
  void ChargeRow(Sequence& sequence, int64_t tokens, double seconds);
  static void ChargeOverrun(Sequence& sequence, double seconds);
  // A stop string ends the choice so many tokens before its last one.
  void CutOff(Sequence& sequence, int64_t tokens);
  // Moves what its rows have cost to its request and tenant.
  static void SettleWork(Sequence& sequence, bool is_final);

  // Who may run, and where (scheduler_admission.cc).
  absl::Status CheckRequest(const Request& request) const;
  void ExpireDeadlines(absl::Time now);
  void Admit(uint32_t model, absl::Time now);
  bool MissesDeadline(const Sequence& sequence, absl::Time now) const;
  struct Place {
    GroupState* group = nullptr;
    BlockManager::PrefixHit hit;
  };
  Place FindPlace(uint32_t model, Sequence& sequence) const;
  bool Fits(const GroupState& group, const Sequence& sequence,
            const BlockManager::PrefixHit& hit) const;
  bool FitsKvGroup(const GroupState& group, int kv_group, const Sequence& sequence,
                   const BlockManager::PrefixHit& hit) const;
  BlockManager::PrefixHit FindHit(const GroupState& group, Sequence& sequence) const;
  void Enter(const Place& place, Sequence& sequence);
  // The tenant holds more of the model's KV cache than its share, or would with so many tokens
  // more.
  bool IsOverShare(uint32_t model, const TenantState& tenant, int64_t more_tokens = 0) const;
  // A waiting sequence would put its tenant over its share.
  bool Borrows(uint32_t model, const Sequence& sequence) const;
  // Whether the tokens fit an empty group of the model; with `ready_only`, one that is ready now.
  bool CanEverFit(uint32_t model, int64_t tokens, bool ready_only) const;
  bool IsKnown(uint32_t model) const;  // some group of the model was ready once
  absl::Status NeverFits(const Sequence& sequence) const;

  // Whole blocks of the sequence's tokens, named as far as asked for (scheduler_prefix.cc).
  BlockHash RootOf(const Request& request, bool long_rope) const;
  PrefixChain ChainOf(Sequence& sequence, int64_t blocks) const;

  // Taking room from others (scheduler_preemption.cc).
  // The one that is never preempted, so that somebody always gets on. Null: all leave.
  static Sequence* OldestOf(const GroupState& group);
  // Makes sequences leave until `tokens` more are free or on their way; `for_sequence` runs there.
  // False when nobody is left to take from.
  bool TakeRoom(GroupState& group, const Sequence& for_sequence, int64_t tokens, absl::Time now);
  // Takes from lower priorities and from tenants over their share what a waiting sequence needs.
  void Reclaim(uint32_t model, const Sequence& sequence, absl::Time now);
  void Leave(Sequence& sequence);
  // No new rows for it; it waits again when those in flight are answered.
  static void StepAside(Sequence& sequence);
  // Tokens of KV cache that come free when those that leave have left.
  int64_t LeavingTokens(const GroupState& group) const;

  // The next step of a group (plan_builder.cc). Nothing when nobody has anything to compute.
  bool BuildPlan(GroupState& group, absl::Time now, cluster::v1::StepPlan& plan);

  const SchedulerOptions options;

  bool draining = false;
  uint64_t next_ticket = 1;
  uint64_t next_sequence_id = 1;  // never reused, in any epoch
  std::vector<std::unique_ptr<ModelState>> models;
  std::pmr::unsynchronized_pool_resource sequence_pool;
  // Looked up, never walked.
  absl::flat_hash_map<RequestId, std::unique_ptr<RequestState>> requests;
  absl::flat_hash_map<const RequestState*, std::unique_ptr<RequestState>> finished_in_flight;
  // Of these, the ones whose last row has been answered; freed when nobody looks at rows any more.
  std::vector<std::unique_ptr<RequestState>> over;
  std::set<std::pair<absl::Time, RequestId>> deadlines;  // of requests that still compute
  std::map<uint32_t, GroupState> groups;                 // by group id
  std::vector<RequestUpdate> updates;
  std::vector<ClosedAccount> accounts;
};

}  // namespace tessera

#endif  // TESSERA_COORDINATOR_SCHED_SCHEDULER_STATE_H_
